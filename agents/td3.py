"""Twin delayed deep deterministic policy gradient. Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477

    a'   = clip(mu_bar(s') + clip(eps, -c, c), -1, 1),  eps ~ N(0, sigma)     target policy smoothing, eq. 14
    y    = r + gamma min_i Q_bar_i(s', a')                                   clipped double Q-learning, eq. 10
    J_Q  = E[sum_i (Q_i(s, a) - y)^2 / 2]
    J_mu = E[-Q_1(s, mu(s))]                  every `policy_delay` steps, as are the moving averages (delayed updates)

DDPG (Lillicrap et al. 2016, https://arxiv.org/abs/1509.02971) is this with its three additions switched off: one
critic, no smoothing, no delay; its paper explores by noise that lasts (`noise_correlation` 0.85, see
`agents.exploration`). Actions are scaled to [-1, 1].
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
from agents.networks import MLP, Functional
from agents.off_policy import OffPolicy, OffPolicyState, Update
from agents.off_policy_settings import ContinuousConfig
from agents.off_policy_state import Acted
from agents.optimisers import apply_gradients
from agents.settings import require
from agents.spaces import element
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class TD3Config(ContinuousConfig):
    """Settings of `TD3`."""

    exploration_noise: float = 0.1
    """standard deviation of the noise on actions in [-1, 1], while training"""
    num_critics: int = 2
    """Q networks; targets take the smallest"""
    target_noise: float = 0.2
    """standard deviation of the noise on target actions; 0: no smoothing"""
    target_noise_clip: float = 0.5
    """bound to which target noise is clipped"""
    policy_delay: int = 2
    """critic gradient steps per update of the actor and the target networks"""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.actor_norm == "none",
            f"actor_norm is SAC's, TD3's actor has none, got {self.actor_norm}",
        )
        for name in ("num_critics", "policy_delay"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1, got {value}")
        for name in ("exploration_noise", "target_noise", "target_noise_clip"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must not be negative, got {value}")


@dataclasses.dataclass(frozen=True)
class DDPGConfig(TD3Config):
    """Settings of `DDPG`."""

    num_critics: int = 1
    """Q networks; targets take the smallest"""
    target_noise: float = 0.0
    """standard deviation of the noise on target actions; 0: no smoothing"""
    policy_delay: int = 1
    """critic gradient steps per update of the actor and the target networks"""


class TD3Params(NamedTuple):
    """Parameters of `TD3`."""

    actor: Any
    critics: Any  # leaves [num_critics, ...]
    target_actor: Any  # None without target networks
    target_critics: Any  # the same

    @property
    def acting(self) -> Any:
        """Returns those that acting needs."""
        return self.actor


class TD3OptState(NamedTuple):
    """States of the optimisers of `TD3`."""

    actor: Any
    critics: Any


class Networks(NamedTuple):
    """The modules whose parameters a `TD3Params` holds."""

    actor: Functional
    critic: Functional

    def mu(self, actor: Any, obs: Array) -> Array:
        """Returns the deterministic policy's raw actions, in (-1, 1)."""
        return jnp.tanh(self.actor.module(actor)(obs))


# (actor, critics after their step, sample, networks) to a scalar
ActorLoss = Callable[[Any, Any, replay.Sample, Networks], Array]


def make_networks(inputs: int, actions: int, config: TD3Config) -> Networks:
    """Returns an actor, whose actions are near 0 at first, and a critic."""
    hidden, activation = config.hidden_sizes, config.activation
    return Networks(
        Functional(
            lambda r: MLP(inputs, hidden, actions, activation=activation, head_gain=0.01, rngs=r)
        ),
        modern.network(inputs, actions, config),
    )


class TD3(OffPolicy):
    """Three pure functions: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = TD3Config

    def __init__(self, config: TD3Config, env: Env):
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
        self.networks = make_networks(self.num_inputs, int(np.prod(space.shape)), config)
        self.actor_optimizer = self.adam(config.policy_delay, config.adam_b1)
        self.critic_optimizer = self.adam(b1=config.adam_b1)

    @property
    def update(self) -> Update:
        """The gradient step, `update` below, with the networks and settings of this learner."""
        return functools.partial(
            update,
            networks=self.networks,
            actor_optimizer=self.actor_optimizer,
            critic_optimizer=self.critic_optimizer,
            config=self.config,
        )

    def init(self, key: PRNGKeyArray) -> OffPolicyState:
        """Returns the first state."""
        actor_key, critic_key, key = jax.random.split(key, 3)
        actor = self.networks.actor.init(actor_key)
        critics, targets = modern.first(
            self.networks.critic, critic_key, self.config.num_critics, self.config
        )
        opt_state = TD3OptState(
            self.actor_optimizer.init(actor), self.critic_optimizer.init(critics)
        )
        target_actor = actor if self.config.target_networks else None
        return self.begin(key, TD3Params(actor, critics, target_actor, targets), opt_state)

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
        """Returns raw actions [N, ...]: mu(s) with noise."""
        action = self.networks.mu(state.params.actor, self.preprocess(state, obs))
        return self._noisy(action, state.noise)

    def acting_params(self, acting: Any) -> TD3Params:
        """Returns parameters of which only those that acting needs are there."""
        return TD3Params(acting, None, None, None)

    def act(
        self, state: OffPolicyState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Elements of the action space for raw observations [..., O]: mu(s), or that with Gaussian noise."""
        action = self.networks.mu(state.params.actor, self.preprocess(state, obs))
        noise = jnp.zeros(()) if deterministic else jax.random.normal(key, action.shape)
        return element(self.env.action_space, self._noisy(action, noise))

    def _noisy(self, action: Array, noise: Array) -> Array:
        return jnp.clip(action + self.config.exploration_noise * noise, -1.0, 1.0)


