"""The command line that `walker`, `train` and the others share.

Flags are the fields of three dataclasses, flat: the run's own, the environment's options, the algorithm's Config.
Whatever is wrong with them is one line on stderr and exit code 2, before anything is written.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from experiments.console import options
from experiments.console.display import Display
from experiments.console.exits import BAD_INPUT as BAD_INPUT
from experiments.console.exits import FAILED, INTERRUPTED, OF_HOST, fail, fail_host, leave
from experiments.console.exits import run_main as run_main
from experiments.console.flags import ImportFlag, dashed, parse_flags
from experiments.console.locks import alone
from experiments.run import checkpoints, folders, kinds, limits, schema, token_runs, tracking, trust
from experiments.run.checkpoints import DamagedCheckpointError
from experiments.run.loop import NonFiniteError, RunInterruptedError, env_steps, train
from experiments.run.presets import preset
from experiments.run.programs import Programs
from experiments.run.spec import (
    Domain,
    Spec,
    algorithm,
    algorithm_name,
    env_factory,
    execute,
    full_name,
    is_env_of,
    make_env,
    read_run,
    refuse_task,
    short_name,
)
from experiments.run.summary import conclude
from experiments.run.which import WHICH, help_on_any, learners
from experiments.user_envs import load as user_env
from experiments.user_envs.preflight import require_sound

# Flags of a run that may change when it is resumed.
_FREE = ("out", "resume", "video", "track", "trust")


@dataclasses.dataclass(frozen=True)
class RunFlags:
    algo: str = "ppo"
    """the algorithm"""
    seed: int = 0
    """everything random follows from it"""
    seeds: int = 1
    """so many runs at once, with seeds SEED, SEED + 1, ..."""
    out: str | None = None
    """the run's folder; None: a new one under results/runs"""
    resume: str | None = None
    """folder of a run that was stopped, to go on with; needs no other flag"""
    video: bool = True
    """write a video of the result, where there is something to see"""
    track: tracking.Kind = "none"
    """show the metrics live in TensorBoard (files in the run's folder) or Weights & Biases, too"""
    imports: ImportFlag = ()
    """a Python file that is executed first, and registers environments; may be given several times"""
    trust: bool = False
    """with --resume: run the files that the run names, though they changed or somebody else began the run"""


def main(argv: Sequence[str], env: str | None = None, domain: Domain = "control") -> int:
    """Trains and returns the exit code. `env`: the command's own environment; None: there is a flag --env, or, in the
    domain of tokens, --task."""
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    with contextlib.ExitStack() as held:
        try:
            folder, spec, algo, flags, note = prepare(argv, env, domain)
            programs = limits.traced_programs(spec, algo)
            folder = _take(folder, spec, flags, held)
        except (ValueError, OSError, MemoryError, OverflowError) as error:
            return fail(error)
        except SystemExit as done:  # --help
            return int(done.code or 0)
        except KeyboardInterrupt:
            return INTERRUPTED
        display = Display()
        for line in (note, limits.replay_memory(algo, flags.seeds), f"run folder: {folder}"):
            if line:
                display.say(line)
        program = "tokens" if domain == "tokens" else env or "train"
        to_go_on = f"to go on: python -m experiments.{program} --resume {folders.quoted(folder)}"
        return _train(folder, spec, algo, programs, flags, display, to_go_on)


def _take(folder: Path, spec: Spec, flags: RunFlags, held: contextlib.ExitStack) -> Path:
    """The run's folder, locked until `held` ends, with its config.json.

    Raises ValueError and OSError where it cannot be had; then nothing is left behind.
    """
    if flags.resume:
        held.enter_context(alone(folder, "another process"))
        return folder
    config = {**spec.to_json(), "video": flags.video, "track": flags.track}
    config |= trust.record(config)
    if flags.out:
        folders.refuse_taken(folder, config)
    else:
        folder = folders.reserve(folder)
    held.enter_context(alone(folder, "another process"))
    try:
        folders.create(folder, config)
    except FileExistsError:
        raise  # another run's, begun since
    except OSError:
        folders.discard(folder, spec.seeds)
        raise
    return folder


