"""Speed, as ratios measured in one run: `python -m experiments.bench`.

Physics should dominate. `walker/raw` is physics alone: C MuJoCo through `mujoco.rollout`, random torques, every robot
reset to standing after 40 control steps. `walker/bound` is the same without MuJoCo's clock (envs/process.py) and with
the optimised copy of the model (envs/physics/optimised.py), as our engine steps: nothing that steps this robot can be
faster. `walker/same` is the environment under jit (observations, rewards, ends) on the same robots: its distance from
the bound is overhead. `walker/env` has resets as well: it resets robots as soon as they fall, and standing robots,
which have contacts, cost more physics than fallen ones. `walker/ppo` is training with the default configuration, as
the training loop runs it. Each is measured at equal numbers of environments, in turn and several times over; rates
are medians in control steps per second, ratios are medians of the ratios of neighbouring measurements, so that a
machine that slows down slows all of them. In the JSON, `walker/env` is the rate with the default configuration's
number of environments, `walker/env/128` that with 128, `walker/env/128/of_raw` its ratio to `walker/raw/128`.

With `--tasks`, other tasks are measured against rivals at 1024 environments: `HalfCheetah-v5/here` is the environment
under jit, `HalfCheetah-v5/raw` and `HalfCheetah-v5/bound` its C physics alone on every core, as above,
`HalfCheetah-v5/sync` Gymnasium's SyncVectorEnv, `HalfCheetah-v5/envpool` EnvPool, `CartPole-v1/gymnax` gymnax.
`HalfCheetah-v5/of_envpool` is how many times faster ours is.

With `--learners`: training against Stable-Baselines3, SBX and Rejax at equal networks, batches and numbers of updates
(`experiments/benchmarks/learners.py` lists what is not equal). Rivals come with the extra `rivals`, or from another
environment, whose interpreter `--rivals-python` names; a rival that is not installed is left out.

With `--actors`: durations, bytes and idle shares of a run whose actors are processes of their own, and a model of its
cost (`experiments/benchmarks/actors.py`).

With `--tokens`: writing with a cache against writing without, and learning to sort
(`experiments/benchmarks/tokens.py`); with `--before DIR` learning to sort against another commit; with
`--rivals-python` writing and GRPO against TRL (`experiments/benchmarks/trl.py`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from experiments.actors.cluster import require_ray
from experiments.benchmarks.actors import bench_actors
from experiments.benchmarks.gpu import bench_gpu
from experiments.benchmarks.learners import bench_learners
from experiments.benchmarks.rivals import against_rivals
from experiments.benchmarks.tokens import bench_tokens
from experiments.benchmarks.trl import bench_trl
from experiments.benchmarks.walker import bench_walker
from experiments.console import outputs
from experiments.console.exits import run_main
from experiments.console.flags import parse_flags
from experiments.run.provenance import provenance

MODES = (
    "tasks",
    "learners",
    "tokens",
    "gpu",
    "actors",
)  # flags that each ask for another measurement


@dataclasses.dataclass(frozen=True)
class BenchFlags:
    """Flags of `python -m experiments.bench`."""

    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """also write the measurements to this file"""
    num_envs: tuple[int, ...] = (128, 512)
    """numbers of environments to measure at"""
    rounds: int = 5
    """repetitions of each measurement"""
    seconds: float = 2.0
    """length of one measurement, approximately"""
    tasks: tuple[str, ...] = ()
    """compare the stepping of these tasks with other libraries instead, for example HalfCheetah-v5 Hopper-v5
    CartPole-v1"""
    rivals_python: Path | None = None
    """interpreter that has the rivals of --tasks or --learners (None: this one, with the extra stride-rl[rivals]); with
    --tokens: one that has TRL, against which writing and GRPO are measured on the same weights and prompts"""
    learners: bool = False
    """compare training with learners of other libraries instead"""
    tokens: bool = False
    """measure generation and training on tokens instead"""
    before: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """with --tokens: measure training only, in turn with another checkout of this project, such as a git worktree of an
    older commit"""
    actors: bool = False
    """measure training with actors in processes of their own instead (needs the extra ray)"""
    gpu: bool = False
    """measure the mjx engine on a GPU instead: stepping, training, scaling with environments and seeds"""


def main() -> None:
    run_main(lambda: bench(parse_flags(BenchFlags, sys.argv[1:], None, __doc__ or "")))


def bench(args: BenchFlags) -> None:
    """Measures what the flags ask for, prints the figures and writes them to `--json`. Raises ValueError for bad input,
    before anything is measured."""
    _check(args)
    if args.gpu:
        bench_gpu(save=partial(_save, args.json))
        return
    if args.actors:
        bench_actors(max(args.seconds, 5.0), save=partial(_save, args.json))
        return
    if args.tokens:
        _save(args.json, _tokens(args))
        return
    if args.learners:
        save = partial(_save, args.json)
        bench_learners(args.rivals_python, args.rounds, args.seconds, save)
        return
    if args.tasks:
        figures: dict[str, float] = {}
        for task in args.tasks:
            figures |= against_rivals(task, args.rivals_python, args.rounds, args.seconds)
            _save(args.json, figures)
        return
    _save(args.json, bench_walker(args.num_envs, args.rounds, args.seconds))


def _tokens(args: BenchFlags) -> dict[str, Any]:
    if args.rivals_python:
        return bench_trl(args.rivals_python, args.rounds, args.seconds)
    return bench_tokens(args.rounds, args.seconds, args.before)


def _check(args: BenchFlags) -> None:
    modes = [name for name in MODES if getattr(args, name)]
    if len(modes) > 1:
        flags = " and ".join(f"--{name}" for name in modes)
        raise ValueError(f"{flags} are measured one at a time: give one of them")
    if args.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {args.rounds}")
    if args.seconds <= 0:
        raise ValueError(f"--seconds must be positive, got {args.seconds}")
    if args.before and not args.tokens:
        raise ValueError("--before goes with --tokens")
    if args.before and args.rivals_python:
        raise ValueError(
            "--before and --rivals-python are measured one at a time: give one of them"
        )
    if args.before and not args.before.is_dir():
        raise ValueError(f"--before {args.before} is no folder")
    if args.rivals_python and not shutil.which(args.rivals_python):
        raise ValueError(f"--rivals-python {args.rivals_python} is no program")
    if args.gpu and jax.default_backend() == "cpu":
        raise ValueError("--gpu: JAX finds no GPU here (install the extra: stride-rl[cuda])")
    if args.actors:
        require_ray()
    if args.json:
        outputs.check_file(args.json, _is_ours, "--json")
        if not os.access(args.json if args.json.exists() else args.json.parent, os.W_OK):
            raise ValueError(f"--json {args.json} cannot be written")


def _save(path: Path | None, figures: dict[str, float]) -> None:
    if path:
        outputs.write(path, json.dumps({**provenance(), **figures}, indent=2) + "\n")


def _is_ours(text: str) -> bool:
    """Tells from a file's text that `_save` wrote it."""
    return text.startswith('{\n  "commit": ') and '\n  "machine": {\n' in text


if __name__ == "__main__":
    main()
