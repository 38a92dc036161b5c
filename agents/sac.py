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
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import critics as modern
from agents import replay
from agents.core import value_losses
from agents.distributions import TanhNormal
from agents.networks import Functional, SquashedActor
from agents.normalized_networks import NormalizedSquashedActor, statistics_of, with_statistics
from agents.off_policy import OffPolicy, OffPolicyState, Update
from agents.off_policy_settings import ContinuousConfig
from agents.off_policy_state import Acted
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
    policy_delay: int = 1
    """gradient steps of the critics per step of the actor and the temperature"""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.alpha is None or self.alpha >= 0, f"alpha must not be negative, got {self.alpha}"
        )
        require(self.initial_alpha > 0, f"initial_alpha must be positive, got {self.initial_alpha}")
        self.require_at_least_one("policy_delay")


class SACParams(NamedTuple):
    """Parameters of `SAC`."""

    actor: Any
    critics: Any  # leaves [2, ...]
    targets: Any  # leaves [2, ...]; None without target networks
    log_alpha: Any  # [], 0 and of no effect where the temperature is fixed

    @property
    def acting(self) -> Any:
        """Returns those that acting needs."""
        return self.actor


class SACOptState(NamedTuple):
    """States of the optimisers of `SAC`."""

    actor: Any
    critics: Any
    log_alpha: Any


class Networks(NamedTuple):
    """The modules whose parameters a `SACParams` holds."""

    actor: Functional
    critic: Functional


# (critics, params before the step, sample, key) to a scalar that is added to the critics' loss
CriticPenalty = Callable[[Any, SACParams, replay.Sample, PRNGKeyArray], Array]


class SAC(OffPolicy):
    """Three pure functions: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = SACConfig

    def __init__(self, config: SACConfig, env: Env):
        boxes = (gymnasium.spaces.Box,)
        super().__init__(
            config,
            env,
            boxes,
            noise_correlation=config.noise_correlation,
            scale_rewards=config.normalize_returns,
        )
        space = env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        self.num_actions = int(np.prod(space.shape))
        self.target_entropy = (
            -float(self.num_actions) if config.target_entropy is None else config.target_entropy
        )
        self.networks = make_networks(self.num_inputs, self.num_actions, config)
        self.optimizer = self.adam(b1=config.adam_b1)
        # Of actor and temperature, where they take fewer steps than the critics; None: `optimizer`.
        delayed = config.policy_delay > 1
        self.actor_optimizer = self.adam(config.policy_delay, config.adam_b1) if delayed else None

    @property
    def update(self) -> Update:
        """The gradient step, `update` below, with the networks and settings of this learner."""
        return functools.partial(
            update,
            networks=self.networks,
            optimizer=self.optimizer,
            actor_optimizer=self.actor_optimizer,
            target_entropy=self.target_entropy,
            config=self.config,
        )

    def init(self, key: PRNGKeyArray) -> OffPolicyState:
        """Returns the first state."""
        actor_key, critic_key, key = jax.random.split(key, 3)
        params = first_params(actor_key, critic_key, self.networks, self.config)
        of_policy = self.actor_optimizer or self.optimizer
        opt_state = SACOptState(
            of_policy.init(params.actor),
            self.optimizer.init(params.critics),
            of_policy.init(params.log_alpha),
        )
        return self.begin(key, params, opt_state)

    def step(
        self, state: OffPolicyState, data: None = None
    ) -> tuple[OffPolicyState, dict[str, Array]]:
        """Returns the state after rounds of acting and learning."""
        return self.run(state, self.explore, self.update)

    def improve(
        self, state: OffPolicyState, steps: Acted
    ) -> tuple[OffPolicyState, dict[str, Array]]:
        """Returns the state after the learning of an iteration, whose steps actors have collected."""
        return self.learn_from(state, steps, self.update)

    def explore(self, state: OffPolicyState, obs: Any, key: PRNGKeyArray) -> Array:
        """Returns raw actions [N, ...]: a sample of the policy."""
        return self._policy(state, obs).at(state.noise)

    def acting_params(self, acting: Any) -> SACParams:
        """Returns parameters of which only those that acting needs are there."""
        return SACParams(acting, None, None, None)

    def act(
        self, state: OffPolicyState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Elements of the action space for raw observations [..., O]: tanh of the Gaussian's mean, or a sample."""
        dist = self._policy(state, obs)
        return element(self.env.action_space, dist.mode() if deterministic else dist.sample(key))

    def _policy(self, state: OffPolicyState, obs: Any) -> TanhNormal:
        return self.networks.actor.module(state.params.actor)(self.preprocess(state, obs))


def make_networks(inputs: int, actions: int, config: SACConfig) -> Networks:
    """Returns the actor and the critic by the settings."""
    return Networks(_actor(inputs, actions, config), modern.network(inputs, actions, config))


def first_params(
    actor_key: PRNGKeyArray, critic_key: PRNGKeyArray, networks: Networks, config: SACConfig
) -> SACParams:
    """Returns parameters before the first step."""
    critics, targets = modern.first(networks.critic, critic_key, 2, config)
    log_alpha = jnp.zeros(())
    if config.alpha is None:
        log_alpha = jnp.log(jnp.float32(config.initial_alpha))
    return SACParams(networks.actor.init(actor_key), critics, targets, log_alpha)