def _train(
    folder: Path,
    spec: Spec,
    algo: Any,
    programs: Programs,
    flags: RunFlags,
    display: Display,
    to_go_on: str,
) -> int:
    """Trains in a folder that is this process's own, and returns the exit code."""
    try:
        track = tracking.start(flags.track, folder, spec)
        finished = train(folder, spec, algo, display, bool(flags.resume), track, programs)
        conclude(folder, spec, algo, finished, flags.video, display)
    except RunInterruptedError as stopped:
        display.close()
        display.say(f"stopped; {to_go_on}")
        code = 128 + stopped.signum
        return leave(code) if stopped.at_work else code
    except KeyboardInterrupt:
        display.close()
        display.say(f"stopped; {to_go_on}")
        return INTERRUPTED
    except NonFiniteError as error:
        display.close()
        return fail(error, FAILED)
    except OSError as error:  # a full disk, say: what was saved before is whole
        display.close()
        fail(error)
        display.say(f"when that is mended, {to_go_on}")
        return FAILED
    except (DamagedCheckpointError, folders.LostRowsError) as error:
        return fail(error)
    except Exception as error:
        display.close()
        if _learned(folder, spec, algo):
            to_go_on = f"when that is mended, {to_go_on}"
        elif not flags.resume:  # so that it can be begun again
            folders.discard(folder, spec.seeds)
            to_go_on = ""
        if not isinstance(error, OF_HOST):
            raise
        code = fail_host(error)
        if to_go_on:
            display.say(to_go_on)
        return code
    finally:
        display.close()
    return 0


def _learned(folder: Path, spec: Spec, algo: Any) -> bool:
    """Whether a checkpoint or a row is there of more than what a run begins with."""
    files = (folders.metrics_file(folder, spec.seeds, i) for i in range(spec.seeds))
    steps = [row["env_steps"] for file in files for row in folders.read_rows(file)]
    steps += checkpoints.steps(folder / "checkpoints")
    return any(n > env_steps(algo, 0) for n in steps)


def prepare(
    argv: Sequence[str], env: str | None, domain: Domain = "control"
) -> tuple[Path, Spec, Any, RunFlags, str | None]:
    """Folder, spec, algorithm, the run's flags, and a remark. Writes nothing; raises ValueError."""
    argv = _by_own_name(argv)
    first = _first_flags(argv)
    stored, kept = None, {}
    which = WHICH[domain]
    asked = getattr(first, which.flag)
    if asked is None and first.resume is None:
        asked = which.default
    given = env or (None if asked is None else which.env_name(asked))
    if first.resume is not None:
        folder = Path(first.resume)
        kept = folders.read_config(folder)
        if kept.get("domain") in {*get_args(Domain)} - {domain}:
            raise ValueError(f"{folder} is a run of {kept['domain']}, not of {domain}")
        stored = read_run(folder, first.trust)
        track = schema.Table({}, {"track": kinds.kind_of(tracking.Kind)})
        schema.require(kept, track, folder / "config.json")
        if given and not is_env_of(given, stored):
            raise ValueError(f"{folder} is a run of env {stored.env}, not {full_name(given)}")
        _refuse_another("algo", first.algo, stored, folder)
    name = stored.env if stored else full_name(given) if given else None
    algo_name = stored.algo if stored else first.algo or which.algo
    if name is None:
        if {"-h", "--help"} & set(argv):
            help_on_any(RunFlags(algo=algo_name), domain)
        raise ValueError("which environment? give --env NAME, or --env FILE.py:NAME for your own")
    run = _run_flags(stored, kept) if stored else RunFlags(algo=algo_name)
    execute(first.imports)
    if domain == "control":
        refuse_task(name, first.algo)
    flags, spec, clash = _parse(
        argv, run, name, stored, None if env else which(which.shown(name)), domain
    )
    environment = make_env(spec.env, spec.env_kwargs, domain)
    token_runs.require_trainable(spec, environment)
    if domain == "control":
        for line in require_sound(spec.env, environment):
            print(f"warning: {line}", file=sys.stderr)
    spec, rounded = limits.whole_iterations(spec, environment)
    if stored:
        _refuse_contradiction(flags, spec.config, stored.config)
    folder = Path(first.resume or flags.out or "")
    if not first.resume and not flags.out:
        folder = folders.default_folder(short_name(spec.env), spec.algo, spec.seed)
    note = "; ".join(filter(None, (clash, rounded))) or None
    return folder, spec, algorithm(spec.algo, domain)(spec.config, environment), flags, note


