"""Shared by learners with a replay buffer: warm-up, acting, storing, and the order in which these and the gradient
steps follow one another.

    state = self.begin(key, params, opt_state)          # `warmup_steps` random steps into the buffer
    state, metrics = self.run(state, explore, update)   # rounds of: act, store, `update_ratio` gradient steps a step

The ratio of gradient steps to environment steps is exactly `update_ratio`, whatever the number of environments. An
iteration is some 256 environment steps, so that a compiled program has something to chew on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import normalize, replay, rollout
from agents.exploration import next_noise
from agents.off_policy_settings import OffPolicyConfig
from agents.spaces import encode, normalized, num_inputs, require_actions, require_bounds
from envs import base
from envs.base import Env

Params = Any

RESET_BANK = 32  # start states for the resets of one iteration, where the environment wants a bank


@flax.struct.dataclass
class OffPolicyState:
    """The state of a learner with a replay buffer."""

    params: Params  # of all networks, targets included, as the learner arranges them
    opt_state: Any
    obs_statistics: normalize.RunningStatistics | Any  # of raw observations, encoded
    buffer: replay.ReplayState | Any
    stream: rollout.Stream | Any
    key: PRNGKeyArray | Any
    env_steps: Array | Any  # int32 []
    updates: Array | Any  # int32 [], gradient steps
    noise: Array | Any = None  # [N, A], exploration noise of this step; None: no such exploration
    # Of discounted returns; None: rewards are not scaled by them.
    return_statistics: normalize.RunningStatistics | Any = None


# (state, raw observations [N, ...], key) to raw actions [N, ...], by `state.noise` where there is one
Explore = Callable[[OffPolicyState, Any, PRNGKeyArray], Array]
# (params, opt_state, sample with preprocessed observations, key, number of the gradient step) to
# (params, opt_state, TD errors [B], metrics)
Update = Callable[
    [Params, Any, replay.Sample, PRNGKeyArray, Array],
    tuple[Params, Any, Float[Array, " B"], dict[str, Array]],
]


def learn(
    update: Update, sample: replay.Sample, state: OffPolicyState, key: PRNGKeyArray
) -> tuple[OffPolicyState, Float[Array, " B"], dict[str, Array]]:
    """Returns the state after one gradient step on a sample with preprocessed observations, TD errors, and metrics.

    Where the sample comes from does not matter: a replay buffer, or a dataset.
    """
    params, opt_state, td_error, metrics = update(
        state.params, state.opt_state, sample, key, state.updates
    )
    state = dataclasses.replace(
        state, params=params, opt_state=opt_state, updates=state.updates + 1
    )
    return state, td_error, metrics


class OffPolicy:
    """The part of a learner that acts and remembers. Its users write `init`, `step` and `act`.

    Raises ValueError for spaces it cannot handle.
    """

    def __init__(
        self,
        config: OffPolicyConfig,
        env: Env,
        actions: tuple[type[gymnasium.Space], ...],
        *,
        prioritized: bool = False,
        noise_correlation: float | None = None,
        scale_rewards: bool = False,
    ):
        require_actions(type(self).__name__, env, *actions)
        require_bounds(type(self).__name__, env)
        self.config: Any = config
        self.env = env
        self.prioritized = prioritized
        self.noise_correlation = noise_correlation
        self.scale_rewards = scale_rewards
        self.num_inputs = num_inputs(env.observation_space)
        self.iteration_steps = config.rounds * config.round_steps
        # Whole rows of the buffer, and at least what the first sample needs.
        rows = max(-(-config.warmup_steps // config.num_envs), config.n_step)
        self.warmup_steps = rows * config.num_envs

    def adam(self, every: int = 1, b1: float = 0.9) -> optax.GradientTransformation:
        """The optimiser of a network that takes one in `every` of the gradient steps; `b1`: decay of Adam's mean."""
        config = self.config
        clip = [optax.clip_by_global_norm(config.max_grad_norm)] if config.max_grad_norm else []
        rate = config.learning_rate
        if config.learning_rate_schedule == "linear":
            learning_steps = max(config.total_steps - self.warmup_steps, 1)
            steps = round(learning_steps * config.update_ratio / every)
            rate = optax.linear_schedule(rate, 0.0, max(steps, 1))
        return optax.chain(*clip, optax.adam(rate, b1=b1))

    def begin(
        self, key: PRNGKeyArray, params: Params, opt_state: Any, explore: Explore | None = None
    ) -> OffPolicyState:
        """The state after the warm-up, in which `explore` acts; None: random actions, uniform over the action space."""
        config, env = self.config, self.env.at(0.0)
        stream_key, warmup_key, key = jax.random.split(key, 3)
        stream = rollout.start(env, stream_key, config.num_envs)
        buffer = replay.init(
            self.example(),
            config.buffer_size,
            config.num_envs,
            config.n_step,
            prioritized=self.prioritized,
        )
        state = OffPolicyState(
            params=params,
            opt_state=opt_state,
            obs_statistics=normalize.init((self.num_inputs,)),
            buffer=buffer,
            stream=stream,
            key=key,
            env_steps=jnp.zeros((), jnp.int32),
            updates=jnp.zeros((), jnp.int32),
            return_statistics=normalize.init(()) if self.scale_rewards else None,
        )
        bank_key, steps_key = jax.random.split(warmup_key)
        bank = self._bank(env, bank_key)
        explore = explore or self.random_actions

        def body(state, key):
            state, (watched, _) = self._act(env, state, explore, key, bank)
            return state, watched

        keys = jax.random.split(steps_key, self.warmup_steps // config.num_envs)
        state = self._watch(*jax.lax.scan(body, state, keys))
        if self.noise_correlation is None:
            return state
        shape = config.num_envs, *(env.action_space.shape or ())
        return dataclasses.replace(state, noise=jnp.zeros(shape))

    def run(
        self, state: OffPolicyState, explore: Explore, update: Update, beta: Any = 1.0
    ) -> tuple[OffPolicyState, dict[str, Array]]:
        """Returns the state after one iteration, and its metrics.

        Args:
          explore: (state, raw observations [N, ...], key) to raw actions [N, ...], with `state.noise` if there is any.
          update: one gradient step.
          beta: exponent of the importance weights of prioritised replay.
        """
        config = self.config
        env = self.env.at(state.env_steps)
        bank_key, rounds_key, key = jax.random.split(state.key, 3)
        bank = self._bank(env, bank_key)

        def act(state, key):
            return self._act(env, state, explore, key, bank)

        def learn_from_buffer(state, key):
            sample_key, update_key = jax.random.split(key)
            sample = replay.sample(state.buffer, sample_key, config.batch_size, config.gamma, beta)
            obs, next_obs = (
                self.preprocess(state, sample.obs),
                self.preprocess(state, sample.next_obs),
            )
            sample = sample._replace(obs=obs, next_obs=next_obs)
            if self.scale_rewards:
                reward = normalize.scaled_reward(state.return_statistics, sample.reward)
                sample = sample._replace(reward=reward)
            state, td_error, metrics = learn(update, sample, state, update_key)
            if self.prioritized:
                buffer = replay.update_priorities(state.buffer, sample.index, td_error)
                state = dataclasses.replace(state, buffer=buffer)
            return state, metrics

        def one_round(state, key):
            act_key, learn_key = jax.random.split(key)
            state, steps = jax.lax.scan(act, state, jax.random.split(act_key, config.num_steps))
            state, metrics = jax.lax.scan(
                learn_from_buffer, state, jax.random.split(learn_key, config.round_updates)
            )
            return state, (steps, metrics)

        keys = jax.random.split(rounds_key, config.rounds)
        state, ((watched, steps), metrics) = jax.lax.scan(
            one_round, dataclasses.replace(state, key=key), keys
        )
        means = {name: jnp.mean(x) for name, x in metrics.items()}
        return self._watch(state, watched), {**rollout.summarise(steps), **means}

    def random_actions(self, state: OffPolicyState, obs: Any, key: PRNGKeyArray) -> Array:
        """Raw actions [N, ...] (see `agents.spaces`), uniform over the action space."""
        space, n = self.env.action_space, self.config.num_envs
        if isinstance(space, gymnasium.spaces.Discrete):
            return jax.random.randint(key, (n,), 0, int(space.n))
        assert isinstance(space, gymnasium.spaces.Box)
        return jax.random.uniform(key, (n, *space.shape), minval=-1.0, maxval=1.0)

    def preprocess(self, state: OffPolicyState, obs: Any) -> Float[Array, "*batch inputs"]:
        """Returns raw observations as the networks see them; the buffer holds raw ones."""
        space = self.env.observation_space
        if self.config.normalize_observations:
            return normalized(space, state.obs_statistics, obs)
        return encode(space, obs)

    def example(self) -> replay.Transition:
        """The shapes and dtypes of what the buffer holds."""
        env = self.env
        obs = jax.eval_shape(lambda k: base.reset(env, k)[1], jax.random.key(0))
        discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
        shape = env.action_space.shape or ()
        action = jax.ShapeDtypeStruct(shape, jnp.int32 if discrete else jnp.float32)
        flag = jax.ShapeDtypeStruct((), jnp.bool_)
        reward = jax.ShapeDtypeStruct((), jnp.float32)
        return replay.Transition(obs, action, reward, flag, flag, obs)

    def learned(self, state: OffPolicyState) -> Params:
        """Returns the parameters of all networks."""
        return state.params

    def buffer_bytes(self) -> int:
        """Returns the size of the replay buffer of one seed, in bytes."""
        config = self.config
        return replay.nbytes(
            self.example(), config.buffer_size, config.num_envs, prioritized=self.prioritized
        )

    def _act(self, env, state, explore, key, bank):
        """Takes one step in every environment and stores the transitions in the buffer."""
        act_key, env_key = jax.random.split(key)
        num_envs = self.config.num_envs
        if state.noise is not None:
            # Who explores by noise has no other use for the key; uncorrelated, it is the noise that `act` draws.
            assert self.noise_correlation is not None
            state = state.replace(noise=next_noise(state.noise, act_key, self.noise_correlation))
        action = explore(state, state.stream.obs, act_key)
        stream, (step, metrics) = rollout.step_stream(
            env,
            state.stream,
            action,
            jnp.zeros(num_envs),  # log-probs are of no use here
            jax.random.split(env_key, num_envs),
            self.config.gamma,
            bank,
        )
        row = replay.Transition(
            step.obs, step.action, step.reward, step.terminated, step.truncated, step.next_obs
        )
        state = state.replace(
            stream=stream,
            buffer=replay.add(state.buffer, row),
            env_steps=state.env_steps + num_envs,
        )
        discounted_return = step.discounted_return if self.scale_rewards else None
        return state, ((step.obs, discounted_return), metrics)

    def _watch(self, state: OffPolicyState, watched: tuple[Any, Any]) -> OffPolicyState:
        """The statistics learn of new observations and returns; they stand still during an iteration."""
        obs, discounted_return = watched
        if self.scale_rewards:
            statistics = normalize.update(state.return_statistics, discounted_return)
            state = dataclasses.replace(state, return_statistics=statistics)
        if not self.config.normalize_observations:
            return state
        obs = encode(self.env.observation_space, obs)
        return dataclasses.replace(
            state, obs_statistics=normalize.update(state.obs_statistics, obs)
        )

    def _bank(self, env, key):
        return base.start_states(env, key, RESET_BANK) if env.reset_bank else None
