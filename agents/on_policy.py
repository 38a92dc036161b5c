"""What the on-policy learners share: network, normalisation, rollout, and the batch they learn from.

    state, (steps, metrics) = self.collect(state)     # act for `num_steps` steps in every environment
    batch = self.batch(state, steps)                  # what the network saw, and what it thinks of it
    ...                                               # targets and update: the learner's own
    state = self.finish(state, steps, ...)            # statistics learn of the new data, last of all

Normalisation statistics stand still through rollout and update, so that the first importance ratio is exactly 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import normalize, rollout
from agents.batch import Batch, Evaluation, Targets
from agents.core import returns
from agents.networks import ActorCritic, Functional
from agents.settings import Settings, require
from agents.spaces import element, encode, normalized, num_inputs, require_actions
from envs.base import Env

Params = Any


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig(Settings):
    """Fields of every on-policy learner. Raises ValueError, in one line, for impossible values."""

    total_steps: int = 1_000_000
    """environment steps of the whole run; the learning rate's schedule ends there"""
    num_envs: int = 16
    """environments stepped side by side"""
    num_steps: int = 128
    """steps of each environment between updates"""
    learning_rate: float = 3e-4
    """Adam's step size, at first"""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """linear: falls to zero at total_steps"""
    gamma: float = 0.99
    """discount"""
    max_grad_norm: float | None = 0.5
    """gradients longer than this are shortened to it; None: never"""
    normalize_observations: bool = True
    """observations to mean 0 and variance 1, by running statistics"""
    normalize_returns: bool = True
    """rewards divided by the running standard deviation of the discounted return"""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """units of each hidden layer, of policy and value alike"""
    activation: Literal["tanh", "relu", "elu", "swish"] = "tanh"
    """activation of the hidden layers"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("total_steps", "num_envs", "num_steps")
        self.require_positive("learning_rate")
        self.require_share("gamma")
        self.require_positive("max_grad_norm")
        self.require_hidden_sizes(self.hidden_sizes)
        self.require_count("num_envs x num_steps", self.num_envs * self.num_steps)


@dataclasses.dataclass(frozen=True)
class PolicyConfig(OnPolicyConfig):
    """Further fields of those with a policy network: all but those that act by values."""

    initial_log_std: float = 0.0
    """log standard deviation of continuous actions at first"""
    min_log_std: float | None = None
    """bound below which it does not fall; None: none. Once past the bound it stays at it: its gradient is 0 there, that
    of an entropy bonus too. A policy that is all but deterministic sees few states, and unlearns what to do in the
    others"""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.min_log_std is None or self.min_log_std <= self.initial_log_std,
            f"min_log_std must not be above initial_log_std = {self.initial_log_std}, got {self.min_log_std}",
        )


@flax.struct.dataclass
class OnPolicyState:
    # `| Any`: JAX rebuilds pytrees around placeholders, which a type checker at run time would refuse.
    params: Params
    opt_state: Any
    obs_statistics: normalize.RunningStatistics | Any  # of raw observations, encoded
    return_statistics: normalize.RunningStatistics | Any  # of discounted returns
    stream: rollout.Stream | Any
    key: PRNGKeyArray | Any
    env_steps: Array | Any  # int32 []


State = TypeVar("State", bound=OnPolicyState)


class OnPolicy:
    """The part of a learner that acts. It calls nothing of its subclasses; they write `init` and `step`.

    Raises ValueError for spaces it cannot handle.
    """

    def __init__(self, config: OnPolicyConfig, env: Env):
        require_actions(type(self).__name__, env, gymnasium.spaces.Discrete, gymnasium.spaces.Box)
        self.config: Any = config
        self.env = env
        self.num_inputs = num_inputs(env.observation_space)
        self.iteration_steps = config.num_envs * config.num_steps
        # Learners without a policy or without a value have a network of their own.
        if isinstance(config, PolicyConfig):
            self.network = Functional(
                lambda rngs: ActorCritic(
                    self.num_inputs,
                    env.action_space,
                    config.hidden_sizes,
                    activation=config.activation,
                    initial_log_std=config.initial_log_std,
                    min_log_std=config.min_log_std,
                    rngs=rngs,
                )
            )

    def adam(self) -> optax.GradientTransformation:
        """Everything but the learning rate, which is a function of the state and is applied in `update`."""
        return self.clipped(optax.scale_by_adam(eps=1e-5))

    def clipped(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """`optimizer` behind the config's bound on the gradient's length."""
        if self.config.max_grad_norm is None:
            return optimizer
        return optax.chain(optax.clip_by_global_norm(self.config.max_grad_norm), optimizer)

    def start(self, key: PRNGKeyArray) -> dict[str, Any]:
        """The fields of the first `OnPolicyState`, all but `opt_state`."""
        params_key, stream_key, key = jax.random.split(key, 3)
        return {
            "params": self.network.init(params_key),
            "obs_statistics": normalize.init((self.num_inputs,)),
            "return_statistics": normalize.init(()),
            "stream": rollout.start(self.env.at(0.0), stream_key, self.config.num_envs),
            "key": key,
            "env_steps": jnp.zeros((), jnp.int32),
        }

    def act(
        self, state: OnPolicyState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Elements of the action space for raw observations [..., O]: the distribution's mode, or a sample."""
        dist = self.distribution(state.params, self.seen(state, obs))
        return element(self.env.action_space, dist.mode() if deterministic else dist.sample(key))

    def collect(self, state: State) -> tuple[State, tuple[rollout.Steps, dict[str, Array]]]:
        """The rollout: `num_steps` steps of every environment with the present policy."""

        def act(obs: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
            dist = self.distribution(state.params, self.seen(state, obs))
            action = dist.sample(key)
            return action, dist.log_prob(action)

        return self.rollout(state, act)

    def rollout(
        self, state: State, act: Callable[[Any, PRNGKeyArray], tuple[Any, Array]]
    ) -> tuple[State, tuple[rollout.Steps, dict[str, Array]]]:
        """The same with any way to `act`: (raw observations, key) to (raw actions, log-probs)."""
        rollout_key, key = jax.random.split(state.key)
        env = self.env.at(state.env_steps)
        stream, steps, metrics = rollout.collect_steps(
            env, act, state.stream, rollout_key, self.config.num_steps, self.config.gamma
        )
        return dataclasses.replace(state, stream=stream, key=key), (steps, metrics)

    def batch(self, state: OnPolicyState, steps: rollout.Steps) -> Batch:
        """What the learner sees of the steps, under the statistics that the policy acted with."""
        obs = self.seen(state, steps.obs)
        return Batch(
            obs=obs,
            action=steps.action,
            logp=steps.logp,
            value=self.value(state.params, obs),
            next_value=self.value(state.params, self.seen(state, steps.next_obs)),
            reward=self.scaled_reward(state, steps.reward),
            terminated=steps.terminated,
            truncated=steps.truncated,
            mask=jnp.ones_like(steps.terminated),
        )

    def finish(
        self, state: State, steps: rollout.Steps, params: Params, opt_state: Any, **changes: Any
    ) -> State:
        """The state after an iteration: the statistics learn of the steps. `changes` are further fields."""
        obs = encode(self.env.observation_space, steps.obs)
        return dataclasses.replace(
            state,
            params=params,
            opt_state=opt_state,
            obs_statistics=normalize.update(state.obs_statistics, obs),
            return_statistics=normalize.update(state.return_statistics, steps.discounted_return),
            env_steps=state.env_steps + self.iteration_steps,
            **changes,
        )

    def seen(self, state: OnPolicyState, obs: Array) -> Float[Array, "*batch inputs"]:
        """Raw observations as the network sees them."""
        space = self.env.observation_space
        if self.config.normalize_observations:
            return normalized(space, state.obs_statistics, obs)
        return encode(space, obs)

    def scaled_reward(self, state: OnPolicyState, reward: Array) -> Array:
        """Rewards as the learner sees them."""
        if not self.config.normalize_returns:
            return reward
        return reward / return_scale(state.return_statistics)

    def evaluate(self, params: Params, obs: Array, action: Array) -> Evaluation:
        dist = self.distribution(params, obs)
        entropy = jnp.broadcast_to(dist.entropy(), obs.shape[:-1])
        return Evaluation(dist.log_prob(action), entropy, self.value(params, obs))

    def distribution(self, params: Params, obs: Array) -> Any:
        return self.network.module(params).distribution(obs)

    def value(self, params: Params, obs: Array) -> Float[Array, "..."]:
        return self.network.module(params).value(obs)

    def learning_rate(self, env_steps: Array) -> Float[Array, ""]:
        if self.config.learning_rate_schedule == "constant":
            return jnp.asarray(self.config.learning_rate)
        return self.config.learning_rate * self.left(env_steps)

    def left(self, env_steps: Array) -> Float[Array, ""]:
        """The share of the run that is still to come."""
        return 1.0 - jnp.minimum(env_steps / self.config.total_steps, 1.0)


def gae_targets(batch: Batch, gamma: float, gae_lambda: float) -> Targets:
    """Generalised advantages, and TD(lambda) targets for the value."""
    advantage = returns.gae(
        batch.reward,
        batch.value,
        batch.next_value,
        batch.terminated,
        batch.truncated,
        gamma,
        gae_lambda,
        batch.mask,
    )
    return Targets(advantage, advantage + batch.value)


def return_scale(statistics: normalize.RunningStatistics) -> Float[Array, ""]:
    """Standard deviation of the discounted return; not below a tenth of the mean, or where all returns are alike
    rewards would be blown up without bound."""
    return jnp.maximum(normalize.std(statistics), 0.1 * jnp.abs(statistics.mean))