def _run_flags(stored: Spec, kept: dict[str, Any]) -> RunFlags:
    """The flags with which the run was begun. `kept`: its config.json; older ones lack some."""
    return RunFlags(
        algo=stored.algo,
        seed=stored.seed,
        seeds=stored.seeds,
        video=kept.get("video", True),
        track=kept.get("track", "none"),
    )


def _first_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The flags that decide which others there are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--algo", "--env", "--task", "--resume"):
        parser.add_argument(flag)
    parser.add_argument("--import", dest="imports", action="append", default=[])
    parser.add_argument("--trust", action="store_true")
    try:
        return parser.parse_known_args(list(argv))[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None


def _by_own_name(argv: Sequence[str]) -> list[str]:
    """A command line whose --algo is not an alias."""
    return [
        f"--algo={algorithm_name(word.removeprefix('--algo='))}"
        if word.startswith("--algo=")
        else algorithm_name(word)
        if before == "--algo"
        else word
        for before, word in itertools.pairwise(["", *argv])
    ]


def _parse(
    argv: Sequence[str], run: RunFlags, env: str, stored: Spec | None, which: Any, domain: Domain
) -> tuple[RunFlags, Spec, str | None]:
    """The run's flags, its spec, and a remark on flags that go by another name. `run`: flags that are not given."""
    algo = run.algo
    config_type = algorithm(algo, domain).Config
    config = stored.config if stored else preset(env, algo, config_type)
    kept = stored.env_kwargs if stored else {}
    taken = {"env", "task"} | {
        f.name for kind in (RunFlags, config_type) for f in dataclasses.fields(kind)
    }
    of_env = options.flags(env_factory(env, domain), taken, kept)
    parts = [("run", run), ("environment", of_env.default), (algo.replace("-", "_"), config)]
    if which is not None:
        parts.insert(0, ("which", which))
    arguments = dataclasses.make_dataclass("Arguments", [(k, type(v)) for k, v in parts])
    description = f"Trains {algo} on {short_name(env)}. {learners(domain)}"
    parsed = parse_flags(arguments, argv, arguments(*(v for _, v in parts)), description)
    run, env_flags, config = (getattr(parsed, name) for name, _ in parts[-3:])
    _check(run)
    imports = tuple(str(user_env.path_of(file)) for file in run.imports)
    run = dataclasses.replace(run, imports=imports)
    if stored:
        imports = stored.imports
        _refuse_contradiction(run, run, dataclasses.replace(parts[-3][1], imports=imports))
        _refuse_contradiction(run, env_flags, of_env.default)
    kwargs = {**kept, **of_env.kwargs(env_flags)}
    clash = "; ".join(
        f"--{dashed(name)} is not the environment's: its own is --{dashed(field)}"
        for field, name in of_env.renamed.items()
    )
    spec = Spec(env, kwargs, algo, config, run.seed, run.seeds, domain, imports)
    return run, spec, clash or None


def parse_run(argv: Sequence[str], env: str, algo: str, domain: Domain) -> None:
    """Raises ValueError where a command line for a new run cannot be read, without building anything."""
    which = WHICH[domain]
    _parse(argv, RunFlags(algo=algo), env, None, which(which.shown(env)), domain)


def _check(run: RunFlags) -> None:
    tracking.require(run.track)
    for name in ("out", "resume"):
        if getattr(run, name) == "":
            raise ValueError(f"--{name} is empty: the name of a folder is wanted")
    if run.trust and run.resume is None:
        raise ValueError("--trust goes with --resume: a new run executes the files you name")
    limits.require_seeds(run.seed, run.seeds)


def _refuse_another(name: str, given: str | None, stored: Spec, folder: Path) -> None:
    if given is not None and given != getattr(stored, name):
        raise ValueError(f"{folder} is a run of {name} {getattr(stored, name)}, not {given}")


def _refuse_contradiction(run: RunFlags, new: Any, old: Any) -> None:
    """A resumed run is the run it was: its flags `new` say what `old` says, field by field."""
    if run.out is not None and Path(run.out).resolve() != Path(run.resume or "").resolve():
        raise ValueError("--resume goes on in the run's own folder; leave out --out")
    for name, value in vars(new).items():
        if name == "imports" and not value:
            continue  # they are the run's own
        if name not in _FREE and value != getattr(old, name):
            value = " ".join(value) if name == "imports" else value
            raise ValueError(
                f"--{dashed(name)} {value} contradicts the run in {run.resume}, which has {getattr(old, name)}"
            )
