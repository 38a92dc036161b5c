"""On-policy against off-policy learning, on the edge of a cliff. Sutton and Barto 2018, example 6.6.

Q-learning learns the value of acting greedily, so it walks along the edge, and falls whenever it explores there. SARSA
learns the value of what it does, exploration included, and keeps away.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agents.tabular.dynamic_programming import epsilon_soft, evaluate_policy, value_iteration
from agents.tabular.q_learning import SARSA, ExpectedSARSA, QLearning, TabularConfig
from envs.tabular.toy_text import Grid, make_cliff_walking
from experiments.figures.canvas import BLUE, GOLD, RED
from experiments.studies import figures

TITLE = "On-policy and off-policy: the cliff"
EPSILON, START, GOAL = 0.1, 36, 47
_NUM_STEPS = 100  # of one iteration
_LEARNERS = {"Q-learning": QLearning, "SARSA": SARSA, "expected SARSA": ExpectedSARSA}
_PICTURED = ("Q-learning", "SARSA")
_LINES = {
    "Q-learning": (RED, "-"),
    "SARSA": (BLUE, "-"),
    "expected SARSA": (GOLD, "--"),
}


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs the study and returns its numbers. `quick`: small, to test the code; `say` prints a line of progress."""
    seeds, steps, long_steps = (4, 1000, 3000) if quick else (100, 20_000, 100_000)
    env = make_cliff_walking()
    learning, tables = {}, {}
    for name, learner in _LEARNERS.items():
        say(f"{name}: {seeds} seeds, {steps} steps each")
        _, returns, episodes = _train(learner(_config(0.5), env), seeds, steps)
        late = slice(-(len(returns) // 4), None)
        learning[name] = {
            "env_steps": _NUM_STEPS * np.arange(1, len(returns) + 1),
            "return": episode_mean(returns, episodes, axis=1),
            "last_quarter": episode_mean(returns[late], episodes[late], axis=(0, 1)),
        }
    P, R = epsilon_soft(env.P, env.R, EPSILON)  # noqa: N806
    explored = jax.jit(lambda p: evaluate_policy(P, R, 1.0, jax.nn.one_hot(p, R.shape[1])))
    for name in _PICTURED:
        say(f"{name}, smaller step size: {seeds} seeds, {long_steps} steps each")
        q, _, _ = _train(_LEARNERS[name](_config(0.1), env), seeds, long_steps)
        policies = np.argmax(q, -1)
        tables[name] = {
            "policy": policies[0],
            "values": q[0].max(-1),
            "path_lengths": [path_length(env, policy) for policy in policies],
            "exploring_return": np.median([explored(policy)[START] for policy in policies]),
        }
    greedy, soft = (value_iteration(*tables, 1.0, 1e-4)[0] for tables in ((env.P, env.R), (P, R)))
    return {
        "seeds": seeds,
        "steps": steps,
        "long_steps": long_steps,
        "greedy_optimum": greedy[START],
        "epsilon_greedy_optimum": soft[START],
        "learning": learning,
        "tables": tables,
    }


def draw(numbers: dict[str, Any], path: Path) -> None:
    """Draws the study's figure at `path`."""
    figure = figures.empty(11.5, 4.6)
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 1])
    ax = figure.add_subplot(grid[:, 0])
    for name, curve in numbers["learning"].items():
        color, line = _LINES[name]
        y = np.array(curve["return"], float)  # null, where no episode ended, is NaN
        ax.plot(curve["env_steps"], y, line, color=color, linewidth=1.5, label=name)
    best, careful = numbers["greedy_optimum"], numbers["epsilon_greedy_optimum"]
    figures.level(ax, best, f"best greedy policy, not exploring: {best:.0f}")
    figures.level(ax, careful, f"best \u03b5-greedy policy: {careful:.1f}")
    ax.set_ylim(-120, 0)
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    figures.panel(
        ax, "What is earned while learning", "environment steps (per seed)", "return of an episode"
    )
    world = make_cliff_walking()
    for row, (name, table) in enumerate(numbers["tables"].items()):
        ax = figure.add_subplot(grid[row, 1])
        ax.imshow(world.picture(960, 330, START, table["policy"], table["values"]))
        ax.set_axis_off()
        what = f"{name}: its greedy policy, darker cells are worth more"
        ax.set_title(what, fontsize=11, fontweight="bold", loc="left")
    figures.save(figure, path)


def words(numbers: dict[str, Any]) -> list[str]:
    """Returns the study's lines on the page."""
    late = {name: curve["last_quarter"] for name, curve in numbers["learning"].items()}
    paths = {
        name: f"{np.median([*map(figures.known, table['path_lengths'])]):.0f} steps"
        for name, table in numbers["tables"].items()
    }
    exploring = {name: table["exploring_return"] for name, table in numbers["tables"].items()}
    return [
        f"CliffWalking, {numbers['seeds']} seeds, epsilon 0.1, step size 0.5, no discount. The mean return over the "
        f"last quarter of {numbers['steps']} steps was {_listed(late)}. The optimal return is "
        f"{numbers['epsilon_greedy_optimum']:.1f} with exploration and {numbers['greedy_optimum']:.0f} without.",
        "",
        f"On the right are the tables of seed 0 after {numbers['long_steps']} steps with step size 0.1. The greedy "
        f"path from start to goal takes (median over seeds) {paths['Q-learning']} with Q-learning, which learns the "
        f"value of the greedy policy, and {paths['SARSA']} with SARSA, which learns the value of the exploring "
        f"policy. With epsilon 0.1 these policies have returns of {_listed(exploring)} (exact, median over seeds). "
        "Sutton and Barto 2018, example 6.6.",
    ]


def episode_mean(returns: np.ndarray, episodes: np.ndarray, axis: Any) -> np.ndarray:
    """Returns the mean over episodes of the means over the episodes of an iteration; NaN where there were none."""
    counts = episodes.sum(axis)
    total = np.where(episodes > 0, returns * episodes, 0.0).sum(axis)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def path_length(env: Grid, policy: np.ndarray) -> float:
    """Steps of a policy from start to goal; infinite where it never arrives."""
    s = START
    for t in range(env.probabilities.shape[0]):
        if s == GOAL:
            return t
        s = int(env.next_states[s, policy[s], 0])
    return np.inf


def _config(step_size: float) -> TabularConfig:
    return TabularConfig(
        num_envs=1,
        num_steps=_NUM_STEPS,
        gamma=1.0,
        epsilon_start=EPSILON,
        epsilon_end=EPSILON,
        step_size=step_size,
    )


def _train(algo: QLearning, seeds: int, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tables [seeds, S, A]; mean return and number of the episodes of each iteration, [iterations, seeds]."""

    def one(key):
        state, metrics = jax.lax.scan(
            lambda state, _: algo.step(state), algo.init(key), None, steps // _NUM_STEPS
        )
        return state.q, metrics["train/return"], metrics["train/episodes"]

    out_axes = (0, 1, 1)
    q, returns, episodes = jax.jit(jax.vmap(one, out_axes=out_axes))(
        jax.random.split(jax.random.key(0), seeds)
    )
    return np.asarray(q), np.asarray(returns), np.asarray(episodes)


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{value:.1f} ({name})" for name, value in values.items())
