"""Deep Q-network. Mnih et al. 2015, https://doi.org/10.1038/nature14236

    y   = r + gamma Q_bar(s', argmax_a Q(s', a))       double: van Hasselt et al. 2016, https://arxiv.org/abs/1509.06461
    y   = r + gamma max_a Q_bar(s', a)                 otherwise
    J_Q = E[(Q(s, a) - y)^2 / 2]                       or Huber's loss, as in the paper

With `n_step` rewards before the bootstrap, `dueling` heads and `prioritized` replay (Schaul et al. 2016). Q_bar is a
copy of Q, renewed every `target_period` gradient steps, or its moving average (`target_update="soft"`). On continuous
actions each joint is discretised and has values of its own, see `q_values`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import replay, schedules
from agents.core import value_losses
from agents.networks import Functional
from agents.off_policy import OffPolicy, OffPolicyState, Update
from agents.off_policy_settings import OffPolicyConfig
from agents.off_policy_state import Acted
from agents.optimisers import apply_gradients
from agents.q_values import (
    ActionGrid,
    QNetwork,
    epsilon_greedy,
    greedy,
    require_bins,
    value_of,
)
from agents.settings import require
from agents.spaces import element
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class DQNConfig(OffPolicyConfig):
    """Settings of `DQN`."""

    total_steps: int = 200_000
    """environment steps of the whole run, warm-up included"""
    num_envs: int = 8
    """number of parallel environments"""
    learning_rate: float = 5e-4
    """initial learning rate of Adam"""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """linear: falls to zero at total_steps"""
    num_steps: int = 4
    """steps of each environment per iteration"""
    update_ratio: float = 0.25
    """gradient steps per environment step"""
    warmup_steps: int = 1_000
    """environment steps with random actions, before learning starts"""
    normalize_observations: bool = True
    """normalise observations by running mean and variance; without it, coordinates as small as MountainCar's velocity
    have no effect, and the car never leaves the valley"""
    buffer_size: int = 10_000
    """capacity of the replay buffer, in environment steps"""
    batch_size: int = 128
    """transitions per gradient step"""
    max_grad_norm: float | None = 10.0
    """largest norm of the gradient, which is clipped to it; None: no clipping"""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """units of each hidden layer"""
    loss: Literal["squared", "huber"] = "squared"
    """loss of the TD error; huber suits rewards clipped to [-1, 1]: with large values it underweights rare terminal
    rewards"""
    double: bool = True
    """double Q-learning: the online network chooses the action, the target network evaluates it"""
    dueling: bool = False
    """dueling network: separate heads for state value and advantages"""
    layer_norm: bool = False
    """layer normalisation before each activation, as in PQN"""
    target_update: Literal["hard", "soft"] = "hard"
    """update of the target network: a copy every target_period gradient steps (hard), or a moving average with rate tau
    (soft)"""
    target_period: int = 50
    """gradient steps between copies (hard)"""
    epsilon_end: float = 0.05
    """final epsilon, the share of random actions, drawn independently for each joint; it falls from 1"""
    epsilon_fraction: float = 0.25
    """share of the run over which epsilon falls"""
    prioritized: bool = False
    """replay transitions in proportion to their TD errors"""
    priority_beta: float = 0.4
    """initial exponent of the importance weights; it rises to 1 (prioritized)"""
    bins: int = 3
    """number of values per joint, for continuous actions"""
    bin_span: float = 1.0
    """share of the action range that the values cover, around its centre"""

    def __post_init__(self):
        super().__post_init__()
        for name in ("epsilon_end", "epsilon_fraction", "priority_beta"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must be between 0 and 1, got {value}")
        require(
            self.target_period >= 1, f"target_period must be at least 1, got {self.target_period}"
        )
        require_bins(self.bins, self.bin_span)


class DQNParams(NamedTuple):
    """Parameters of `DQN`."""

    online: Any
    target: Any

    @property
    def acting(self) -> Any:
        """Returns those that acting needs."""
        return self.online


# (values of all choices [B, D, K], choices that were made [B, D]) to a scalar
Penalty = Callable[[Array, Array], Array]


class DQN(OffPolicy):
    """Three pure functions: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = DQNConfig

    def __init__(self, config: DQNConfig, env: Env):
        actions = (gymnasium.spaces.Discrete, gymnasium.spaces.Box)
        super().__init__(config, env, actions, prioritized=config.prioritized)
        self.choices = ActionGrid(env.action_space, config.bins, config.bin_span)
        self.network = Functional(
            lambda rngs: QNetwork(
                self.num_inputs,
                self.choices,
                config.hidden_sizes,
                activation=config.activation,
                dueling=config.dueling,
                layer_norm=config.layer_norm,
                rngs=rngs,
            )
        )
        self.optimizer = self.adam()

    @property
    def update(self) -> Update:
        """The gradient step, `update` below, with the network and settings of this learner."""
        return functools.partial(
            update,
            network=self.network,
            choices=self.choices,
            optimizer=self.optimizer,
            config=self.config,
        )

    def init(self, key: PRNGKeyArray) -> OffPolicyState:
        """Returns the first state."""
        params_key, key = jax.random.split(key)
        online = self.network.init(params_key)
        opt_state = self.optimizer.init(online)
        return self.begin(key, DQNParams(online, online), opt_state, self.random_choices)

    def step(
        self, state: OffPolicyState, data: None = None
    ) -> tuple[OffPolicyState, dict[str, Array]]:
        """Returns the state after rounds of acting and learning."""
        state, metrics = self.run(state, self.explore, self.update, self.beta(state))
        return state, {**metrics, "epsilon": self.epsilon(state.env_steps)}

    def improve(
        self, state: OffPolicyState, steps: Acted
    ) -> tuple[OffPolicyState, dict[str, Array]]:
        """Returns the state after the learning of an iteration, whose steps actors have collected."""
        return self.learn_from(state, steps, self.update, self.beta(state))

    def explore(self, state: OffPolicyState, obs: Any, key: PRNGKeyArray) -> Array:
        """Returns raw actions [N, ...]: epsilon-greedy."""
        return self.choices.action(self._explore(state, obs, key))

    def acting_params(self, acting: Any) -> DQNParams:
        """Returns parameters of which only those that acting needs are there."""
        return DQNParams(acting, None)

    def beta(self, state: OffPolicyState) -> Float[Array, ""]:
        """Returns the exponent of the importance weights."""
        config = self.config
        return schedules.linear(config.priority_beta, 1.0, config.total_steps, state.env_steps)

    def act(
        self, state: OffPolicyState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Greedy elements of the action space for raw observations [*batch, O], or epsilon-greedy ones."""
        choice = greedy(self._q(state, obs)) if deterministic else self._explore(state, obs, key)
        return element(self.env.action_space, self.choices.action(choice))

    def random_choices(self, state: OffPolicyState, obs: Any, key: PRNGKeyArray) -> Array:
        """[N, ...], uniform over the choices: what lies between them would be credited to the nearest."""
        return self.choices.action(self.choices.random(key, self.config.num_envs))

    def epsilon(self, env_steps: Array) -> Float[Array, ""]:
        """Returns the share of random actions after `env_steps`."""
        span = self.config.epsilon_fraction * self.config.total_steps
        return schedules.linear(1.0, self.config.epsilon_end, span, env_steps)

    def _explore(self, state: OffPolicyState, obs: Any, key: PRNGKeyArray) -> Array:
        epsilon = self.epsilon(state.env_steps)
        return epsilon_greedy(self._q(state, obs), self.choices, epsilon, key)

    def _q(self, state: OffPolicyState, obs: Any) -> Array:
        return self.network.module(state.params.online)(self.preprocess(state, obs))


def update(
    params: DQNParams,
    opt_state: Any,
    sample: replay.Sample,
    key: PRNGKeyArray,
    updates: Array,
    *,
    network: Functional,
    choices: ActionGrid,
    optimizer: optax.GradientTransformation,
    config: DQNConfig,
    penalty: Penalty | None = None,
) -> tuple[DQNParams, Any, Float[Array, " B"], dict[str, Array]]:
    """Returns parameters after one gradient step.

    Args:
      sample: B transitions with preprocessed observations and raw actions.
      key: of no use here.
      updates: number of this gradient step, from 0.
      penalty: added to the loss; None: nothing.

    Returns:
      params, opt_state, TD errors [B], metrics.
    """
    target = targets(params, sample, network, config)
    error = value_losses.huber if config.loss == "huber" else value_losses.squared_error

    def loss(online: Any) -> tuple[Array, Array]:
        every, choice = network.module(online)(sample.obs), choices.choice(sample.action)
        q = value_of(every, choice)
        total = jnp.mean(sample.weight * error(q, target))
        if penalty is not None:
            total += penalty(every, choice)
        return total, q

    (q_loss, q), grads = jax.value_and_grad(loss, has_aux=True)(params.online)
    online, opt_state = apply_gradients(optimizer, grads, opt_state, params.online)
    if config.target_update == "soft":
        target_params = optax.incremental_update(online, params.target, config.tau)
    else:
        due = (updates + 1) % config.target_period == 0
        target_params = jax.tree.map(
            lambda new, old: jnp.where(due, new, old), online, params.target
        )
    metrics = {"loss/q": q_loss, "q": jnp.mean(q), "grad_norm": optax.tree.norm(grads)}
    return DQNParams(online, target_params), opt_state, jnp.abs(q - target), metrics


def targets(
    params: DQNParams, sample: replay.Sample, network: Functional, config: DQNConfig
) -> Float[Array, " B"]:
    """Returns Q targets: `value_losses.double_q_target` with the best of every coordinate, and the mean over them."""
    next_q = network.module(params.target)(sample.next_obs)
    chooser = network.module(params.online)(sample.next_obs) if config.double else next_q
    next_value = value_of(next_q, greedy(chooser))
    return value_losses.td_target(sample.reward, next_value, sample.terminated, sample.discount)
