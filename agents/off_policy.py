"""Shared by learners with a replay buffer: warm-up, acting, storing, and the order in which these and the gradient
steps follow one another.

    state = self.begin(key, params, opt_state)          # `warmup_steps` random steps into the buffer
    state, metrics = self.run(state, explore, update)   # rounds of: act, store, `update_ratio` gradient steps a step

The ratio of gradient steps to environment steps is exactly `update_ratio`, whatever the number of environments. An
iteration is some 256 environment steps, so that a compiled program has something to chew on.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import normalize, replay, rollout
from agents.algorithm import ActorState
from agents.exploration import next_noise
from agents.off_policy_settings import OffPolicyConfig
from agents.off_policy_state import (
    Acted,
    Environments,
    Explore,
    OffPolicyState,
    Update,
    learn,
)
from agents.spaces import encode, normalized, num_inputs, require_actions, require_bounds
from envs import base
from envs.base import Env

Params = Any

RESET_BANK = 32  # start states for the resets of one iteration, where the environment wants a bank


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
            state, (watched, _) = self._act_and_store(env, state, explore, key, bank)
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
            return self._act_and_store(env, state, explore, key, bank)

        def learn_from_buffer(state, key):
            return self._learn_once(state, key, update, beta)

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

    def explore(self, state: OffPolicyState, obs: Any, key: PRNGKeyArray) -> Array:
        """Returns raw actions [N, ...] for raw observations, as training acts. Learners write it."""
        raise NotImplementedError

    def acting_params(self, acting: Params) -> Params:
        """Returns parameters of which only those that acting needs are there: `params.acting`. Learners write it."""
        raise NotImplementedError

    def collect(
        self, actor: ActorState, stream: Environments, key: PRNGKeyArray
    ) -> tuple[Environments, Acted, dict[str, Array]]:
        """Returns the environments after an iteration's steps, these steps [T, N, ...], and the rollout's metrics.

        For actors: nothing is stored or learned, and only what `actor` holds of the parameters is needed.
        """
        config, env = self.config, self.env.at(actor.env_steps)
        bank_key, steps_key = jax.random.split(key)
        bank = self._bank(env, bank_key)
        state = OffPolicyState(
            params=self.acting_params(actor.params),
            opt_state=None,
            obs_statistics=actor.obs_statistics,
            buffer=None,
            stream=stream.stream,
            key=None,
            env_steps=actor.env_steps,
            updates=None,
            noise=stream.noise,
        )

        def body(state, key):
            state, row, watched, metrics = self._act(env, state, self.explore, key, bank)
            return state, (Acted(row, watched[1]), metrics)

        keys = jax.random.split(steps_key, config.rounds * config.num_steps)
        state, (steps, metrics) = jax.lax.scan(body, state, keys)
        return Environments(state.stream, state.noise), steps, rollout.summarise(metrics)

    def learn_from(
        self, state: OffPolicyState, steps: Acted, update: Update, beta: Any = 1.0
    ) -> tuple[OffPolicyState, dict[str, Array]]:
        """Returns the state after an iteration's gradient steps, its steps [T, N, ...] stored beforehand, and metrics.

        `run` stores and learns by turns: here the first gradient steps of an iteration already see all of its steps.
        """
        config = self.config
        learn_key, key = jax.random.split(state.key)
        state = dataclasses.replace(
            state,
            key=key,
            buffer=replay.add(state.buffer, steps.row),
            env_steps=state.env_steps + self.iteration_steps,
        )
        keys = jax.random.split(learn_key, config.rounds * config.round_updates)
        state, metrics = jax.lax.scan(
            lambda state, key: self._learn_once(state, key, update, beta), state, keys
        )
        means = {name: jnp.mean(x) for name, x in metrics.items()}
        return self._watch(state, (steps.row.obs, steps.discounted_return)), means

    def fresh(self, key: PRNGKeyArray, n: int) -> Environments:
        """Returns `n` environments that have just been reset."""
        noise = None
        if self.noise_correlation is not None:
            noise = jnp.zeros((n, *(self.env.action_space.shape or ())))
        return Environments(rollout.start(self.env.at(0.0), key, n), noise)

    def environments(self, state: OffPolicyState) -> Environments:
        """Returns the environments under way."""
        return Environments(state.stream, state.noise)

    def interrupted(self, state: OffPolicyState, begin: int, end: int) -> OffPolicyState:
        """Returns the state after the environments `begin` to `end` were lost: others take their columns."""
        return dataclasses.replace(state, buffer=replay.interrupt(state.buffer, begin, end))

    def with_environments(
        self, state: OffPolicyState, environments: Environments
    ) -> OffPolicyState:
        """Returns the state with other environments."""
        return dataclasses.replace(state, stream=environments.stream, noise=environments.noise)

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

    def _learn_once(self, state, key, update, beta):
        """Takes one gradient step on a sample of the buffer."""
        config = self.config
        sample_key, update_key = jax.random.split(key)
        sample = replay.sample(state.buffer, sample_key, config.batch_size, config.gamma, beta)
        obs, next_obs = (self.preprocess(state, x) for x in (sample.obs, sample.next_obs))
        sample = sample._replace(obs=obs, next_obs=next_obs)
        if self.scale_rewards:
            reward = normalize.scaled_reward(state.return_statistics, sample.reward)
            sample = sample._replace(reward=reward)
        state, td_error, metrics = learn(update, sample, state, update_key)
        if self.prioritized:
            buffer = replay.update_priorities(state.buffer, sample.index, td_error)
            state = dataclasses.replace(state, buffer=buffer)
        return state, metrics

    def _act_and_store(self, env, state, explore, key, bank):
        """Takes one step in every environment and stores the transitions in the buffer."""
        state, row, watched, metrics = self._act(env, state, explore, key, bank)
        state = state.replace(
            buffer=replay.add(state.buffer, row),
            env_steps=state.env_steps + self.config.num_envs,
        )
        return state, (watched, metrics)

    def _act(self, env, state, explore, key, bank):
        """Takes one step in every environment of the state."""
        act_key, env_key = jax.random.split(key)
        num_envs = state.stream.episode_return.shape[0]
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
        watched = step.obs, step.discounted_return if self.scale_rewards else None
        return state.replace(stream=stream), row, watched, metrics

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