class DDPG(TD3):
    """TD3 with its three additions switched off."""

    Config: ClassVar[type] = DDPGConfig


def policy_loss(
    actor: Any, critics: Any, sample: replay.Sample, networks: Networks
) -> Float[Array, ""]:
    """-E[Q_1(s, mu(s))], Fujimoto et al. 2018, algorithm 1."""
    first = jax.tree.map(lambda x: x[0], critics)
    obs = sample.obs
    return -jnp.mean(networks.critic.module(first)(obs, networks.mu(actor, obs)))


def update(
    params: TD3Params,
    opt_state: TD3OptState,
    sample: replay.Sample,
    key: PRNGKeyArray,
    updates: Array,
    *,
    networks: Networks,
    actor_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    config: TD3Config,
    actor_loss: ActorLoss | None = None,
) -> tuple[TD3Params, TD3OptState, Float[Array, " B"], dict[str, Array]]:
    """Returns parameters after one gradient step of the critics, and at every `policy_delay`-th one of the actor.

    Args:
      sample: B transitions with preprocessed observations and raw actions in [-1, 1].
      updates: number of this gradient step, from 0.
      actor_loss: what the actor descends; None: `policy_loss`.

    Returns:
      params, opt_state, TD errors [B], metrics.
    """
    actor_loss = actor_loss or policy_loss
    critic_loss = _critic_loss(params, sample, key, networks, config)

    (q_loss, (q, target, seen)), grads = jax.value_and_grad(critic_loss, has_aux=True)(
        params.critics
    )
    critics, critics_opt = apply_gradients(
        critic_optimizer, grads, opt_state.critics, params.critics
    )
    if config.has_modern_critics:
        critics = modern.finish(critics, seen, config)

    def delayed(actor: Any, actor_opt: Any) -> tuple[Any, ...]:
        grads = jax.grad(actor_loss)(actor, critics, sample, networks)
        actor, actor_opt = apply_gradients(actor_optimizer, grads, actor_opt, actor)
        moving = params.target_actor, params.target_critics
        if config.target_networks:
            moving = optax.incremental_update((actor, critics), moving, config.tau)
        return actor, actor_opt, *moving

    def waiting(actor: Any, actor_opt: Any) -> tuple[Any, ...]:
        return actor, actor_opt, params.target_actor, params.target_critics

    # The number of the step is the same for all seeds, but under vmap XLA cannot know: there both are computed.
    due = (updates + 1) % config.policy_delay == 0
    actor, actor_opt, target_actor, target_critics = jax.lax.cond(
        due, delayed, waiting, params.actor, opt_state.actor
    )
    metrics = {"loss/critic": q_loss, "q": jnp.mean(q)}
    return (
        TD3Params(actor, critics, target_actor, target_critics),
        TD3OptState(actor_opt, critics_opt),
        jnp.mean(jnp.abs(q - target), axis=0),
        metrics,
    )


def _critic_loss(params, sample, key, networks, config):
    """Returns the loss as a function of the critics, with values, targets, and statistics that have seen the sample."""
    if config.has_modern_critics:
        return functools.partial(
            modern.loss,
            targets=params.target_critics,
            sample=sample,
            next_action=_next_action(params, sample, key, networks, config),
            bonus=0.0,
            critic=networks.critic,
            config=config,
        )
    target = targets(params, sample, key, networks, config)
    return functools.partial(
        modern.squared_loss, target=target, sample=sample, critic=networks.critic
    )


def targets(
    params: TD3Params,
    sample: replay.Sample,
    key: PRNGKeyArray,
    networks: Networks,
    config: TD3Config,
) -> Float[Array, " B"]:
    """Returns Q targets: reward, and the smaller target critic's value of the smoothed target action, discounted."""
    next_action = _next_action(params, sample, key, networks, config)
    next_q = networks.critic.ensemble(params.target_critics, sample.next_obs, next_action)
    return value_losses.clipped_double_q_target(
        sample.reward, next_q, sample.terminated, sample.discount
    )


def _next_action(params, sample, key, networks, config) -> Array:
    """Returns the target policy's actions at the next observations, smoothed by clipped noise."""
    actor = params.target_actor if config.target_networks else params.actor
    next_action = networks.mu(actor, sample.next_obs)
    noise = config.target_noise * jax.random.normal(key, next_action.shape)
    noise = jnp.clip(noise, -config.target_noise_clip, config.target_noise_clip)
    return jnp.clip(next_action + noise, -1.0, 1.0)
