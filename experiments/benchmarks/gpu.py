"""The figures that only a GPU can show, within one call of ten minutes: `python -m experiments.bench --gpu`.

Programs are compiled once for each size, which takes MJX most of the time there is; so every figure has a deadline,
and one that the clock forbids is said to be skipped. What is measured is printed and written as it comes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import envs
from agents.ppo import PPO, PPOConfig
from envs.base import ALL_EPISODES
from experiments.benchmarks import workloads
from experiments.evaluation import control
from experiments.run.presets import preset

BUDGET_S = 570.0


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements. `SMALL` runs on a CPU, to test the code."""

    environments: tuple[int, ...] = (1024, 4096, 16384)
    solver: tuple[tuple[int, int], ...] = (
        (3, 5),
        (1, 4),
    )  # iterations, line search; converged: 6, 10
    training: tuple[int, ...] = (2048, 8192)
    seeds: tuple[int, ...] = (1, 4, 16)
    environments_per_seed: int = 1024
    num_steps: int = 16
    walking_environments: int = 4096
    walking_steps: int = 20_000_000
    walking_return: float = 216.0
    episodes: int = 512


SMALL = Sizes((4,), (), (), (2,), 4, 2, 4, 16, -1e9, 4)


def bench_gpu(
    sizes: Sizes = Sizes(), budget_s: float = BUDGET_S, save: Callable = lambda _: None
) -> dict[str, Any]:
    """Returns figures by name, control steps per second unless the name says otherwise; calls `save` with all so
    far."""
    begin = time.perf_counter()
    figures: dict[str, Any] = {}

    def measure(name: str, run: Callable[[], dict[str, float]], needs_s: float) -> None:
        left = budget_s - (time.perf_counter() - begin)
        if left < needs_s:
            print(f"{name:34s} skipped: {left:.0f} s left, about {needs_s:.0f} wanted", flush=True)
            return
        for key, value in run().items():
            figures[f"{name}/{key}"] = value
            print(f"{name + '/' + key:44s}{value:16,.1f}", flush=True)
        save(figures)

    measure("gpu/walk", partial(time_to_walk, sizes), 150)
    for n in sizes.environments:
        measure(f"gpu/env/{n}", partial(stepping, n, sizes.num_steps), 60)
    for n in sizes.training:
        measure(f"gpu/ppo/{n}", partial(training, n, 1, sizes.num_steps), 60)
    for seeds in sizes.seeds:
        n = sizes.environments_per_seed
        measure(f"gpu/seeds/{seeds}x{n}", partial(training, n, seeds, sizes.num_steps), 60)
    for solver in sizes.solver:
        n = sizes.environments[-1]
        name = f"gpu/env/{n}/solver_{solver[0]}_{solver[1]}"
        measure(name, partial(stepping, n, sizes.num_steps, solver), 60)
    return figures


def gpu_config(num_envs: int, num_steps: int = 16, **changes: Any) -> PPOConfig:
    """Returns the configuration of the walker's default learner, with minibatches that grow with the number of
    environments."""
    default = preset("walker", "ppo", PPOConfig)
    minibatches = max(1, min(16, num_envs * num_steps // 2048))
    return dataclasses.replace(
        default, num_envs=num_envs, num_steps=num_steps, num_minibatches=minibatches, **changes
    )


def stepping(
    num_envs: int, num_steps: int, solver: tuple[int, int] | None = None
) -> dict[str, float]:
    """Returns compile time and steps per second of the environment on the mjx engine."""
    return _timed(lambda: workloads.environment(num_envs, "mjx", num_steps, solver))


def training(num_envs: int, num_seeds: int, num_steps: int) -> dict[str, float]:
    """Returns compile time and steps per second of training on the mjx engine, all seeds together."""
    algo = PPO(gpu_config(num_envs, num_steps), envs.make("walker", backend="mjx"))
    return _timed(lambda: workloads.training(algo, num_seeds))


def time_to_walk(sizes: Sizes) -> dict[str, float]:
    """Trains one seed until its deterministic policy walks and earns `walking_return`, looking every tenth of the
    steps; compilation apart."""
    config = gpu_config(
        sizes.walking_environments, sizes.num_steps, total_steps=sizes.walking_steps
    )
    algo = PPO(config, envs.make("walker", backend="mjx"))
    keys = control.keys(0, 0, sizes.episodes)
    iterations = max(1, config.total_steps // algo.iteration_steps // 10)

    chunk = jax.jit(lambda s: jax.lax.scan(lambda s, _: algo.step(s), s, None, iterations)[0])
    look = jax.jit(lambda s: control.run_episodes(algo, s, keys, record=ALL_EPISODES))
    begin = time.perf_counter()
    state = jax.jit(algo.init)(jax.random.key(0))
    compiled = chunk.lower(state).compile(), look.lower(state).compile()
    compile_s = time.perf_counter() - begin

    train_s, walks, measures = 0.0, False, {}
    for _ in range(10):
        begin = time.perf_counter()
        state = jax.block_until_ready(compiled[0](state))
        train_s += time.perf_counter() - begin
        episodes = jax.device_get(compiled[1](state))
        report = algo.env.episode_report(episodes.states, episodes.alive, episodes.returns)
        measures = report["gait"]
        print(f"  {train_s:7.1f} s  return {measures['return']:.1f}", flush=True)
        if measures["return"] >= sizes.walking_return and measures["walks"]:
            walks = True
            break
    steps = int(state.env_steps)
    return {
        "walks": float(walks),
        "train_s": train_s,
        "compile_s": compile_s,
        "env_steps": float(steps),
        "steps_per_second": steps / train_s,
        "return": float(np.asarray(measures["return"])),
        "survival": measures["survival"],
    }


def _timed(prepare: Callable[[], Callable[[], int]], seconds: float = 3.0) -> dict[str, float]:
    """Returns compile time and rate."""
    begin = time.perf_counter()
    try:
        run = prepare()
    except jax.errors.JaxRuntimeError as error:  # the size may not fit the device's memory
        print(f"  {str(error).splitlines()[0][:100]}", flush=True)
        return {"steps_per_second": float(jnp.nan)}
    first_s = time.perf_counter() - begin
    return {"steps_per_second": workloads.rate(run, seconds), "first_call_s": first_s}
