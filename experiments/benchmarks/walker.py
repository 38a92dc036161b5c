"""Speed of the walking robot: physics alone, the environment, training."""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
from collections.abc import Sequence

from agents.ppo import PPO, PPOConfig
from experiments.benchmarks.workloads import (
    environment,
    rate,
    raw_physics,
    same_robots,
    training,
    walker,
)
from experiments.run.presets import preset

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


def bench_walker(sizes: Sequence[int], rounds: int, seconds: float) -> dict[str, float]:
    """Returns rates, in control steps per second, and their ratios to physics alone, for each number of environments of
    `sizes`, and the start-up time in seconds. `seconds`: length of one measurement."""
    figures: dict[str, float] = {}
    for num_envs in sizes:
        figures |= _at(num_envs, rounds, seconds)
    figures["walker/start_up_s"] = _start_up()
    print(f"{'import to first training step':44s}{figures['walker/start_up_s']:12.1f} s")
    return figures


def _at(num_envs: int, rounds: int, seconds: float) -> dict[str, float]:
    """Measures one number of environments, and prints a line for each workload."""
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
    """Returns the seconds from the first import to the end of the first training iteration, in a fresh process."""
    out = subprocess.run(
        [sys.executable, "-c", START_UP], check=True, capture_output=True, text=True
    )
    return float(out.stdout)
