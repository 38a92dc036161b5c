"""Shared by on-policy learners: settings, acting, the rollout and its batch. A policy is a value, not a base class.

    policy = actor_critic(config, env)                            # pure functions of parameters
    stream, steps, metrics = learner.collect(state.actor, state.stream, key)
    batch = learner.batch(state, steps)                           # as the network saw it, with its values
    ...                                                           # targets and update: the learner's own functions
    state = learner.finish(state, steps, ...)                     # update the normalisation statistics, last

Normalisation statistics stand still through rollout and update, so that the first importance ratio is exactly 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, TypeVar

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from agents import normalize, rollout, schedules
from agents.algorithm import Act, ActorState, Distribution, Evaluate, Mode, Params, Value
from agents.batch import Batch, Evaluation, Targets
from agents.core import across, returns
from agents.networks import Actor, ActorCritic, Functional
from agents.settings import Settings, require
from agents.spaces import element, encode, normalized, num_inputs, require_actions
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig(Settings):
    """Fields of every on-policy learner. Raises ValueError, in one line, for impossible values."""

    total_steps: int = 1_000_000
    """environment steps of the whole run; the learning rate's schedule ends there"""
    num_envs: int = 16
    """number of parallel environments"""
    num_steps: int = 128
    """steps of each environment per iteration"""
    learning_rate: float = 3e-4
    """initial learning rate of Adam"""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """linear: falls to zero at total_steps"""
    gamma: float = 0.99
    """discount"""
    max_grad_norm: float | None = 0.5
    """largest norm of the gradient, which is clipped to it; None: no clipping"""
    normalize_observations: bool = True
    """normalise observations by running mean and variance"""
    normalize_returns: bool = True
    """divide rewards by the running standard deviation of the discounted return"""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """units of each hidden layer, in policy and value network"""
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
    """Further fields of on-policy learners with a policy network."""

    initial_log_std: float = 0.0
    """initial log standard deviation of continuous actions"""
    min_log_std: float | None = None
    """lower bound of the log standard deviation; None: no bound. At the bound its gradient is 0, including that of an
    entropy bonus. A nearly deterministic policy visits few states and forgets the others"""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.min_log_std is None or self.min_log_std <= self.initial_log_std,
            f"min_log_std must not be above initial_log_std = {self.initial_log_std}, got {self.min_log_std}",
        )


class Policy(NamedTuple):
    """A policy as pure functions of its parameters and of preprocessed observations. See `agents.algorithm`."""

    init: Any  # key to parameters
    act: Act
    mode: Mode
    evaluate: Evaluate
    distribution: Distribution | Any = None  # None: no exact KL can be had
    value: Value | Any = None  # None: no critic


def actor_critic(config: PolicyConfig, env: Env) -> Policy:
    """Returns the policy of PPO, TRPO, A2C and REINFORCE: separate networks for actions and values."""
    network = _network(ActorCritic, config, env)
    return policy_of(
        network.init,
        lambda params, obs: network.module(params).distribution(obs),
        lambda params, obs: network.module(params).value(obs),
    )


def actor(config: PolicyConfig, env: Env) -> Policy:
    """Returns the policy of GRPO: a network for actions, and no critic."""
    network = _network(Actor, config, env)
    return policy_of(network.init, lambda params, obs: network.module(params)(obs))


def _network(kind: type[Actor | ActorCritic], config: PolicyConfig, env: Env) -> Functional:
    """Returns the network of a kind, in the sizes of the config and the environment."""
    return Functional(
        lambda rngs: kind(
            num_inputs(env.observation_space),
            env.action_space,
            config.hidden_sizes,
            activation=config.activation,
            initial_log_std=config.initial_log_std,
            min_log_std=config.min_log_std,
            rngs=rngs,
        )
    )


