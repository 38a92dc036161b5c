"""Exploration: noise that lasts for actions of a Box, epsilon-greedy choices for tables and bandits.

An Ornstein-Uhlenbeck process at the times of the steps:

    e_t = c e_{t-1} + sqrt(1 - c^2) x_t,   x_t ~ N(0, 1)

Each e_t is N(0, 1) in the long run, like independent noise, and its correlation with e_{t-k} is c^k. Lillicrap et al.
2016, sec. 3 and 7, https://arxiv.org/abs/1509.02971: theta = 0.15 a step is c = 0.85. Independent noise averages out
where actions are forces on something heavy; noise that lasts takes it somewhere (Eberhard et al. 2023,
https://openreview.net/forum?id=hQ9V5QN27eS).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


def next_noise(
    noise: Float[Array, "*batch A"], key: PRNGKeyArray, correlation: float
) -> Float[Array, "*batch A"]:
    """Returns e_t after `noise`, e_{t-1}. A correlation of 0 gives independent standard normal noise."""
    fresh = jax.random.normal(key, noise.shape)
    return correlation * noise + math.sqrt(1.0 - correlation**2) * fresh


def epsilon_greedy_probabilities(
    q: Float[Array, "*batch A"], epsilon: float | Float[Array, ""]
) -> Float[Array, "*batch A"]:
    """Returns probabilities of actions: epsilon shared by all, the rest by those of the highest value.

    Ties are shared because a table starts with nothing else: the first of all would be tried again and again.
    """
    best = q == jnp.max(q, -1, keepdims=True)
    greedy = best / jnp.sum(best, -1, keepdims=True)
    return epsilon / q.shape[-1] + (1 - epsilon) * greedy


def draw_epsilon_greedy(
    key: PRNGKeyArray, q: Float[Array, "*batch A"], epsilon: float | Float[Array, ""]
) -> Int[Array, "*batch"]:
    """Returns one epsilon-greedy action for each row of values."""
    logits = jnp.log(epsilon_greedy_probabilities(q, epsilon))
    return jax.random.categorical(key, logits).astype(jnp.int32)
