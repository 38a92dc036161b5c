"""Shared by learners from a dataset: drawing, preprocessing, and the gradient steps of an iteration.

    state = self.begin(key, params, opt_state)
    state, metrics = self.run(state, data, update)      # `iteration_steps` gradient steps

Steps are gradient steps here: no environment is stepped but to evaluate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import normalize, replay
from agents.off_policy import OffPolicyState, Update, learn
from agents.offline.data import OfflineData, draw, reward_scale, take
from agents.settings import Settings, require
from agents.spaces import encode, normalized, num_inputs, require_actions, require_bounds
from envs.base import Env

Params = Any

ITERATION_UPDATES = 250  # gradient steps of an iteration: a second or so


@dataclasses.dataclass(frozen=True)
class OfflineConfig(Settings):
    """Fields of every learner from a dataset. Raises ValueError, in one line, for impossible values."""

    total_steps: int = 200_000
    """gradient steps of the whole run"""
    batch_size: int = 256
    """samples of a gradient step"""
    learning_rate: float = 3e-4
    """Adam's step size, at first"""
    learning_rate_schedule: Literal["linear", "constant"] = "constant"
    """linear: falls to zero at total_steps"""
    normalize_observations: bool = True
    """observations to mean 0 and variance 1, by the dataset's statistics"""
    max_grad_norm: float | None = None
    """gradients longer than this are shortened to it; None: never"""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """units of each hidden layer"""
    activation: Literal["tanh", "relu", "elu", "swish"] = "relu"
    """activation of the hidden layers"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("total_steps", "batch_size")
        self.require_positive("learning_rate", "max_grad_norm")
        self.require_hidden_sizes(self.hidden_sizes)


@dataclasses.dataclass(frozen=True)
class OfflineValueConfig(OfflineConfig):
    """Fields of learners of values from a dataset."""

    gamma: float = 0.99
    """discount"""
    tau: float = 0.005
    """share of the online network that goes into the target network, whenever that is moved"""

    def __post_init__(self):
        super().__post_init__()
        self.require_share("gamma")
        require(0 < self.tau <= 1, f"tau must be in (0, 1], got {self.tau}")


class OfflineLearner:
    """The part of a learner that draws from a dataset. Its users write `init`, `step` and `act`.

    Args:
      actions: kinds of action spaces that it can handle.

    Raises ValueError for spaces it cannot handle.
    """

    unit: ClassVar[str] = (
        "gradient steps"  # in which `iteration_steps` and the state's `env_steps` count
    )
    warmup_steps = 0

    def __init__(self, config: Any, env: Env, actions: tuple[type[gymnasium.Space], ...]):
        require_actions(type(self).__name__, env, *actions)
        require_bounds(type(self).__name__, env)
        self.config = config
        self.env = env
        self.num_inputs = num_inputs(env.observation_space)
        self.iteration_steps = min(ITERATION_UPDATES, config.total_steps)
        space = env.action_space
        self.discrete = isinstance(space, gymnasium.spaces.Discrete)
        # Of a network that is given actions: those of a Discrete space as one-hot vectors.
        self.num_actions = (
            int(space.n)
            if isinstance(space, gymnasium.spaces.Discrete)
            else int(np.prod(space.shape or ()))
        )

    def adam(
        self, learning_rate: float | None = None, every: int = 1
    ) -> optax.GradientTransformation:
        """The optimiser of a network that takes one in `every` of the gradient steps; None: the config's rate."""
        config = self.config
        clip = [optax.clip_by_global_norm(config.max_grad_norm)] if config.max_grad_norm else []
        rate: Any = config.learning_rate if learning_rate is None else learning_rate
        if config.learning_rate_schedule == "linear":
            rate = optax.linear_schedule(rate, 0.0, max(config.total_steps // every, 1))
        return optax.chain(*clip, optax.adam(rate))

    def begin(self, key: PRNGKeyArray, params: Params, opt_state: Any) -> OffPolicyState:
        """The first state: statistics of no observations, which the first step takes from the data."""
        return OffPolicyState(
            params=params,
            opt_state=opt_state,
            obs_statistics=normalize.init((self.num_inputs,)),
            buffer=None,
            stream=None,
            key=key,
            env_steps=jnp.zeros((), jnp.int32),
            updates=jnp.zeros((), jnp.int32),
        )

    def run(
        self,
        state: OffPolicyState,
        data: OfflineData | None,
        update: Update,
        *,
        gamma: float = 1.0,
        best_fraction: float = 1.0,
        scale_rewards: bool = False,
        sample: Callable[[OfflineData, PRNGKeyArray], replay.Sample] | None = None,
    ) -> tuple[Any, dict[str, Array]]:
        """One iteration: gradient steps on samples of the dataset.

        Args:
          update: one gradient step, on preprocessed observations.
          gamma: discount of the samples.
          best_fraction: see `agents.offline.data.draw`.
          scale_rewards: by `agents.offline.data.reward_scale`.
          sample: draws the sample of a step in another way, observations raw.

        Raises ValueError without data.
        """
        dataset = self.require_data(data)
        config = self.config
        key, steps_key = jax.random.split(state.key)
        state = dataclasses.replace(state, key=key, obs_statistics=dataset.obs_statistics)
        scale = reward_scale(dataset) if scale_rewards else 1.0

        def transitions(data: OfflineData, key: PRNGKeyArray) -> replay.Sample:
            index = draw(data, key, config.batch_size, best_fraction)
            return take(data, index, gamma, scale)

        def one_step(state: OffPolicyState, key: PRNGKeyArray):
            sample_key, update_key = jax.random.split(key)
            drawn = (sample or transitions)(dataset, sample_key)
            obs, next_obs = (self.preprocess(state, x) for x in (drawn.obs, drawn.next_obs))
            drawn = drawn._replace(obs=obs, next_obs=next_obs)
            state, _, metrics = learn(update, drawn, state, update_key)
            return state, metrics

        keys = jax.random.split(steps_key, self.iteration_steps)
        state, metrics = jax.lax.scan(one_step, state, keys)
        state = dataclasses.replace(state, env_steps=state.env_steps + self.iteration_steps)
        return state, {name: jnp.mean(x) for name, x in metrics.items()}

    def require_data(self, data: OfflineData | None) -> OfflineData:
        """Raises ValueError where `step` was given no dataset."""
        if data is None:
            raise ValueError(f"{type(self).__name__} learns from a dataset: step(state, data)")
        return data

    def preprocess(self, state: OffPolicyState, obs: Any) -> Float[Array, "*batch inputs"]:
        """Returns raw observations as the networks see them; the dataset holds raw ones."""
        space = self.env.observation_space
        if self.config.normalize_observations:
            return normalized(space, state.obs_statistics, obs)
        return encode(space, obs)

    def learned(self, state: OffPolicyState) -> Params:
        """Returns the parameters of all networks."""
        return state.params

    def buffer_bytes(self) -> int:
        """Returns 0: the dataset is shared by all seeds, and no learner's own."""
        return 0
