"""Advantage-weighted regression, Peng et al. 2019, https://arxiv.org/abs/1910.00177, and its form with a critic, AWAC,
Nair et al. 2020, https://arxiv.org/abs/2006.09359

    J_pi = E[-exp(beta A(s, a)) log pi(a|s)]            imitation, weighted by how good an action was

    critic="returns":  A = R - V(s),  J_V = E[(R - V(s))^2 / 2]               the policy of the data is improved once
                       R: what followed in the episode, discounted, and gamma^k V(s_k) where it was cut off
    critic="q":        A = Q(s, a) - Q(s, a~),  y = r + gamma min_i Q_bar_i(s', a')       and again with each step
                       J_Q = E[sum_i (Q_i(s, a) - y)^2 / 2],  a~ ~ pi(.|s),  a' ~ pi(.|s')

Advantages of returns are divided by their deviation in the batch, as in the paper's implementation. At beta = 0 this is
`bc` with a stochastic policy.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import replay
from agents.core import value_losses
from agents.networks import MLP, ActionValue, Functional
from agents.off_policy import OffPolicyState
from agents.offline.data import OfflineData, discounted_returns, draw, take_to_end
from agents.offline.learner import OfflineLearner, OfflineValueConfig
from agents.offline.policies import (
    as_inputs,
    choose,
    exponential_weight,
    stochastic_policy,
    weighted_likelihood,
)
from agents.optimisers import apply_gradients
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class AWRConfig(OfflineValueConfig):
    """Settings of `AWR`."""

    critic: Literal["returns", "q"] = "returns"
    """what an advantage is made of: returns: recorded returns less a state's value (AWR); q: action values of the
    policy itself (AWAC)"""
    beta: float = 1.0
    """inverse temperature of the weights; 0: imitation of everything (AWAC's 1 / lambda is 3)"""
    max_weight: float = 20.0
    """weights are cut off here"""
    scale_rewards: bool = True
    """rewards times 1000 / (best less worst return of an episode), so that one beta suits all tasks (q)"""

    def __post_init__(self):
        super().__post_init__()
        self.require_not_negative("beta")
        self.require_positive("max_weight")


class AWRParams(NamedTuple):
    """Parameters of `AWR`."""

    actor: Any
    critic: Any  # of V; or of two Q, leaves [2, ...]
    target: Any  # the moving average of the Q; () where there are none


class AWROptState(NamedTuple):
    """States of the optimisers of `AWR`."""

    actor: Any
    critic: Any


class Networks(NamedTuple):
    """The modules whose parameters an `AWRParams` holds."""

    actor: Functional
    critic: Functional


class AWR(OfflineLearner):
    """Advantage-weighted regression: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = AWRConfig

    def __init__(self, config: AWRConfig, env: Env):
        super().__init__(config, env, (gymnasium.spaces.Box, gymnasium.spaces.Discrete))
        sizes, activation = config.hidden_sizes, config.activation
        inputs, actions = self.num_inputs, self.num_actions
        self.networks = Networks(
            stochastic_policy(self),
            Functional(lambda r: MLP(inputs, sizes, 1, activation=activation, rngs=r))
            if config.critic == "returns"
            else Functional(
                lambda r: ActionValue(inputs, actions, sizes, activation=activation, rngs=r)
            ),
        )
        self.optimizer = self.adam()

    def init(self, key: PRNGKeyArray) -> OffPolicyState:
        """Returns the first state."""
        actor_key, critic_key, key = jax.random.split(key, 3)
        actor = self.networks.actor.init(actor_key)
        if self.config.critic == "returns":
            critic, target = self.networks.critic.init(critic_key), ()
        else:
            critic = target = self.networks.critic.init_ensemble(critic_key, 2)
        opt_state = AWROptState(self.optimizer.init(actor), self.optimizer.init(critic))
        return self.begin(key, AWRParams(actor, critic, target), opt_state)

    def step(
        self, state: OffPolicyState, data: OfflineData | None = None
    ) -> tuple[OffPolicyState, dict[str, Array]]:
        """Returns the state after the gradient steps of an iteration. Raises ValueError without data."""
        config = self.config
        if config.critic == "q":
            scaled = config.scale_rewards
            return self.run(state, data, self.update, gamma=config.gamma, scale_rewards=scaled)
        returns = discounted_returns(self.require_data(data), config.gamma)

        def sample(data: OfflineData, key: PRNGKeyArray) -> replay.Sample:
            return take_to_end(data, draw(data, key, config.batch_size), returns, config.gamma)

        return self.run(state, data, self.update, sample=sample)

    def act(
        self, state: OffPolicyState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Elements of the action space for raw observations [*batch, O]: the likeliest action, or a sample."""
        policy = self.networks.actor.module(state.params.actor)(self.preprocess(state, obs))
        return choose(self, policy, key, deterministic)

    def update(
        self,
        params: AWRParams,
        opt_state: AWROptState,
        sample: replay.Sample,
        key: PRNGKeyArray,
        updates: Array,
    ) -> tuple[AWRParams, AWROptState, Float[Array, " B"], dict[str, Array]]:
        """One gradient step of critic and actor."""
        config, networks = self.config, self.networks
        if config.critic == "returns":
            critic, critic_opt, target, error, advantage, metrics = self._learn_value(
                params, opt_state, sample
            )
        else:
            critic, critic_opt, target, error, advantage, metrics = self._learn_q(
                params, opt_state, sample, key
            )
        weight = exponential_weight(advantage, config.beta, config.max_weight)

        def actor_loss(actor: Any) -> Array:
            logp = networks.actor.module(actor)(sample.obs).log_prob(sample.action)
            return weighted_likelihood(logp, weight)

        loss, grads = jax.value_and_grad(actor_loss)(params.actor)
        actor, actor_opt = apply_gradients(self.optimizer, grads, opt_state.actor, params.actor)
        metrics |= {"loss/actor": loss, "weight": jnp.mean(weight)}
        return (
            AWRParams(actor, critic, target),
            AWROptState(actor_opt, critic_opt),
            error,
            metrics,
        )

    def _learn_value(self, params, opt_state, sample):
        """The value after a step towards what followed, and advantages in units of their deviation."""

        def v(critic: Any, obs: Array) -> Array:
            return self.networks.critic.module(critic)(obs)[..., 0]

        last = v(params.critic, sample.next_obs)
        target = value_losses.td_target(sample.reward, last, sample.terminated, sample.discount)

        def loss(critic: Any) -> Array:
            return jnp.mean(value_losses.squared_error(v(critic, sample.obs), target))

        value, grads = jax.value_and_grad(loss)(params.critic)
        critic, critic_opt = apply_gradients(self.optimizer, grads, opt_state.critic, params.critic)
        error = target - v(critic, sample.obs)
        advantage = error / jnp.maximum(jnp.std(error), 1e-6)
        return critic, critic_opt, (), jnp.abs(error), advantage, {"loss/critic": value}

    def _learn_q(self, params, opt_state, sample, key):
        """The action values after a step, and advantages over an action of the policy."""
        networks, action = self.networks, as_inputs(self, sample.action)
        next_key, now_key = jax.random.split(key)
        policy = networks.actor.module(params.actor)
        next_action = self._drawn(policy, sample.next_obs, next_key)
        next_q = networks.critic.ensemble(params.target, sample.next_obs, next_action)
        target = value_losses.clipped_double_q_target(
            sample.reward, next_q, sample.terminated, sample.discount
        )

        def loss(critic: Any) -> tuple[Array, Array]:
            q = networks.critic.ensemble(critic, sample.obs, action)
            error = value_losses.squared_error(q, jnp.broadcast_to(target, q.shape))
            return jnp.mean(jnp.sum(error, axis=0)), q

        (value, q), grads = jax.value_and_grad(loss, has_aux=True)(params.critic)
        critic, critic_opt = apply_gradients(self.optimizer, grads, opt_state.critic, params.critic)
        moved = optax.incremental_update(critic, params.target, self.config.tau)
        own = self._drawn(policy, sample.obs, now_key)
        advantage = jnp.min(networks.critic.ensemble(critic, sample.obs, action), axis=0) - jnp.min(
            networks.critic.ensemble(critic, sample.obs, own), axis=0
        )
        error = jnp.mean(jnp.abs(q - target), axis=0)
        metrics = {"loss/critic": value, "q": jnp.mean(q)}
        return critic, critic_opt, moved, error, advantage, metrics

    def _drawn(self, policy, obs, key):
        """An action of the policy within its bounds, as the critics are given it."""
        raw = policy(obs).sample(key)
        return as_inputs(self, raw if self.discrete else jnp.clip(raw, -1.0, 1.0))