def _actor(inputs: int, actions: int, config: SACConfig) -> Functional:
    """Returns the actor's network by the settings."""
    sizes, activation = (inputs, actions, config.hidden_sizes), config.activation
    if config.actor_norm == "none":
        return Functional(lambda r: SquashedActor(*sizes, activation=activation, rngs=r))
    norm, warmup = config.actor_norm, config.renorm_warmup
    return Functional(
        lambda r: NormalizedSquashedActor(
            *sizes, activation=activation, norm=norm, warmup=warmup, rngs=r
        )
    )


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
    actor_optimizer: optax.GradientTransformation | None = None,
    penalty: CriticPenalty | None = None,
) -> tuple[SACParams, SACOptState, Float[Array, " B"], dict[str, Array]]:
    """Returns parameters after one gradient step of critics, actor and temperature, in this order.

    Args:
      sample: B transitions with preprocessed observations and raw actions in [-1, 1].
      updates: number of this gradient step, from 0: at every `policy_delay`-th actor and temperature step too.
      actor_optimizer: of actor and temperature; None: `optimizer`.
      penalty: added to the critics' loss; None: nothing.

    Returns:
      params, opt_state, TD errors [B], metrics.
    """
    next_key, now_key = jax.random.split(key)
    alpha = jnp.exp(params.log_alpha) if config.alpha is None else jnp.float32(config.alpha)
    td_loss = _critic_loss(params, sample, next_key, alpha, networks, config)

    def critic_loss(critics: Any) -> Any:
        loss, seen = td_loss(critics)
        if penalty is not None:
            loss += penalty(critics, params, sample, jax.random.fold_in(key, 2))
        return loss, seen

    (q_loss, (q, target, seen)), grads = jax.value_and_grad(critic_loss, has_aux=True)(
        params.critics
    )
    critics, critics_opt = apply_gradients(optimizer, grads, opt_state.critics, params.critics)
    if config.has_modern_critics:
        critics = modern.finish(critics, seen, config)

    def policy_step(actor: Any, log_alpha: Array, actor_opt: Any, alpha_opt: Any):
        (pi_loss, (logp, seen)), grads = jax.value_and_grad(_actor_loss, has_aux=True)(
            actor, critics, sample.obs, now_key, alpha, networks, config
        )
        optimize = actor_optimizer or optimizer
        actor, actor_opt = apply_gradients(optimize, grads, actor_opt, actor)
        actor = actor if seen is None else with_statistics(actor, seen)
        if config.alpha is None:
            slope = -alpha * (logp + target_entropy)  # of J_alpha, by log alpha
            log_alpha, alpha_opt = apply_gradients(optimize, slope, alpha_opt, log_alpha)
        return (actor, log_alpha, actor_opt, alpha_opt), (pi_loss, logp)

    present = params.actor, params.log_alpha, opt_state.actor, opt_state.log_alpha
    metrics = {"loss/critic": q_loss, "q": jnp.mean(q), "alpha": alpha}
    if config.policy_delay == 1:
        stepped, (pi_loss, logp) = policy_step(*present)
        metrics |= {"loss/actor": pi_loss, "entropy": -logp}
    else:
        # Under a vmap of seeds XLA computes both branches, see `agents.td3`.
        due = (updates + 1) % config.policy_delay == 0
        stepped = jax.lax.cond(due, lambda *x: policy_step(*x)[0], lambda *x: x, *present)
    actor, log_alpha, actor_opt, alpha_opt = stepped
    target_critics = params.targets
    if config.target_networks:
        target_critics = optax.incremental_update(critics, params.targets, config.tau)
    return (
        SACParams(actor, critics, target_critics, log_alpha),
        SACOptState(actor_opt, critics_opt, alpha_opt),
        jnp.mean(jnp.abs(q - target), axis=0),
        metrics,
    )


def _critic_loss(params, sample, key, alpha, networks, config):
    """Returns the loss as a function of the critics, with values, targets, and statistics that have seen the sample."""
    if config.has_modern_critics:
        next_policy = networks.actor.module(params.actor)(sample.next_obs)
        next_action, next_logp = next_policy.sample_and_log_prob(key)
        return functools.partial(
            modern.loss,
            targets=params.targets,
            sample=sample,
            next_action=next_action,
            bonus=alpha * next_logp,
            critic=networks.critic,
            config=config,
        )
    target = targets(params, sample, key, alpha, networks)
    return functools.partial(
        modern.squared_loss, target=target, sample=sample, critic=networks.critic
    )


def _actor_loss(actor, critics, obs, key, alpha, networks, config):
    """Returns J_pi, the mean log-prob, and the actor's parameters with statistics that have seen `obs`, or None."""
    module, seen = networks.actor.module(actor), None
    if config.actor_norm == "none":
        policy = module(obs)
    else:
        policy = module(obs, training=True)
        seen = statistics_of(module)
    new, logp = policy.sample_and_log_prob(key)
    q = jnp.min(networks.critic.ensemble(critics, obs, new), axis=0)
    return jnp.mean(alpha * logp - q), (jnp.mean(logp), seen)


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
