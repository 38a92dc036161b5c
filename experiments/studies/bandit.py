"""Exploration against exploitation on the ten-armed testbed. Sutton and Barto 2018, sections 2.3 to 2.7."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from agents.tabular.bandits import play, upper_confidence
from envs.tabular.bandit import Bandit, draw_means
from experiments.figures.canvas import BLUE, GOLD, GREY, RED, SKY
from experiments.studies import figures

TITLE = "Exploration and exploitation: the ten-armed testbed"
_WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "\u03b5 = 0.01": {"epsilon": 0.01},
    "\u03b5 = 0.1": {"epsilon": 0.1},
    "optimistic start": {"initial": 5.0, "step_size": 0.1},
    "UCB, c = 2": {"score": upper_confidence},
}
_LINES = dict(
    zip(
        _WAYS,
        (
            (GREY, "-"),
            (SKY, "-"),
            (BLUE, "-"),
            (GOLD, "-"),
            (RED, "-"),
        ),
        strict=True,
    )
)


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs the study and returns its numbers. `quick`: small, to test the code; `say` prints a line of progress."""
    bandits, pulls = (50, 100) if quick else (2000, 1000)
    means_key, play_key = jax.random.split(jax.random.key(0))
    means = draw_means(means_key, bandits)
    keys = jax.random.split(play_key, bandits)
    ways = {}
    for name, settings in _WAYS.items():
        say(f"{name}: {bandits} bandits, {pulls} pulls each")
        ways[name] = _averages(means, keys, pulls, settings)
    return {"bandits": bandits, "pulls": pulls, "oracle": means.max(-1).mean(), "ways": ways}


def draw(numbers: dict[str, Any], path: Path) -> None:
    """Draws the study's figure at `path`."""
    figure = figures.empty(11.5, 4.4)
    left, right = figure.subplots(1, 2)
    for name, curve in numbers["ways"].items():
        color, line = _LINES[name]
        pulls = np.arange(1, len(curve["reward"]) + 1)
        left.plot(pulls, curve["reward"], line, color=color, linewidth=1.1)
        right.plot(
            pulls, 100 * np.array(curve["optimal"]), line, color=color, linewidth=1.4, label=name
        )
    oracle = numbers["oracle"]
    figures.level(left, oracle, f"always the best arm: {oracle:.2f}", 0.45)
    left.set_ylim(0, 1.12 * oracle)
    right.set_ylim(0, 100)
    right.legend(frameon=False, fontsize=9, loc="upper left", ncols=2)
    figures.panel(left, "Reward", "pulls (per bandit)", "mean reward of a pull")
    figures.panel(right, "Best arm", "pulls (per bandit)", "pulls of the best arm (%)")
    figures.save(figure, path)


def words(numbers: dict[str, Any]) -> list[str]:
    """Returns the study's lines on the page."""
    tenth = numbers["pulls"] // 10
    late = [
        f"{name}: {np.mean(curve['reward'][-tenth:]):.2f} and {np.mean(curve['optimal'][-tenth:]):.0%}"
        for name, curve in numbers["ways"].items()
    ]
    return [
        f"{numbers['bandits']} bandits, {numbers['pulls']} pulls each; rewards have a standard deviation of 1. The "
        f"best arm has a mean reward of {numbers['oracle']:.2f}. Over the last {tenth} pulls, the mean reward and "
        f"the share of the best arm were {'; '.join(late)}.",
        "",
        "The greedy policy locks onto an arm with high early rewards. Epsilon-greedy exploration identifies the best "
        "arm eventually, but its cost is permanent. UCB and optimistic initial values explore uncertain arms first, "
        "and then stop. Sutton and Barto 2018, sections 2.3 to 2.7.",
    ]


def _averages(
    means: Float[Array, "bandits arms"],
    keys: Key[Array, " bandits"],
    pulls: int,
    settings: dict[str, Any],
) -> dict[str, Float[Array, " pulls"]]:
    """Returns, over bandits, the mean reward and the share of the best arm at each pull."""

    def one(means: Array, key: Array) -> tuple[Array, Array]:
        rewards, arms = play(Bandit(means=means), key, pulls, **settings)
        return rewards, arms == jnp.argmax(means)

    rewards, optimal = jax.jit(jax.vmap(one))(means, keys)
    return {"reward": rewards.mean(0), "optimal": optimal.mean(0)}
