"""Implicit Q-learning. Kostrikov et al. 2022, https://arxiv.org/abs/2110.06169

| symbol | here |
|---|---|
| V_psi | `value` |
| Q_theta1, Q_theta2 | `critics`, leaves [2, ...] |
| Q_hat | `targets`, their moving average |
| pi_phi | `actor` |

    J_V  = E[L_tau(min_i Q_hat_i(s, a) - V(s))],  L_tau(u) = |tau - 1(u < 0)| u^2       expectile regression, eq. 5
    J_Q  = E[sum_i (r + gamma V(s') - Q_i(s, a))^2 / 2]                                 eq. 6
    J_pi = E[-exp(beta (min_i Q_hat_i(s, a) - V(s))) log pi(a|s)]                       eq. 7

Only recorded actions are ever valued. With tau = 1/2, V is the mean over the behaviour's actions; towards 1 it becomes
the value of the best action that the data hold. Policy extraction is that of `awr`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import replay
from agents.core import value_losses
from agents.networks import MLP, ActionValue, Functional
from agents.off_policy import OffPolicyState
from agents.offline.data import OfflineData
from agents.offline.learner import OfflineLearner, OfflineValueConfig
from agents.offline.policies import (
    as_inputs,
    choose,
    exponential_weight,
    stochastic_policy,
    weighted_likelihood,
)
from agents.optimisers import apply_gradients
from agents.settings import require
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class IQLConfig(OfflineValueConfig):
    """Settings of `IQL`."""

    expectile: float = 0.7
    """tau of the expectile regression: 0.5 is the mean, towards 1 the best recorded action"""
    beta: float = 3.0
    """inverse temperature of the weights of imitation; 0: imitation of everything"""
    scale_rewards: bool = True
    """rewards times 1000 / (best less worst return of an episode), so that one beta suits all tasks"""

    def __post_init__(self):
        super().__post_init__()
        require(0 < self.expectile < 1, f"expectile must be in (0, 1), got {self.expectile}")
        self.require_not_negative("beta")


class IQLParams(NamedTuple):
    """Parameters of `IQL`."""

    actor: Any
    value: Any
    critics: Any  # leaves [2, ...]
    targets: Any  # leaves [2, ...]


class IQLOptState(NamedTuple):
    """States of the optimisers of `IQL`."""

    actor: Any
    value: Any
    critics: Any


class Networks(NamedTuple):
    """The modules whose parameters an `IQLParams` holds."""

    actor: Functional
    value: Functional
    critic: Functional


class IQL(OfflineLearner):
    """Implicit Q-learning: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = IQLConfig

    def __init__(self, config: IQLConfig, env: Env):
        super().__init__(config, env, (gymnasium.spaces.Box, gymnasium.spaces.Discrete))
        sizes, activation = config.hidden_sizes, config.activation
        self.networks = Networks(
            stochastic_policy(self),
            Functional(lambda r: MLP(self.num_inputs, sizes, 1, activation=activation, rngs=r)),
            Functional(
                lambda r: ActionValue(
                    self.num_inputs, self.num_actions, sizes, activation=activation, rngs=r
                )
            ),
        )
        self.optimizer = self.adam()

    def init(self, key: PRNGKeyArray) -> OffPolicyState:
        """Returns the first state."""
        actor_key, value_key, critic_key, key = jax.random.split(key, 4)
        critics = self.networks.critic.init_ensemble(critic_key, 2)
        actor, value = self.networks.actor.init(actor_key), self.networks.value.init(value_key)
        opt_state = IQLOptState(*(self.optimizer.init(p) for p in (actor, value, critics)))
        return self.begin(key, IQLParams(actor, value, critics, critics), opt_state)

    def step(
        self, state: OffPolicyState, data: OfflineData | None = None
    ) -> tuple[OffPolicyState, dict[str, Array]]:
        """Returns the state after the gradient steps of an iteration. Raises ValueError without data."""
        config = self.config
        return self.run(
            state, data, self.update, gamma=config.gamma, scale_rewards=config.scale_rewards
        )

    def act(
        self, state: OffPolicyState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Elements of the action space for raw observations [*batch, O]: the likeliest action, or a sample."""
        policy = self.networks.actor.module(state.params.actor)(self.preprocess(state, obs))
        return choose(self, policy, key, deterministic)

    def update(
        self,
        params: IQLParams,
        opt_state: IQLOptState,
        sample: replay.Sample,
        key: PRNGKeyArray,
        updates: Array,
    ) -> tuple[IQLParams, IQLOptState, Float[Array, " B"], dict[str, Array]]:
        """One gradient step, `update` below, with the networks and settings of this learner."""
        return update(
            params,
            opt_state,
            sample,
            as_inputs(self, sample.action),
            networks=self.networks,
            optimizer=self.optimizer,
            config=self.config,
        )


def update(
    params: IQLParams,
    opt_state: IQLOptState,
    sample: replay.Sample,
    action: Float[Array, "B A"],
    *,
    networks: Networks,
    optimizer: optax.GradientTransformation,
    config: IQLConfig,
) -> tuple[IQLParams, IQLOptState, Float[Array, " B"], dict[str, Array]]:
    """Returns parameters after one gradient step of value, critics and actor.

    The targets of critics and actor take the value after its step, as the paper's implementation does.

    Args:
      sample: B transitions with preprocessed observations and raw actions.
      action: the actions as the critics are given them.

    Returns:
      params, opt_state, TD errors [B], metrics.
    """
    obs = sample.obs
    target_q = jnp.min(networks.critic.ensemble(params.targets, obs, action), axis=0)

    def v(value: Any, obs: Array) -> Array:
        return networks.value.module(value)(obs)[..., 0]

    def value_loss(value: Any) -> Array:
        return jnp.mean(expectile_loss(target_q - v(value, obs), config.expectile))

    v_loss, grads = jax.value_and_grad(value_loss)(params.value)
    value, value_opt = apply_gradients(optimizer, grads, opt_state.value, params.value)
    next_value = v(value, sample.next_obs)
    target = value_losses.td_target(sample.reward, next_value, sample.terminated, sample.discount)

    def critic_loss(critics: Any) -> tuple[Array, Array]:
        q = networks.critic.ensemble(critics, obs, action)
        loss = value_losses.squared_error(q, jnp.broadcast_to(target, q.shape))
        return jnp.mean(jnp.sum(sample.weight * loss, axis=0)), q

    advantage = target_q - v(value, obs)
    weight = exponential_weight(advantage, config.beta)

    def actor_loss(actor: Any) -> Array:
        logp = networks.actor.module(actor)(obs).log_prob(sample.action)
        return weighted_likelihood(logp, weight)

    (q_loss, q), grads = jax.value_and_grad(critic_loss, has_aux=True)(params.critics)
    critics, critics_opt = apply_gradients(optimizer, grads, opt_state.critics, params.critics)
    pi_loss, grads = jax.value_and_grad(actor_loss)(params.actor)
    actor, actor_opt = apply_gradients(optimizer, grads, opt_state.actor, params.actor)
    targets = optax.incremental_update(critics, params.targets, config.tau)
    metrics = {
        "loss/value": v_loss,
        "loss/critic": q_loss,
        "loss/actor": pi_loss,
        "q": jnp.mean(q),
        "advantage": jnp.mean(advantage),
        "weight": jnp.mean(weight),
    }
    return (
        IQLParams(actor, value, critics, targets),
        IQLOptState(actor_opt, value_opt, critics_opt),
        jnp.mean(jnp.abs(q - target), axis=0),
        metrics,
    )


def expectile_loss(error: Float[Array, "*shape"], expectile: float) -> Float[Array, "*shape"]:
    """|tau - 1(u < 0)| u^2 of errors u = target - value: half the squared error at tau = 1/2, eq. 4."""
    return jnp.where(error < 0, 1.0 - expectile, expectile) * jnp.square(error)
