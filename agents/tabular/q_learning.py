"""Temporal-difference control with a table: Q-learning, SARSA, expected SARSA. Sutton and Barto 2018, chapter 6.

    Q(s, a) <- Q(s, a) + alpha (r + gamma B - Q(s, a)),  B = 0 where the process ended, else

    Q-learning      max_a' Q(s', a')              off-policy: the value of acting greedily, whatever is done
    SARSA           Q(s', a')                     on-policy: the value of what is done, exploration included
    expected SARSA  sum_a' pi(a' | s') Q(s', a')  likewise, without the noise of one a'

All act epsilon-greedily. Watkins 1989; Rummery and Niranjan 1994; van Seijen et al. 2009.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from agents import rollout, schedules
from agents.exploration import draw_epsilon_greedy, epsilon_greedy_probabilities
from agents.settings import Settings, require
from agents.spaces import element
from envs.base import Env

_MOST_ENTRIES = 2**27  # of a table: a gigabyte, with the counts of visits

Bootstrap = Literal["greedy", "sampled", "expected"]


def bootstrap_value(
    q: Float[Array, "N A"],
    action: Int[Array, " N"],
    epsilon: float | Float[Array, ""],
    kind: Bootstrap,
) -> Float[Array, " N"]:
    """B of the table above.

    Args:
      q: Q(s', .).
      action: a', drawn at s' by the policy.
    """
    if kind == "greedy":
        return jnp.max(q, -1)
    if kind == "sampled":
        return jnp.take_along_axis(q, action[:, None], -1)[:, 0]
    return jnp.sum(epsilon_greedy_probabilities(q, epsilon) * q, -1)


def td_update(
    q: Float[Array, "S A"],
    visits: Int[Array, "S A"],
    s: Int[Array, " N"],
    action: Int[Array, " N"],
    target: Float[Array, " N"],
    step_size: float | Float[Array, ""],
    power: float = 0.0,
) -> tuple[Float[Array, "S A"], Int[Array, "S A"]]:
    """Moves Q towards the targets of N simultaneous steps, with step size alpha = step_size / visits^power.

    If n of the steps share state and action, Q moves by min(1, n alpha) towards the mean of their targets: as far as n
    sequential steps would, but never past the mean. With step_size 1 and power 1, Q is the mean of all targets.

    Returns:
      Q, and the number of visits of each state and action.
    """
    counted = visits.at[s, action].add(1)
    n = (counted - visits)[s, action].astype(jnp.float32)
    alpha = step_size / counted[s, action].astype(jnp.float32) ** power
    error = target - q[s, action]
    return q.at[s, action].add(jnp.minimum(1.0, n * alpha) / n * error), counted


@dataclasses.dataclass(frozen=True)
class TabularConfig(Settings):
    """Settings of `QLearning`, `SARSA` and `ExpectedSARSA`."""

    total_steps: int = 200_000
    """environment steps of the whole run"""
    num_envs: int = 8
    """number of parallel environments; one update uses the steps of all"""
    num_steps: int = 125
    """steps of each environment per iteration; the table is updated after each step"""
    step_size: float = 0.1
    """step size of Q towards its target, at the first visit of a state"""
    step_size_power: float = 0.0
    """the step size falls as 1 / visits to this power; 0: it is constant, 1: Q is the mean of its targets"""
    gamma: float = 0.99
    """discount"""
    epsilon_start: float = 1.0
    """initial epsilon, the share of random actions"""
    epsilon_end: float = 0.05
    """final epsilon"""
    epsilon_fraction: float = 0.5
    """share of the run over which epsilon falls, linearly"""
    initial_value: float = 0.0
    """initial value of all entries; a value above the true ones makes exploration optimistic"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("total_steps", "num_envs", "num_steps")
        self.require_count("num_envs x num_steps", self.num_envs * self.num_steps)
        self.require_share(
            "gamma", "epsilon_start", "epsilon_end", "epsilon_fraction", "step_size_power"
        )
        require(0 < self.step_size <= 1, f"step_size must be in (0, 1], got {self.step_size}")


@flax.struct.dataclass
class TDState:
    """The state of a tabular learner."""

    q: Array | Any  # [S, A]
    visits: Array | Any  # int32 [S, A]
    stream: rollout.Stream | Any  # N environments
    action: Array | Any  # int32 [N], what each will do next
    key: PRNGKeyArray | Any
    env_steps: Array | Any  # int32 []


class QLearning:
    """Three pure functions: `init`, `step`, `act`. Raises ValueError where observations or actions are not Discrete, or
    observations not counted from 0."""

    Config: ClassVar[type] = TabularConfig
    bootstrap: ClassVar[Bootstrap] = "greedy"
    warmup_steps = 0

    def __init__(self, config: TabularConfig, env: Env):
        spaces = (env.observation_space, env.action_space)
        require(
            all(isinstance(space, gymnasium.spaces.Discrete) for space in spaces),
            f"a table needs Discrete observations and actions, got {spaces[0]} and {spaces[1]}",
        )
        require(
            bool(spaces[0].start == 0),  # type: ignore[attr-defined]
            f"a table needs observations counted from 0, got {spaces[0]}",
        )
        entries = int(spaces[0].n) * int(spaces[1].n)  # type: ignore[attr-defined]
        require(
            entries <= _MOST_ENTRIES,
            f"a table of {spaces[0]} by {spaces[1]} has {entries} entries: at most {_MOST_ENTRIES} are held here",
        )
        self.config, self.env = config, env
        self.shape = (int(spaces[0].n), int(spaces[1].n))  # type: ignore[attr-defined]
        self.iteration_steps = config.num_envs * config.num_steps

    def init(self, key: PRNGKeyArray) -> TDState:
        """Returns the first state."""
        stream_key, action_key, key = jax.random.split(key, 3)
        q = jnp.full(self.shape, self.config.initial_value)
        stream = rollout.start(self.env.at(0.0), stream_key, self.config.num_envs)
        env_steps = jnp.zeros((), jnp.int32)
        return TDState(
            q=q,
            visits=jnp.zeros(self.shape, jnp.int32),
            stream=stream,
            action=draw_epsilon_greedy(action_key, q[stream.obs], self.epsilon(env_steps)),
            key=key,
            env_steps=env_steps,
        )

    def step(self, state: TDState, data: None = None) -> tuple[TDState, dict[str, Array]]:
        """Returns the state after `num_steps` times one step of every environment and one update of the table."""
        action_key, env_key, key = jax.random.split(state.key, 3)
        num_envs, num_steps = self.config.num_envs, self.config.num_steps
        env = self.env.at(state.env_steps)
        state, (metrics, errors) = jax.lax.scan(
            lambda state, keys: self._one_step(env, state, *keys),
            dataclasses.replace(state, key=key),
            # All keys at once: on a CPU a split costs the same for one key as for thousands.
            (
                jax.random.split(action_key, num_steps),
                jax.random.split(env_key, (num_steps, num_envs)),
            ),
        )
        return state, {
            **rollout.summarise(metrics),
            "td_error": jnp.sqrt(jnp.mean(jnp.square(errors))),
            "epsilon": self.epsilon(state.env_steps),
        }

    def act(self, state: TDState, obs: Array, key: PRNGKeyArray, deterministic: bool) -> Array:
        """Elements of the action space for states [...]: the best by the table, or epsilon-greedy."""
        q = state.q[obs]
        best = (
            jnp.argmax(q, -1)
            if deterministic
            else draw_epsilon_greedy(key, q, self.epsilon(state.env_steps))
        )
        return element(self.env.action_space, best)

    def epsilon(self, env_steps: Int[Array, ""]) -> Float[Array, ""]:
        """Share of random actions after `env_steps`."""
        config = self.config
        span = config.epsilon_fraction * config.total_steps
        return schedules.linear(config.epsilon_start, config.epsilon_end, span, env_steps)

    def learned(self, state: TDState) -> Array:
        """Returns the table of action values."""
        return state.q

    def buffer_bytes(self) -> int:
        """Returns 0: there is no replay buffer."""
        return 0

    def _one_step(
        self, env: Env, state: TDState, action_key: PRNGKeyArray, env_keys: Key[Array, " N"]
    ) -> tuple[TDState, tuple[rollout.StepMetrics, Float[Array, " N"]]]:
        config = self.config
        epsilon = self.epsilon(state.env_steps)
        stream, (steps, metrics) = rollout.step_stream(
            env,
            state.stream,
            state.action,
            jnp.zeros(config.num_envs),
            env_keys,
            config.gamma,
            None,
        )
        # The same random number for s' and for where the episode goes on: while it lasts the two are one state, so the
        # action that SARSA bootstraps from is the one then taken. At a time limit it is drawn at the true s'.
        next_q = state.q[steps.next_obs]
        next_action = draw_epsilon_greedy(action_key, next_q, epsilon)
        following = draw_epsilon_greedy(action_key, state.q[stream.obs], epsilon)
        bootstrap = bootstrap_value(next_q, next_action, epsilon, self.bootstrap)
        target = steps.reward + config.gamma * jnp.where(steps.terminated, 0.0, bootstrap)
        q, visits = td_update(
            state.q,
            state.visits,
            steps.obs,
            steps.action,
            target,
            config.step_size,
            config.step_size_power,
        )
        error = target - state.q[steps.obs, steps.action]
        state = dataclasses.replace(
            state,
            q=q,
            visits=visits,
            stream=stream,
            action=following,
            env_steps=state.env_steps + config.num_envs,
        )
        return state, (metrics, error)


class SARSA(QLearning):
    """Learns from the action taken next."""

    bootstrap = "sampled"


class ExpectedSARSA(QLearning):
    """Learns from the mean over the actions that could be taken next."""

    bootstrap = "expected"