def policy_of(init: Any, distribution: Distribution, value: Value | None = None) -> Policy:
    """Returns the policy that acts by a distribution of raw actions; one's own networks go here.

    Args:
      init: key to parameters.
      distribution: (params, obs [*batch, inputs]) to one of `agents.distributions`.
      value: (params, obs [*batch, inputs]) to values [*batch].
    """

    def act(
        params: Params, obs: Any, env_steps: Array, key: PRNGKeyArray
    ) -> tuple[Array, Float[Array, "*batch"]]:
        dist = distribution(params, obs)
        action = dist.sample(key)
        return action, dist.log_prob(action)

    def mode(params: Params, obs: Any) -> Array:
        return distribution(params, obs).mode()

    def evaluate(params: Params, obs: Any, action: Any) -> Evaluation:
        dist = distribution(params, obs)
        entropy = jnp.broadcast_to(dist.entropy(), obs.shape[:-1])
        worth = None if value is None else value(params, obs)
        return Evaluation(dist.log_prob(action), entropy, worth)

    return Policy(init, act, mode, evaluate, distribution, value)


@flax.struct.dataclass
class OnPolicyState:
    """The state of an on-policy learner. Leaves are `| Any` for the placeholders with which JAX rebuilds pytrees."""

    params: Params
    opt_state: Any
    obs_statistics: normalize.RunningStatistics | Any  # of raw observations, encoded
    return_statistics: normalize.RunningStatistics | Any  # of discounted returns
    stream: rollout.Stream | Any
    key: PRNGKeyArray | Any
    env_steps: Array | Any  # int32 []

    @property
    def actor(self) -> ActorState:
        """Returns the part that acting needs."""
        return ActorState(self.params, self.obs_statistics, self.env_steps)


State = TypeVar("State", bound=OnPolicyState)


