"""The noise of REINFORCE's gradient, in the order of its derivation; see `agents/reinforce.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from agents.core.value_losses import explained_variance
from agents.reinforce import Reinforce, ReinforceConfig, ReinforceState, targets
from envs.base import Env
from experiments.figures.canvas import BLUE, GOLD, RED
from experiments.pages.markdown import table
from experiments.run.spec import make_env
from experiments.studies import figures
from experiments.studies.gradient_noise import VARIANTS, first_episodes, gradient_noise

TITLE = "The variance of REINFORCE's gradient"
# Short iterations and small steps: the value learns only during policy updates, so there must be enough of them.
_CONFIG = ReinforceConfig(
    num_envs=8, num_steps=64, learning_rate=1e-3, learning_rate_schedule="constant"
)
_LINES = (
    (GOLD, "o", "-"),
    (RED, "s", "-"),
    (BLUE, "^", "-"),
)

Measured = dict[
    str, Any
]  # of a seed at a stage: length, explained variance, and a ratio for each variant


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs the study and returns its numbers. `quick`: small, to test the code; `say` prints a line of progress."""
    stages: tuple[int, ...]
    seeds, batches, episodes, stages = 5, 8, 256, (20, 40, 90)
    env = make_env("CartPole-v1", {})
    if quick:
        seeds, batches, episodes, stages = 2, 1, 16, (1, 2)
        env = make_env("CartPole-v1", {"max_episode_steps": 40})
    algo = Reinforce(_CONFIG, env)
    init, train = jax.jit(algo.init), jax.jit(_train, static_argnums=0)
    measure = jax.jit(_measure, static_argnums=(0, 1))
    found: list[list[Measured]] = [[] for _ in stages]
    for seed in range(seeds):
        state, done = init(jax.random.key(seed)), 0
        for measured, stage in zip(found, stages, strict=True):
            state, done = train(algo, state, jnp.asarray(stage - done)), stage
            keys = jax.random.split(jax.random.fold_in(state.key, 1), batches)
            measured.append(_ratios([measure(env, episodes, state, key) for key in keys]))
            say(f"seed {seed}, {stage * algo.iteration_steps} steps: {_said(measured[-1])}")
    return {
        "seeds": seeds,
        "episodes": batches * episodes,
        "stages": [
            {"env_steps": stage * algo.iteration_steps, "seeds": measured}
            for stage, measured in zip(stages, found, strict=True)
        ],
    }


def draw(numbers: dict[str, Any], path: Path) -> None:
    """Draws the study's figure at `path`."""
    figure = figures.empty(8, 5)
    ax = figure.subplots()
    places = np.arange(len(VARIANTS))
    for stage, (color, marker, line) in zip(numbers["stages"], _LINES, strict=False):
        ratios = _by_seed(stage)
        for seed in ratios:
            ax.plot(places, seed, line, color=color, linewidth=0.8, alpha=0.3)
        steps, length = stage["env_steps"], np.mean([seed["length"] for seed in stage["seeds"]])
        label = f"after {steps:,} steps: episodes of {length:.0f}".replace(",", " ")
        middle = np.median(ratios, axis=0)
        ax.plot(
            places, middle, line, color=color, linewidth=2, marker=marker, markersize=6, label=label
        )
    ax.set_yscale("log")
    ax.legend(frameon=False, fontsize=9)
    y = "variance / squared gradient, of one episode"
    title = f"Noise of the policy gradient on CartPole: median of {numbers['seeds']} seeds"
    figures.panel(ax, title, "estimator", y)
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    ax.set_xticks(places, list(VARIANTS))
    ax.grid(axis="x", visible=False)
    figures.save(figure, path)


def words(numbers: dict[str, Any]) -> list[str]:
    """Returns the study's lines on the page."""
    lines = [
        "Trace of the covariance divided by the squared norm of the gradient: the number of episodes after which the "
        f"error of the mean has the norm of the gradient. CartPole, {numbers['seeds']} seeds (median; lowest to "
        f"highest), {numbers['episodes']} new episodes each, the same for every estimator.",
        "",
    ]
    rows = []
    for stage in numbers["stages"]:
        length, explained = (
            np.mean([seed[name] for seed in stage["seeds"]]) for name in ("length", "explained")
        )
        cells = [
            f"{np.median(x):.1f} ({np.min(x):.1f} to {np.max(x):.1f})" for x in _by_seed(stage).T
        ]
        rows.append([stage["env_steps"], f"{length:.0f}", f"{explained:.0%}", *cells])
    head = ["environment steps", "episode length", "explained variance", *VARIANTS]
    return [
        *lines,
        *table(head, rows, str),
        "",
        "Each estimator except the discounted one has the same expectation as the previous one, up to the estimated "
        "tail of a return at the time limit. The discount changes the expectation: it reduces both gradient and noise, "
        "so their ratio may rise or fall. A learned value is a good baseline if it predicts the returns: the table "
        "has the explained variance, mean over seeds.",
    ]


def _train(algo: Reinforce, state: ReinforceState, iterations: Int[Array, ""]) -> ReinforceState:
    return jax.lax.fori_loop(0, iterations, lambda _, s: algo.step(s)[0], state)


def _measure(env: Env, episodes: int, state: ReinforceState, key: PRNGKeyArray) -> dict[str, Any]:
    """Returns variance and signal of each variant on fresh, whole episodes of the present policy, one a column."""
    start_key, rollout_key = jax.random.split(key)
    config = dataclasses.replace(_CONFIG, num_envs=episodes, num_steps=env.max_episode_steps)
    algo = Reinforce(config, env)
    collect_key, _ = jax.random.split(rollout_key)
    _, steps, _ = algo.collect(state.actor, algo.init(start_key).stream, collect_key)
    batch = first_episodes(algo.batch(state, steps))
    tail = state.mean_return / algo.reward_scale(state)
    to_go = targets(batch, tail, config).value
    noise = gradient_noise(state.params, batch, tail, evaluate=algo.policy.evaluate, config=config)
    return {
        "length": jnp.sum(batch.mask) / episodes,
        "explained": explained_variance(batch.value, to_go, batch.mask),
        "noise": noise,
    }


def _ratios(batches: list[dict[str, Any]]) -> Measured:
    """Returns variance over signal, both unbiased as means over batches; infinite where the signal is lost in the
    noise."""
    variance, signal = (
        {name: np.mean([getattr(b["noise"][name], what) for b in batches]) for name in VARIANTS}
        for what in ("variance", "signal")
    )
    return {
        "length": np.mean([b["length"] for b in batches]),
        "explained": np.mean([b["explained"] for b in batches]),
        "ratios": {
            name: variance[name] / signal[name] if signal[name] > 0 else np.inf for name in VARIANTS
        },
    }


def _by_seed(stage: dict[str, Any]) -> np.ndarray:
    """Ratios [seeds, variants]."""
    return np.array(
        [[figures.known(seed["ratios"][name]) for name in VARIANTS] for seed in stage["seeds"]]
    )


def _said(measured: Measured) -> str:
    return ", ".join(f"{name} {ratio:.1f}" for name, ratio in measured["ratios"].items())
