"""Soft actor-critic. Haarnoja et al. 2018b, "Soft Actor-Critic Algorithms and Applications", https://arxiv.org/abs/1812.05905

| symbol | here |
|---|---|
| pi_phi | `actor`, a tanh-squashed Gaussian |
| Q_theta1, Q_theta2 | `critics`, leaves [2, ...] |
| Q_bar | `targets`, their moving average (eq. of algorithm 1, tau) |
| alpha | the temperature: exp(`log_alpha`) where it is adapted, else `config.alpha` |
| H_bar | `target_entropy`, -dim(A) |

One gradient step on a sample (s, a, r, s'), with a' ~ pi(.|s') and a~ ~ pi(.|s) drawn afresh:

    y      = r + gamma (min_i Q_bar_i(s', a') - alpha log pi(a'|s'))          soft Bellman target, eqs. 2, 3
    J_Q    = E[sum_i (Q_i(s, a) - y)^2 / 2]                                   eq. 5
    J_pi   = E[alpha log pi(a~|s) - min_i Q_i(s, a~)]                         eq. 9
    J_alpha = E[-alpha (log pi(a~|s) + H_bar)]                                eq. 18

The critics step first: J_pi takes the Q_i after their step, J_alpha the log pi(a~|s) of J_pi, that of the actor before
its step. alpha is the one before the step in all of them.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import replay
from agents.core import value_losses
from agents.distributions import TanhNormal
from agents.networks import ActionValue, Functional, SquashedActor
from agents.off_policy import OffPolicy, OffPolicyState, Update
from agents.off_policy_settings import ContinuousConfig
from agents.optimisers import apply_gradients
from agents.settings import require
from agents.spaces import element
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class SACConfig(ContinuousConfig):
    """Settings of `SAC`."""

    alpha: float | None = None
    """temperature: weight of the entropy in the objective; None: adapted to target_entropy"""
    initial_alpha: float = 1.0
    """initial temperature, if it is adapted"""
    target_entropy: float | None = None
    """target entropy for the adaptive temperature, in nats; None: minus the number of action dimensions"""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.alpha is None or self.alpha >= 0, f"alpha must not be negative, got {self.alpha}"
        )
        require(self.initial_alpha > 0, f"initial_alpha must be positive, got {self.initial_alpha}")


class SACParams(NamedTuple):
    """Parameters of `SAC`."""

    actor: Any
    critics: Any  # leaves [2, ...]
    targets: Any  # leaves [2, ...]
    log_alpha: Any  # [], 0 and of no effect where the temperature is fixed


class SACOptState(NamedTuple):
    """States of the optimisers of `SAC`."""

    actor: Any
    critics: Any
    log_alpha: Any


class Networks(NamedTuple):
    """The modules whose parameters a `SACParams` holds."""

    actor: Functional
    critic: Functional


class SAC(OffPolicy):
    """Three pure functions: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = SACConfig

    def __init__(self, config: SACConfig, env: Env):
        boxes = (gymnasium.spaces.Box,)
        super().__init__(config, env, boxes, noise_correlation=config.noise_correlation)
        space = env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        self.num_actions = int(np.prod(space.shape))
        self.target_entropy = (
            -float(self.num_actions) if config.target_entropy is None else config.target_entropy
        )
        sizes = self.num_inputs, self.num_actions, config.hidden_sizes
        activation = config.activation
        self.networks = Networks(
            Functional(lambda r: SquashedActor(*sizes, activation=activation, rngs=r)),
            Functional(lambda r: ActionValue(*sizes, activation=activation, rngs=r)),
        )
        self.optimizer = self.adam()

    @property
    def update(self) -> Update:
        """The gradient step, `update` below, with the networks and settings of this learner."""
        return functools.partial(
            update,
            networks=self.networks,
            optimizer=self.optimizer,
            target_entropy=self.target_entropy,
            config=self.config,
        )

    def init(self, key: PRNGKeyArray) -> OffPolicyState:
        """Returns the first state."""
        actor_key, critic_key, key = jax.random.split(key, 3)
        critics = self.networks.critic.init_ensemble(critic_key, 2)
        log_alpha = jnp.zeros(())
        if self.config.alpha is None:
            log_alpha = jnp.log(jnp.float32(self.config.initial_alpha))
        params = SACParams(self.networks.actor.init(actor_key), critics, critics, log_alpha)
        opt_state = SACOptState(
            *(self.optimizer.init(p) for p in (params.actor, params.critics, params.log_alpha))
        )
        return self.begin(key, params, opt_state)

    def step(
        self, state: OffPolicyState, data: None = None
    ) -> tuple[OffPolicyState, dict[str, Array]]:
        """Returns the state after rounds of acting and learning."""

        def explore(state: OffPolicyState, obs: Any, key: PRNGKeyArray) -> Array:
            return self._policy(state, obs).at(state.noise)

        return self.run(state, explore, self.update)

    def act(
        self, state: OffPolicyState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Elements of the action space for raw observations [..., O]: tanh of the Gaussian's mean, or a sample."""
        dist = self._policy(state, obs)
        return element(self.env.action_space, dist.mode() if deterministic else dist.sample(key))

    def _policy(self, state: OffPolicyState, obs: Any) -> TanhNormal:
        return self.networks.actor.module(state.params.actor)(self.preprocess(state, obs))


def update(
    params: SACParams,
    opt_state: SACOptState,
    sample: replay.Sample,
    key: PRNGKeyArray,
    updates: Array,
    *,
    networks: Networks,
    optimizer: optax.GradientTransformation,
    target_entropy: float,
    config: SACConfig,
) -> tuple[SACParams, SACOptState, Float[Array, " B"], dict[str, Array]]:
    """Returns parameters after one gradient step of critics, actor and temperature, in this order.

    Args:
      sample: B transitions with preprocessed observations and raw actions in [-1, 1].
      updates: number of this gradient step; nothing depends on it here.

    Returns:
      params, opt_state, TD errors [B], metrics.
    """
    next_key, now_key = jax.random.split(key)
    obs = sample.obs
    alpha = jnp.exp(params.log_alpha) if config.alpha is None else jnp.float32(config.alpha)
    target = targets(params, sample, next_key, alpha, networks)

    def critic_loss(critics: Any) -> tuple[Array, Array]:
        q = networks.critic.ensemble(critics, obs, sample.action)
        loss = value_losses.squared_error(q, jnp.broadcast_to(target, q.shape))
        return jnp.mean(jnp.sum(sample.weight * loss, axis=0)), q

    def actor_loss(actor: Any) -> tuple[Array, Array]:
        new, logp = networks.actor.module(actor)(obs).sample_and_log_prob(now_key)
        q = jnp.min(networks.critic.ensemble(critics, obs, new), axis=0)
        return jnp.mean(alpha * logp - q), jnp.mean(logp)

    (q_loss, q), grads = jax.value_and_grad(critic_loss, has_aux=True)(params.critics)
    critics, critics_opt = apply_gradients(optimizer, grads, opt_state.critics, params.critics)
    (pi_loss, logp), grads = jax.value_and_grad(actor_loss, has_aux=True)(params.actor)
    actor, actor_opt = apply_gradients(optimizer, grads, opt_state.actor, params.actor)
    log_alpha, alpha_opt = params.log_alpha, opt_state.log_alpha
    if config.alpha is None:
        slope = -alpha * (logp + target_entropy)  # of J_alpha, by log alpha
        log_alpha, alpha_opt = apply_gradients(optimizer, slope, alpha_opt, log_alpha)
    target_critics = optax.incremental_update(critics, params.targets, config.tau)
    metrics = {
        "loss/critic": q_loss,
        "loss/actor": pi_loss,
        "q": jnp.mean(q),
        "alpha": alpha,
        "entropy": -logp,
    }
    return (
        SACParams(actor, critics, target_critics, log_alpha),
        SACOptState(actor_opt, critics_opt, alpha_opt),
        jnp.mean(jnp.abs(q - target), axis=0),
        metrics,
    )


def targets(
    params: SACParams,
    sample: replay.Sample,
    key: PRNGKeyArray,
    alpha: Float[Array, ""],
    networks: Networks,
) -> Float[Array, " B"]:
    """Returns soft Q targets: reward, discounted smaller target critic, entropy of the next action."""
    next_policy = networks.actor.module(params.actor)(sample.next_obs)
    next_action, next_logp = next_policy.sample_and_log_prob(key)
    next_q = networks.critic.ensemble(params.targets, sample.next_obs, next_action)
    return value_losses.soft_q_target(
        sample.reward, next_q, next_logp, sample.terminated, sample.discount, alpha
    )
