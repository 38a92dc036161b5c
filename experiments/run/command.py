"""The command line that `walker`, `train` and the others share.

Flags are the fields of three dataclasses, flat: the run's own, the environment's options, the algorithm's Config.
Whatever is wrong with them is one line on stderr and exit code 2, before anything is written.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from experiments.actors.fleet import FleetError
from experiments.console.display import Display
from experiments.console.exits import FAILED, INTERRUPTED, OF_HOST, fail, fail_host, leave
from experiments.console.locks import exclusive_lock
from experiments.run import (
    checkpoints,
    devices,
    elsewhere,
    folders,
    inputs,
    joined,
    kinds,
    limits,
    recorded,
    schema,
    token_runs,
    tracking,
    trust,
)
from experiments.run.arguments import (
    RunFlags,
    by_own_name,
    first_flags,
    flags_of,
    parse,
    refuse_another,
    refuse_contradiction,
    run_flags,
)
from experiments.run.checkpoints import DamagedCheckpointError
from experiments.run.compile_cache import keep_programs
from experiments.run.loop import NonFiniteError, RunInterruptedError, env_steps, train
from experiments.run.programs import Programs
from experiments.run.spec import (
    Domain,
    Spec,
    algorithm,
    execute,
    full_name,
    initial_keys,
    is_env_of,
    learner,
    make_env,
    read_run,
    refuse_task,
    short_name,
)
from experiments.run.summary import conclude
from experiments.run.which import WHICH, help_on_any
from experiments.user_envs.preflight import require_sound


def main(argv: Sequence[str], env: str | None = None, domain: Domain = "control") -> int:
    """Trains and returns the exit code. `env`: the command's own environment; None: there is a flag --env, or, in the
    domain of tokens, --task."""
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    display = Display()
    with contextlib.ExitStack() as held:
        try:
            folder, spec, algo, flags, note = prepare(argv, env, domain)
            resumed = folder if flags.resume else None
            begun = recorded.take(spec, algo, flags.dataset, resumed, display.say)
            spec = begun.spec
            if warning := keep_programs(flags.compile_cache):
                print(f"warning: {warning}", file=sys.stderr)
            programs = limits.traced_programs(spec, algo, begun.data)
            programs.begin = begun.begin or programs.begin
            if spec.actors:
                elsewhere.start(spec, algo, programs, flags.address)
                held.callback(programs.close)
            if flags.process_id:
                display.say(f"process {flags.process_id} of {flags.num_processes}: it follows 0")
                joined.follow(programs, initial_keys(spec))
                return 0
            if flags.coordinator:
                held.callback(joined.Leader(programs).dismiss)
            folder = _take(folder, spec, flags, held)
        except (ValueError, OSError, MemoryError, OverflowError, FleetError) as error:
            return fail(error)
        except SystemExit as done:  # --help
            return int(done.code or 0)
        except KeyboardInterrupt:
            return INTERRUPTED
        for line in (note, limits.replay_memory(algo, flags.seeds), f"run folder: {folder}"):
            if line:
                display.say(line)
        program = "tokens" if domain == "tokens" else env or "train"
        resume_with = (
            f"resume with: python -m experiments.{program} --resume {folders.quoted(folder)}"
        )
        return _train(folder, begun, algo, programs, flags, display, resume_with)


def _take(folder: Path, spec: Spec, flags: RunFlags, held: contextlib.ExitStack) -> Path:
    """Takes the run's folder, locked until `held` ends, and writes config.json. Raises ValueError and OSError where
    that fails, and leaves nothing behind."""
    if flags.resume:
        held.enter_context(exclusive_lock(folder, "another process"))
        return folder
    config = {**spec.to_json(), "video": flags.video, "track": flags.track}
    config |= trust.record(config) | inputs.record(spec)
    if flags.out:
        folders.refuse_taken(folder, config)
    else:
        folder = folders.reserve(folder)
    held.enter_context(exclusive_lock(folder, "another process"))
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
    begun: recorded.Recorded,
    algo: Any,
    programs: Programs,
    flags: RunFlags,
    display: Display,
    resume_with: str,
) -> int:
    """Trains in a folder that is this process's own, and returns the exit code."""
    spec = begun.spec
    try:
        track = tracking.start(flags.track, folder, spec)
        finished = train(
            folder, spec, algo, display, bool(flags.resume), track, programs, flags.time_rollout
        )
        conclude(folder, spec, algo, finished, flags.video, display)
    except RunInterruptedError as stopped:
        display.close()
        display.say(f"stopped; {resume_with}")
        code = 128 + stopped.signum
        if stopped.at_work or programs.is_compiling:
            programs.close()
            leave(code)
        return code
    except KeyboardInterrupt:
        display.close()
        display.say(f"stopped; {resume_with}")
        return INTERRUPTED
    except NonFiniteError as error:
        display.close()
        return fail(error, FAILED)
    except FleetError as error:
        display.close()
        fail(error)
        display.say(f"when that is fixed, {resume_with}")
        return FAILED
    except OSError as error:  # a full disk, say: what was saved before is whole
        display.close()
        fail(error)
        display.say(f"when that is fixed, {resume_with}")
        return FAILED
    except (DamagedCheckpointError, folders.LostRowsError) as error:
        return fail(error)
    except Exception as error:
        display.close()
        if _learned(folder, spec, algo):
            resume_with = f"when that is fixed, {resume_with}"
        elif not flags.resume:  # so that it can be begun again
            folders.discard(folder, spec.seeds)
            resume_with = ""
        if not isinstance(error, OF_HOST):
            raise
        code = fail_host(error)
        if resume_with:
            display.say(resume_with)
        return code
    finally:
        display.close()
    return 0


