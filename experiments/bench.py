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
(`experiments/benchmarks/learners.py`, which says what is not equal). Rivals come with the extra `rivals`, or live in
another environment, whose interpreter `--rivals-python` names; one that is not there is left out.

With `--tokens`: writing with a cache against writing without, and learning to sort
(`experiments/benchmarks/tokens.py`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import tyro

from agents.ppo import PPO, PPOConfig
from experiments.benchmarks.gpu import bench_gpu
from experiments.benchmarks.learners import bench_learners
from experiments.benchmarks.rivals import against_rivals
from experiments.benchmarks.tokens import bench_tokens
from experiments.benchmarks.workloads import (
    environment,
    rate,
    raw_physics,
    same_robots,
    training,
    walker,
)
from experiments.console import outputs
from experiments.console.exits import run_main
from experiments.console.flags import parse_flags
from experiments.run.presets import preset
from experiments.run.provenance import provenance

START_UP = """
import time; begin = time.perf_counter()
import envs, jax
from agents.ppo import PPO, PPOConfig
from experiments.run.presets import preset
env = envs.make("walker")
algo = PPO(preset("walker", "ppo", PPOConfig), env)
step = jax.jit(jax.vmap(algo.step), donate_argnums=0)
state = jax.jit(jax.vmap(algo.init))(jax.random.key(0)[None])
jax.block_until_ready(step(state))
print(time.perf_counter() - begin)
"""

MODES = ("tasks", "learners", "tokens", "gpu")  # flags that each ask for another measurement


@dataclasses.dataclass(frozen=True)
class BenchFlags:
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """also write the figures to this file"""
    num_envs: tuple[int, ...] = (128, 512)
    """numbers of environments to measure at"""
    rounds: int = 5
    """times that each measurement is repeated"""
    seconds: float = 2.0
    """length of one measurement, about"""
    tasks: tuple[str, ...] = ()
    """measure these tasks against rivals instead, say HalfCheetah-v5 Hopper-v5 CartPole-v1"""
    rivals_python: Path | None = None
    """interpreter that has the rivals of --tasks or --learners (None: this one, with the extra stride-rl[rivals])"""
    learners: bool = False
    """measure training against other people's learners instead"""
    tokens: bool = False
    """measure writing and learning on tokens instead"""
    gpu: bool = False
    """measure the mjx engine on a GPU instead: environments, training, growth with environments and seeds"""


def main() -> None:
    run_main(lambda: bench(parse_flags(BenchFlags, sys.argv[1:], None, __doc__ or "")))


def bench(args: BenchFlags) -> None:
    modes = [name for name in MODES if getattr(args, name)]
    if len(modes) > 1:
        flags = " and ".join(f"--{name}" for name in modes)
        raise ValueError(f"{flags} are measured one at a time: give one of them")
    if args.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {args.rounds}")
    if args.seconds <= 0:
        raise ValueError(f"--seconds must be positive, got {args.seconds}")
    if args.rivals_python and not shutil.which(args.rivals_python):
        raise ValueError(f"--rivals-python {args.rivals_python} is no program")
    if args.json:
        outputs.check_file(args.json, _is_ours, "--json")
    if args.json and not os.access(args.json if args.json.exists() else args.json.parent, os.W_OK):
        raise ValueError(
            f"--json {args.json} cannot be written"
        )  # better now than in a few minutes
    if args.gpu:
        if jax.default_backend() == "cpu":
            raise ValueError("--gpu: JAX finds no GPU here (install the extra: stride-rl[cuda])")
        bench_gpu(save=partial(_save, args.json))
        return
    if args.tokens:
        _save(args.json, bench_tokens(args.rounds, args.seconds))
        return
    if args.learners:
        save = partial(_save, args.json)
        bench_learners(args.rivals_python, args.rounds, args.seconds, save)
        return
    figures: dict[str, float] = {}
    if args.tasks:
        for task in args.tasks:
            figures |= against_rivals(task, args.rivals_python, args.rounds, args.seconds)
            _save(args.json, figures)
        return
    for num_envs in args.num_envs:
        figures |= _walker(num_envs, args.rounds, args.seconds)
    figures["walker/start_up_s"] = _start_up()
    print(f"{'import to first training step':44s}{figures['walker/start_up_s']:12.1f} s")
    _save(args.json, figures)


def _save(path: Path | None, figures: dict[str, float]) -> None:
    if path:
        outputs.write(path, json.dumps({**provenance(), **figures}, indent=2) + "\n")


def _is_ours(text: str) -> bool:
    """Tells from a file's text that `_save` wrote it."""
    return text.startswith('{\n  "commit": ') and '\n  "machine": {\n' in text


def _walker(num_envs: int, rounds: int, seconds: float) -> dict[str, float]:
    default = preset("walker", "ppo", PPOConfig)
    config = dataclasses.replace(default, num_envs=num_envs)
    workloads = {
        "walker/raw": raw_physics(walker("native"), num_envs),
        "walker/bound": raw_physics(walker("native"), num_envs, stripped=True),
        "walker/same": same_robots(num_envs),
        "walker/env": environment(num_envs),
        "walker/ppo": training(PPO(config, walker("native"))),
    }
    rates: dict[str, list[float]] = {name: [] for name in workloads}
    for _ in range(rounds):
        for name, run in workloads.items():
            rates[name].append(rate(run, seconds))
    figures = {}
    for name, values in rates.items():
        if num_envs == default.num_envs:
            figures[name] = statistics.median(values)
        figures[f"{name}/{num_envs}"] = statistics.median(values)
        shown = []
        for of in ("raw", "bound"):
            ratios = [a / b for a, b in zip(values, rates[f"walker/{of}"], strict=True)]
            figures[f"{name}/{num_envs}/of_{of}"] = statistics.median(ratios)
            spread = f"({min(ratios):.2f}-{max(ratios):.2f})"
            shown.append(f"{statistics.median(ratios):6.2f} of {of} {spread}")
        speed = f"{statistics.median(values):15,.0f} steps/s"
        print(f"{name:16s}{num_envs:6d} environments{speed}{'  '.join(shown)}", flush=True)
    return figures


def _start_up() -> float:
    """Seconds from the first import to the end of the first training iteration, in a fresh process."""
    out = subprocess.run(
        [sys.executable, "-c", START_UP], check=True, capture_output=True, text=True
    )
    return float(out.stdout)


if __name__ == "__main__":
    main()
