"""Conversion between command lines and specs: reads flags into a spec, and writes the flags that repeat a run."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.console import options
from experiments.console.flags import ImportFlag, dashed, parse_flags
from experiments.evaluation import best_of
from experiments.run import inputs, limits, models, rewards, tracking
from experiments.run.presets import preset
from experiments.run.spec import (
    LAYOUT,
    TOKENS,
    Domain,
    Spec,
    algorithm,
    algorithm_name,
    env_factory,
    short_name,
)
from experiments.run.which import WHICH, learners
from experiments.user_envs import load

_JOINING = ("coordinator", "process_id", "num_processes")
_FREE = ("out", "resume", "video", "track", "trust", "time_rollout", "compile_cache", "address")


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """Flags of every run."""

    algo: str = "ppo"
    """the algorithm: a name, or FILE.py:NAME for a class of your own"""
    seed: int = 0
    """seed of all random numbers"""
    seeds: int = 1
    """number of seeds trained at once: SEED, SEED + 1, ..."""
    quick: bool = False
    """settings for a result in the shortest time, in place of the best: of ppo on walker"""
    out: str | None = None
    """the run's folder; None: a new one under results/runs"""
    resume: str | None = None
    """resume the run in this folder; takes no other flag"""
    video: bool = True
    """write a video of the trained policy, if the environment can be rendered"""
    dataset: str | None = None
    """name of a dataset of recorded episodes (python -m experiments.datasets list): what bc, awr, iql and their like
    learn from, and what fills the replay buffer of sac, td3 and dqn at first"""
    start: str | None = None
    """folder of a run whose networks this one begins with, with a replay buffer: sac from sac or cql, td3 from td3 or
    td3-bc"""
    track: tracking.Kind = "none"
    """also show the metrics live in TensorBoard (files in the run's folder) or Weights & Biases"""
    devices: int = 1
    """devices that share the environments, or responses; on-policy learners"""
    actors: int = 0
    """processes that act while this one learns, each with a share of the environments (needs the extra ray); 0: none"""
    sync: bool = False
    """actors wait for the learner's newest parameters, as one process would act (with --actors)"""
    address: str | None = None
    """HOST:PORT of a Ray cluster to which the actors go; None: this machine (with --actors)"""
    coordinator: str | None = None
    """HOST:PORT where process 0 listens, in a run of several processes, whose devices --devices counts together"""
    process_id: int | None = None
    """number of this process, from 0 (with --coordinator); process 0 writes, the others only compute"""
    num_processes: int | None = None
    """number of processes (with --coordinator)"""
    imports: ImportFlag = ()
    """a Python file to execute first; it may register environments and algorithms; may be given several times"""
    trust: bool = False
    """with --resume: execute the files that the run names, even if they changed or another user began the run"""
    time_rollout: bool = False
    """time rollout and update apart, where a learner can; compiles a further program"""
    compile_cache: bool = True
    """keep compiled programs in the user's cache folder, for the next start"""


@dataclasses.dataclass(frozen=True)
class TokenRunFlags(RunFlags):
    """A further flag of runs on token tasks."""

    best_of: int = 1
    """at the end, also draw so many answers to each of 512 held-out prompts, and let the reward pick one (with --reward
    model:DIR and the like): the share of right ones, by the verifier, is best_of_N in summary.json"""


def flags_of(domain: Domain) -> type[RunFlags]:
    """Returns the class of a run's own flags."""
    return TokenRunFlags if domain == "tokens" else RunFlags


def run_flags(stored: Spec, kept: dict[str, Any]) -> RunFlags:
    """Returns the flags with which a run was begun. `kept`: its config.json; older versions lack some."""
    flags = flags_of(stored.domain)(
        algo=stored.algo,
        seed=stored.seed,
        seeds=stored.seeds,
        devices=stored.devices,
        actors=stored.actors,
        sync=stored.sync,
        dataset=stored.dataset.id if stored.dataset else None,
        start=stored.start,
        video=kept.get("video", True),
        track=kept.get("track", "none"),
    )
    if isinstance(flags, TokenRunFlags):
        return dataclasses.replace(flags, best_of=stored.best_of)
    return flags