def _learned(folder: Path, spec: Spec, algo: Any) -> bool:
    """Tells that a checkpoint or a row exists of more than the beginning of a run."""
    files = (folders.metrics_file(folder, spec.seeds, i) for i in range(spec.seeds))
    steps = [row["env_steps"] for file in files for row in folders.read_rows(file)]
    steps += checkpoints.steps(folder / "checkpoints")
    return any(n > env_steps(algo, 0) for n in steps)


def prepare(
    argv: Sequence[str], env: str | None, domain: Domain = "control"
) -> tuple[Path, Spec, Any, RunFlags, str | None]:
    """Returns folder, spec, algorithm, the run's flags, and a remark or None. Writes nothing; raises ValueError for bad
    input."""
    argv = by_own_name(argv)
    first = first_flags(argv)
    here = joined.place(first.coordinator, first.process_id, first.num_processes)
    if here and not {"-h", "--help"} & set(argv):
        joined.join(here, argv)
    stored, kept = None, {}
    which = WHICH[domain]
    asked = getattr(first, which.flag)
    if asked is None and first.resume is None:
        asked = which.default
    given = env or (None if asked is None else which.env_name(asked))
    options = None
    if domain == "control" and first.dataset and first.resume is None:
        execute(first.imports)
        of_dataset, options = recorded.env_of(first.dataset, given)
        given = given or of_dataset
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
        refuse_another("algo", first.algo, stored, folder)
    name = stored.env if stored else full_name(given) if given else None
    algo_name = stored.algo if stored else first.algo or which.algo
    execute(first.imports)
    if name is None:
        if {"-h", "--help"} & set(argv):
            help_on_any(flags_of(domain)(algo=algo_name), domain)
        raise ValueError("which environment? give --env NAME, or --env FILE.py:NAME for your own")
    run = run_flags(stored, kept) if stored else flags_of(domain)(algo=algo_name)
    if domain == "control":
        refuse_task(name, first.algo)
    flags, spec, clash = parse(
        argv, run, name, stored, None if env else which(which.shown(name)), domain, options
    )
    if domain == "control":
        kind = algorithm(spec.algo, domain)
        recorded.require_sense(kind, spec.algo, flags.dataset, flags.start)
    elif flags.dataset or flags.start:
        raise ValueError(
            "--dataset and --start are of environments; tokens learn from --pairs FILE.jsonl"
        )
    environment = make_env(spec.env, spec.env_kwargs, domain)
    token_runs.require_trainable(spec, environment)
    if domain == "control":
        for line in require_sound(spec.env, environment):
            print(f"warning: {line}", file=sys.stderr)
    spec, rounded = limits.whole_iterations(spec, environment)
    devices.require_devices(spec.devices, spec.algo, domain, spec.config)
    elsewhere.require(spec, flags.address)
    if here:
        joined.require_all_devices(here, spec.devices)
    if stored:
        refuse_contradiction(flags, spec.config, stored.config)
    folder = Path(first.resume or flags.out or "")
    if not first.resume and not flags.out:
        folder = folders.default_folder(short_name(spec.env), spec.algo, spec.seed)
    note = "; ".join(filter(None, (clash, rounded))) or None
    return folder, spec, learner(spec, environment), flags, note