class PolicyLearner:
    """Shared by learners with a `Policy`: acting, preprocessing, and the learning rate.

    Raises ValueError for spaces it cannot handle.
    """

    warmup_steps = 0

    def __init__(self, config: OnPolicyConfig, env: Env, policy: Policy):
        require_actions(type(self).__name__, env, gymnasium.spaces.Discrete, gymnasium.spaces.Box)
        self.config: Any = config
        self.env = env
        self.policy = policy
        self.num_inputs = num_inputs(env.observation_space)
        self.iteration_steps = config.num_envs * config.num_steps

    def act(
        self, state: OnPolicyState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Returns elements of the action space for raw observations [*batch, O]: the policy's mode, or a sample."""
        inputs = self.preprocess(state.obs_statistics, obs)
        if deterministic:
            raw = self.policy.mode(state.params, inputs)
        else:
            raw, _ = self.policy.act(state.params, inputs, state.env_steps, key)
        return element(self.env.action_space, raw)

    def learned(self, state: OnPolicyState) -> Params:
        """Returns the parameters."""
        return state.params

    def buffer_bytes(self) -> int:
        """Returns 0: there is no replay buffer."""
        return 0

    def acting(self, actor: ActorState) -> rollout.ActOnRaw:
        """Returns the policy as a rollout wants it: (raw observations, key) to (raw actions, log-probs)."""

        def act(obs: Any, key: PRNGKeyArray) -> tuple[Any, Array]:
            inputs = self.preprocess(actor.obs_statistics, obs)
            return self.policy.act(actor.params, inputs, actor.env_steps, key)

        return act

    def preprocess(
        self, statistics: normalize.RunningStatistics, obs: Any
    ) -> Float[Array, "*batch inputs"]:
        """Returns raw observations as the network sees them."""
        space = self.env.observation_space
        if self.config.normalize_observations:
            return normalized(space, statistics, obs)
        return encode(space, obs)

    def scaled_reward(self, state: OnPolicyState, reward: Array) -> Array:
        """Returns rewards as the learner sees them: with `normalize_returns`, scaled and bounded."""
        if not self.config.normalize_returns:
            return reward
        return normalize.scaled_reward(state.return_statistics, reward)

    def learning_rate(self, env_steps: Array) -> Float[Array, ""]:
        """Returns the step size after `env_steps`, by the schedule."""
        config = self.config
        return schedules.decayed(
            config.learning_rate, config.learning_rate_schedule, env_steps, config.total_steps
        )

    def remaining_fraction(self, env_steps: Array) -> Float[Array, ""]:
        """Returns the share of the run that is still to come."""
        return schedules.remaining_fraction(env_steps, self.config.total_steps)


class OnPolicy(PolicyLearner):
    """A learner from rollouts of environments whose episodes follow one another. Its users write `init` and `step`."""

    def start(self, key: PRNGKeyArray) -> dict[str, Any]:
        """Returns the fields of the first `OnPolicyState`, all but `opt_state`."""
        params_key, stream_key, key = jax.random.split(key, 3)
        return first_fields(self, params_key, key) | {
            "stream": self.fresh(stream_key, self.config.num_envs)
        }

    def fresh(self, key: PRNGKeyArray, n: int) -> rollout.Stream:
        """Returns `n` environments that have just been reset."""
        return rollout.start(self.env.at(0.0), key, n)

    def environments(self, state: State) -> rollout.Stream:
        """Returns the environments under way."""
        return state.stream

    def with_environments(self, state: State, environments: rollout.Stream) -> State:
        """Returns the state with other environments."""
        return dataclasses.replace(state, stream=environments)

    def collect(
        self, actor: ActorState, stream: rollout.Stream, key: PRNGKeyArray
    ) -> tuple[rollout.Stream, rollout.Steps, dict[str, Array]]:
        """Returns the stream after `num_steps` steps of every environment, these steps, and the rollout's metrics."""
        env, key = self.env.at(actor.env_steps), across.own_key(key)
        return rollout.collect_steps(
            env, self.acting(actor), stream, key, self.config.num_steps, self.config.gamma
        )

    def collect_only(self, state: State) -> State:
        """Returns the state after the rollout of an iteration, with nothing learned."""
        rollout_key, key = jax.random.split(state.key)
        stream, _, _ = self.collect(state.actor, state.stream, rollout_key)
        return dataclasses.replace(state, stream=stream, key=key)

    def batch(self, state: OnPolicyState, steps: rollout.Steps) -> Batch:
        """Returns the steps as the learner sees them, under the statistics that the policy acted with."""
        obs = self.preprocess(state.obs_statistics, steps.obs)
        next_obs = self.preprocess(state.obs_statistics, steps.next_obs)
        value = self.policy.value
        return Batch(
            obs=obs,
            action=steps.action,
            logp=steps.logp,
            value=None if value is None else value(state.params, obs),
            next_value=None if value is None else value(state.params, next_obs),
            reward=self.scaled_reward(state, steps.reward),
            terminated=steps.terminated,
            truncated=steps.truncated,
            mask=jnp.ones_like(steps.terminated),
        )

    def finish(
        self, state: State, steps: rollout.Steps, params: Params, opt_state: Any, **changes: Any
    ) -> State:
        """Returns the state after an iteration, the statistics updated with its steps. `changes` are further fields."""
        obs = encode(self.env.observation_space, steps.obs)
        return dataclasses.replace(
            state,
            params=params,
            opt_state=opt_state,
            obs_statistics=normalize.update(state.obs_statistics, obs),
            return_statistics=normalize.update(state.return_statistics, steps.discounted_return),
            env_steps=state.env_steps + self.iteration_steps * across.devices(),
            **changes,
        )


def first_fields(learner: PolicyLearner, params_key: PRNGKeyArray, key: PRNGKeyArray) -> dict:
    """Returns the fields of the first `OnPolicyState` that do not depend on how data are collected."""
    return {
        "params": learner.policy.init(params_key),
        "obs_statistics": normalize.init((learner.num_inputs,)),
        "return_statistics": normalize.init(()),
        "key": key,
        "env_steps": jnp.zeros((), jnp.int32),
    }


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
