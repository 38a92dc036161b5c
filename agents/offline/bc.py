"""Behaviour cloning: imitation of everything that was recorded. Pomerleau 1989,
https://proceedings.neurips.cc/paper/1988/hash/812b4ba287f5ee0bc9d43bbf5bbe87fb-Abstract.html

    J = E[|mu(s) - a|^2]          deterministic: the mean over the coordinates of an action
    J = E[-log pi(a|s)]           stochastic: a Normal with the spread of the data, and whatever is Discrete

It can be no better than the behaviour on average, and where several behaviours are mixed, their mean may be none of
them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import gymnasium
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import replay
from agents.networks import Functional
from agents.off_policy import OffPolicyState
from agents.offline.data import OfflineData
from agents.offline.learner import OfflineConfig, OfflineLearner
from agents.offline.policies import (
    choose,
    deterministic_policy,
    squared_error,
    stochastic_policy,
    weighted_likelihood,
)
from agents.optimisers import apply_gradients
from agents.spaces import element
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class BCConfig(OfflineConfig):
    """Settings of `BC`."""

    policy: Literal["deterministic", "stochastic"] = "deterministic"
    """deterministic: squared error; stochastic: likelihood of a Normal. Discrete actions have probabilities either
    way"""


class BC(OfflineLearner):
    """Behaviour cloning: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = BCConfig
    best_fraction: float = 1.0  # of the transitions, by their episode's return, which are imitated

    def __init__(self, config: BCConfig, env: Env):
        super().__init__(config, env, (gymnasium.spaces.Box, gymnasium.spaces.Discrete))
        self.stochastic = self.discrete or config.policy == "stochastic"
        self.actor: Functional = (
            stochastic_policy(self) if self.stochastic else deterministic_policy(self)
        )
        self.optimizer = self.adam()

    def init(self, key: PRNGKeyArray) -> OffPolicyState:
        """Returns the first state."""
        params_key, key = jax.random.split(key)
        params = self.actor.init(params_key)
        return self.begin(key, params, self.optimizer.init(params))

    def step(
        self, state: OffPolicyState, data: OfflineData | None = None
    ) -> tuple[OffPolicyState, dict[str, Array]]:
        """Returns the state after the gradient steps of an iteration. Raises ValueError without data."""
        return self.run(state, data, self.update, best_fraction=self.best_fraction)

    def act(
        self, state: OffPolicyState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Elements of the action space for raw observations [*batch, O]: the likeliest action, or a sample."""
        out = self.actor.module(state.params)(self.preprocess(state, obs))
        if self.stochastic:
            return choose(self, out, key, deterministic)
        return element(self.env.action_space, jnp.tanh(out))

    def update(
        self, params: Any, opt_state: Any, sample: replay.Sample, key: PRNGKeyArray, updates: Array
    ) -> tuple[Any, Any, Float[Array, " B"], dict[str, Array]]:
        """One gradient step, `update` below, with the network of this learner; TD errors are 0."""
        params, opt_state, metrics = update(
            params,
            opt_state,
            sample,
            actor=self.actor,
            optimizer=self.optimizer,
            stochastic=self.stochastic,
        )
        return params, opt_state, jnp.zeros_like(sample.reward), metrics


def update(
    params: Any,
    opt_state: optax.OptState,
    sample: replay.Sample,
    *,
    actor: Functional,
    optimizer: optax.GradientTransformation,
    stochastic: bool,
) -> tuple[Any, optax.OptState, dict[str, Array]]:
    """Returns parameters after one gradient step, optimiser state, and metrics.

    Args:
      sample: B transitions with preprocessed observations and raw actions; only these two are used.
      stochastic: the network gives a distribution; else an action before the tanh.
    """

    def loss(params: Any) -> Array:
        out = actor.module(params)(sample.obs)
        if not stochastic:
            return squared_error(jnp.tanh(out), sample.action)
        return weighted_likelihood(out.log_prob(sample.action), jnp.ones_like(sample.reward))

    value, grads = jax.value_and_grad(loss)(params)
    params, opt_state = apply_gradients(optimizer, grads, opt_state, params)
    return params, opt_state, {"loss/actor": value, "grad_norm": optax.tree.norm(grads)}
