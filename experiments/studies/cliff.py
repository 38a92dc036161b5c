"""On-policy against off-policy learning, on the edge of a cliff. Sutton and Barto 2018, example 6.6.

Q-learning learns the value of acting greedily, so it walks along the edge, and falls whenever it explores there. SARSA
learns the value of what it does, exploration included, and keeps away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents.dynamic_programming import epsilon_soft, evaluate_policy, value_iteration
from agents.tabular import SARSA, ExpectedSARSA, QLearning, TabularConfig
from envs.tabular.toy_text import Grid, make_cliff_walking
from experiments.studies import figures

TITLE = "On-policy and off-policy: the cliff"
EPSILON, START, GOAL = 0.1, 36, 47
_NUM_STEPS = 100  # of one iteration
_LEARNERS = {"Q-learning": QLearning, "SARSA": SARSA, "expected SARSA": ExpectedSARSA}
_PICTURED = ("Q-learning", "SARSA")
_LINES = {
    "Q-learning": (figures.RED, "-"),
    "SARSA": (figures.BLUE, "-"),
    "expected SARSA": (figures.GOLD, "--"),
}


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    seeds, steps, long_steps = (4, 1000, 2000) if quick else (100, 20_000, 100_000)
    env = make_cliff_walking()
    learning, tables = {}, {}
    for name, learner in _LEARNERS.items():
        say(f"{name}: {seeds} seeds of {steps} steps")
        algo = learner(_config(0.5), env)
        _, metrics = _train(algo, seeds, steps)
        x, y = weighted_mean(metrics["train/return"], metrics["train/episodes"])
        last = slice(-(metrics["train/return"].shape[1] // 4), None)
        _, late = weighted_mean(
            metrics["train/return"][:, last].reshape(1, -1).T,
            metrics["train/episodes"][:, last].reshape(1, -1).T,
        )
        learning[name] = {"env_steps": x, "return": y, "last_quarter": float(late[0])}
    for name in _PICTURED:
        say(f"{name} with a smaller step size: {seeds} seeds of {long_steps} steps")
        q, _ = _train(_LEARNERS[name](_config(0.1), env), seeds, long_steps)
        tables[name] = _table(env, q)
    P, R = epsilon_soft(env.P, env.R, EPSILON)  # noqa: N806
    greedy, policy, _ = value_iteration(env.P, env.R, 1.0, 1e-4)
    soft, _, _ = value_iteration(P, R, 1.0, 1e-4)
    edge = evaluate_policy(P, R, 1.0, jax.nn.one_hot(policy, R.shape[1]))
    return {
        "seeds": seeds,
        "steps": steps,
        "long_steps": long_steps,
        "greedy_optimum": float(greedy[START]),
        "epsilon_greedy_optimum": float(soft[START]),
        "greedy_optimum_while_exploring": float(edge[START]),
        "learning": learning,
        "tables": tables,
    }
