"""Policies that imitate, and their losses: squared error, or likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from agents.distributions import Categorical, Normal
from agents.networks import MLP, Actor, Functional
from agents.offline.learner import OfflineLearner
from agents.spaces import element

MAX_WEIGHT = 100.0  # of a transition in selective imitation


class BoundedActor(nnx.Module):
    """Observation to a diagonal Normal whose mean a tanh keeps within the range of actions; its spread is a parameter
    of its own, the same in every state.

    No squashed Gaussian: recorded actions lie on the bounds, where its density is infinite.
    """

    LOG_STD_RANGE = (-5.0, 2.0)

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden_sizes: Sequence[int],
        *,
        activation: str,
        rngs: nnx.Rngs,
    ):
        self.body = MLP(
            observations, hidden_sizes, actions, activation=activation, head_gain=0.01, rngs=rngs
        )
        self.log_std = nnx.Param(jnp.zeros(actions))

    def __call__(self, obs: Float[Array, "*batch O"]) -> Normal:
        log_std = jnp.clip(self.log_std[...], *self.LOG_STD_RANGE)
        return Normal(jnp.tanh(self.body(obs)), log_std)


def stochastic_policy(learner: OfflineLearner) -> Functional:
    """Returns observation to a distribution of raw actions: Categorical for a Discrete space, else `BoundedActor`."""
    config, space = learner.config, learner.env.action_space
    sizes, activation = config.hidden_sizes, config.activation
    if isinstance(space, gymnasium.spaces.Discrete):
        return Functional(
            lambda r: Actor(learner.num_inputs, space, sizes, activation=activation, rngs=r)
        )
    return Functional(
        lambda r: BoundedActor(
            learner.num_inputs, learner.num_actions, sizes, activation=activation, rngs=r
        )
    )


def deterministic_policy(learner: OfflineLearner) -> Functional:
    """Returns observation to an action before its tanh, near 0 at first, as `agents.td3` has it."""
    sizes, activation = learner.config.hidden_sizes, learner.config.activation
    inputs, actions = learner.num_inputs, learner.num_actions
    return Functional(
        lambda r: MLP(inputs, sizes, actions, activation=activation, head_gain=0.01, rngs=r)
    )


def choose(
    learner: OfflineLearner,
    distribution: Categorical | Normal,
    key: PRNGKeyArray,
    deterministic: bool,
) -> Array:
    """Returns elements of the action space: the distribution's mode, or a sample."""
    raw = distribution.mode() if deterministic else distribution.sample(key)
    return element(learner.env.action_space, raw)


def as_inputs(learner: OfflineLearner, action: Any) -> Float[Array, "*batch A"]:
    """Returns raw actions as a network is given them: those of a Discrete space as one-hot vectors."""
    if learner.discrete:
        return jax.nn.one_hot(action, learner.num_actions)
    return jnp.asarray(action)


def squared_error(mu: Float[Array, "B A"], action: Float[Array, "B A"]) -> Float[Array, ""]:
    """Mean over batch and coordinates of (mu(s) - a)^2. Fujimoto & Gu 2021, eq. 3. https://arxiv.org/abs/2106.06860"""
    return jnp.mean(jnp.square(mu - action))


def weighted_likelihood(logp: Float[Array, " B"], weight: Float[Array, " B"]) -> Float[Array, ""]:
    """-E[w log pi(a|s)], no gradient through w: imitation where w = 1, selective imitation otherwise.

    Peng et al. 2019, eq. 6. https://arxiv.org/abs/1910.00177
    """
    return -jnp.mean(jax.lax.stop_gradient(weight) * logp)


def exponential_weight(
    advantage: Float[Array, " B"], beta: float, most: float = MAX_WEIGHT
) -> Float[Array, " B"]:
    """min(exp(beta A), most): 1 for every action where beta is 0."""
    # The exponent is bounded, not the result: exp(beta A) may overflow, and infinity has no use for a minimum's slope.
    return jnp.exp(jnp.minimum(beta * advantage, jnp.log(jnp.float32(most))))
