"""Exploration against exploitation, one state and k arms. Sutton and Barto 2018, chapter 2.

Scores say how much each arm is wanted; one of the highest is pulled, at random among equals:

    epsilon-greedy  the estimates themselves, and any arm with probability epsilon
    UCB             estimate + c sqrt(ln t / pulls): the less it was tried, the more it may yet be worth
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from agents.exploration import draw_epsilon_greedy
from envs.base import Env


class Estimates(NamedTuple):
    """Estimates of the values of k arms."""

    mean: Any  # [k] mean reward so far
    pulls: Any  # [k] float32


def start(arms: int, initial: float = 0.0) -> Estimates:
    """Returns the state before the first pull. With step sizes 1 / pulls, the first pull of an arm replaces
    `initial`."""
    return Estimates(jnp.full(arms, initial), jnp.zeros(arms))


def learn(
    estimates: Estimates,
    arm: Int[Array, ""],
    reward: Float[Array, ""],
    step_size: float | None = None,
) -> Estimates:
    """The incremental mean, Q <- Q + (R - Q) / pulls; with `step_size`, an exponentially weighted one."""
    pulls = estimates.pulls.at[arm].add(1.0)
    rate = 1.0 / pulls[arm] if step_size is None else step_size
    error = reward - estimates.mean[arm]
    return Estimates(estimates.mean.at[arm].add(rate * error), pulls)


def upper_confidence(
    estimates: Estimates, t: Int[Array, ""], c: float | Float[Array, ""] = 2.0
) -> Float[Array, " k"]:
    """UCB1's scores before pull t = 1, 2, ...; infinite for arms never tried. Auer et al. 2002,
    https://doi.org/10.1023/A:1013689704352"""
    pulls = jnp.maximum(estimates.pulls, 1.0)
    bonus = c * jnp.sqrt(jnp.log(t.astype(jnp.float32)) / pulls)
    return jnp.where(estimates.pulls > 0, estimates.mean + bonus, jnp.inf)


def play(
    env: Env,
    key: PRNGKeyArray,
    pulls: int,
    *,
    score: Callable[[Estimates, Int[Array, ""]], Float[Array, " k"]] | None = None,
    epsilon: float | Float[Array, ""] = 0.0,
    initial: float = 0.0,
    step_size: float | None = None,
) -> tuple[Float[Array, " T"], Int[Array, " T"]]:
    """Pulls arms of one bandit, T in all, learning from each. For many bandits, `vmap`.

    Args:
      env: a one-step environment with Discrete actions.
      score: (estimates, t) to what each arm is worth pulling; None: the estimates, which with `epsilon` is
        epsilon-greedy.
      initial: the estimates at first; high ones make every arm worth a try.
      step_size: None: means of all rewards; else constant.

    Returns:
      rewards and arms.
    """

    def body(estimates, inputs) -> tuple[Estimates, tuple[Array, Array]]:
        t, key = inputs
        initial_key, arm_key, env_key = jax.random.split(key, 3)
        scores = estimates.mean if score is None else score(estimates, t)
        arm = draw_epsilon_greedy(arm_key, scores, epsilon)
        state = env.initial(initial_key)
        reward = env.reward(state, arm, env.transition(state, arm, env_key))
        return learn(estimates, arm, reward, step_size), (reward, arm)

    arms = int(env.action_space.n)  # type: ignore[attr-defined]
    keys = jax.random.split(key, pulls)
    _, (rewards, pulled) = jax.lax.scan(
        body, start(arms, initial), (jnp.arange(1, pulls + 1), keys)
    )
    return rewards, pulled