def first_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the flags that decide which other flags there are. Raises ValueError for those without a value."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--algo", "--env", "--task", "--resume", "--dataset"):
        parser.add_argument(flag)
    for flag, kind in (("--coordinator", str), ("--process-id", int), ("--num-processes", int)):
        parser.add_argument(flag, type=kind)
    parser.add_argument("--import", dest="imports", action="append", default=[])
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--quick", action=argparse.BooleanOptionalAction, default=False)
    try:
        return parser.parse_known_args(list(argv))[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None


def by_own_name(argv: Sequence[str]) -> list[str]:
    """Returns a command line whose --algo is no alias, and `--import FILE.py:NAME --algo NAME` for --algo
    FILE.py:NAME."""
    words, files = [], []
    for before, word in itertools.pairwise(["", *argv]):
        flag = "--algo=" if word.startswith("--algo=") else ""
        name = word.removeprefix(flag)
        if flag or before == "--algo":
            if load.is_file(name):
                files += ["--import", name]
                name = load.name_in(name)
            name = algorithm_name(name)
        words.append(flag + name)
    return [*files, *words]


def parse(
    argv: Sequence[str],
    run: RunFlags,
    env: str,
    stored: Spec | None,
    which: Any,
    domain: Domain,
    recorded: Mapping[str, Any] | None = None,
) -> tuple[RunFlags, Spec, str | None]:
    """Returns the run's flags, its spec, and a remark on flags that go by another name, or None.

    Args:
      run: values of flags that are not given.
      recorded: the environment's options with which a dataset was recorded; None: its own defaults.

    Raises ValueError for bad input.
    """
    reward, given = None, models.Folders()
    if domain == "tokens":
        argv, reward = rewards.split_flag(argv)
        argv, given = models.split_flags(argv)
        given = models.of_resumed(given, stored) if stored else given
    algo = run.algo
    config_type = algorithm(algo, domain).Config
    quick = first_flags(argv).quick
    config = stored.config if stored else preset(env, algo, config_type, quick)
    if given.model or given.adapter:
        config = models.with_sizes(config, given)
    kept = stored.env_kwargs if stored else dict(recorded or {})
    if given.model is not None and not stored:
        kept |= models.task_options(env_factory(env, domain), Path(given.model))
    taken = {"env", "task"} | {
        f.name for kind in (type(run), config_type) for f in dataclasses.fields(kind)
    }
    of_env = options.flags(env_factory(env, domain), taken, kept)
    group = re.sub(r"\W", "_", algo.replace("+", "_plus"))  # a field's name: reinforce++ is none
    parts = [("run", run), ("environment", of_env.default), (group, config)]
    if which is not None:
        parts.insert(0, ("which", which))
    arguments = dataclasses.make_dataclass("Arguments", [(k, type(v)) for k, v in parts])
    description = f"Trains {algo} on {short_name(env)}. {learners(domain)}"
    if domain == "tokens":
        description += f" {models.HELP}"
    parsed = parse_flags(arguments, argv, arguments(*(v for _, v in parts)), description)
    run, env_flags, config = (getattr(parsed, name) for name, _ in parts[-3:])
    _check(run)
    config = inputs.with_absolute_paths(config)
    if domain == "tokens":
        models.refuse_other_sizes(config, given)
    imports = tuple(map(load.absolute, run.imports))
    run = dataclasses.replace(run, imports=imports)
    if stored:
        imports = stored.imports
        refuse_contradiction(run, run, dataclasses.replace(parts[-3][1], imports=imports))
        refuse_contradiction(run, env_flags, of_env.default)
        if reward not in (None, stored.reward):
            raise ValueError(
                f"--reward {reward} contradicts the run in {run.resume}, which has {stored.reward}"
            )
        reward = stored.reward
        models.refuse_others(given, stored, run.resume)
    samples = _best_of(run, reward)
    kwargs = {**kept, **of_env.kwargs(env_flags)}
    clash = "; ".join(
        f"--{dashed(name)} is not the environment's: its own is --{dashed(field)}"
        for field, name in of_env.renamed.items()
    )
    layout = {name: getattr(run, name) for name in LAYOUT}
    parts_of = env, kwargs, algo, config, run.seed, run.seeds, domain, imports, reward, given.model
    spec = Spec(*parts_of, samples, **layout)
    start = str(Path(run.start).absolute()) if run.start is not None else None
    facts = stored.dataset if stored else None
    spec = dataclasses.replace(spec, start=start, dataset=facts, adapter=given.adapter)
    return run, spec, clash or None


def parse_run(argv: Sequence[str], env: str, algo: str, domain: Domain) -> None:
    """Raises ValueError where a command line for a new run cannot be read, without building anything."""
    which = WHICH[domain]
    parse(argv, flags_of(domain)(algo=algo), env, None, which(which.shown(env)), domain)


def _best_of(run: RunFlags, reward: str | None) -> int:
    """The flag `--best-of`, checked; 1 where there is none."""
    n = run.best_of if isinstance(run, TokenRunFlags) else 1
    best_of.require(n)
    if n > 1 and reward is None:
        raise ValueError(f"--best-of {n} picks by a learned reward: give --reward model:DIR, too")
    return n


def _check(run: RunFlags) -> None:
    tracking.require(run.track)
    for name in ("out", "resume", "start", "dataset"):
        if getattr(run, name) == "":
            what = "a dataset" if name == "dataset" else "a folder"
            raise ValueError(f"--{name} is empty: the name of {what} is wanted")
    if run.trust and run.resume is None:
        raise ValueError("--trust goes with --resume: a new run executes the files you name")
    limits.require_seeds(run.seed, run.seeds)


def refuse_another(name: str, given: str | None, stored: Spec, folder: Path) -> None:
    """Raises ValueError where `given` is not the value of the stored run's field `name`; None is not given."""
    if given is not None and given != getattr(stored, name):
        raise ValueError(f"{folder} is a run of {name} {getattr(stored, name)}, not {given}")


def refuse_contradiction(run: Any, new: Any, old: Any) -> None:
    """Raises ValueError where a flag `new` of a resumed run differs from its value `old`."""
    if run.out is not None and Path(run.out).resolve() != Path(run.resume or "").resolve():
        raise ValueError("--resume continues in the run's own folder; leave out --out")
    for name, value in vars(new).items():
        if name == "imports" and not value:
            continue  # they are the run's own
        if name not in (*_FREE, *_JOINING) and value != getattr(old, name):
            value = " ".join(value) if name == "imports" else value
            raise ValueError(
                f"--{dashed(name)} {value} contradicts the run in {run.resume}, which has {getattr(old, name)}"
            )


RESERVED = {"env", "total_steps"} | {field.name for field in dataclasses.fields(TokenRunFlags)}


def program(domain: Domain) -> str:
    """Returns the name of the module that trains in a domain."""
    return "experiments.tokens" if domain == "tokens" else "experiments.train"


def environment_flag(env: str, domain: Domain) -> list[str]:
    """Returns the words that name the environment to `program`."""
    return ["--task", env.removeprefix(TOKENS)] if domain == "tokens" else ["--env", env]


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Returns values as on a command line: {"learning_rate": 0.1, "verbose": False, "sizes": (8, 8)}."""
    words: list[str] = []
    for name, value in values.items():
        dashed = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{dashed}" if value else f"--no-{dashed}")
            continue
        parts = value if isinstance(value, list | tuple) else [value]
        words += [f"--{dashed}", *map(str, parts)]
    return words
