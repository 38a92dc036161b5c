"""Exact solutions of finite decision processes whose tables are known. Sutton and Barto 2018, chapter 4.

P [S, A, S] are the probabilities of going on to s', R [S, A] the expected rewards. What ends the process is missing
from P (a row may sum to less than 1), so that V = R + gamma P V needs no flags.
"""

# ruff: noqa: N803, N806  P and R are the field's own names
from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from agents.settings import Settings
from agents.spaces import element
from envs.base import Env

Discount = float | Float[Array, ""]


def action_values(
    P: Float[Array, "S A S"], R: Float[Array, "S A"], gamma: Discount, values: Float[Array, " S"]
) -> Float[Array, "S A"]:
    """Q(s, a) = R(s, a) + gamma sum_s' P(s' | s, a) V(s')."""
    return R + gamma * P @ values


def evaluate_policy(
    P: Float[Array, "S A S"], R: Float[Array, "S A"], gamma: Discount, policy: Float[Array, "S A"]
) -> Float[Array, " S"]:
    """The values of a policy pi(a | s): the solution of V = R_pi + gamma P_pi V, a linear system.

    At gamma = 1 the policy must end from everywhere with probability 1; otherwise the system is singular.
    """
    policy_P = jnp.einsum("sa,sat->st", policy, P)
    policy_R = jnp.sum(policy * R, -1)
    return jnp.linalg.solve(jnp.eye(R.shape[0]) - gamma * policy_P, policy_R)


def value_iteration(
    P: Float[Array, "S A S"],
    R: Float[Array, "S A"],
    gamma: Discount,
    tolerance: float = 1e-6,
    max_sweeps: int = 100_000,
) -> tuple[Float[Array, " S"], Int[Array, " S"], Int[Array, ""]]:
    """V <- max_a Q, over all states at once, until no value changes by more than `tolerance`.

    The values are then within tolerance gamma / (1 - gamma) of the optimal ones. A tolerance below the rounding error
    of the values may never be met: see `max_sweeps`.

    Returns:
      values, a greedy policy, and the number of sweeps.
    """

    def sweep(carry):
        values, _, sweeps = carry
        new = jnp.max(action_values(P, R, gamma, values), -1)
        return new, jnp.max(jnp.abs(new - values)), sweeps + 1

    def unfinished(carry):
        _, change, sweeps = carry
        return (change > tolerance) & (sweeps < max_sweeps)

    start = (jnp.zeros(R.shape[0]), jnp.asarray(jnp.inf), jnp.zeros((), jnp.int32))
    values, _, sweeps = jax.lax.while_loop(unfinished, sweep, start)
    return values, jnp.argmax(action_values(P, R, gamma, values), -1), sweeps


def improve_policy(
    policy: Int[Array, " S"], q: Float[Array, "S A"], tolerance: float = 1e-6
) -> Int[Array, " S"]:
    """Returns the greedy policy; an action changes only if another is better by more than `tolerance` of the largest
    |Q|.

    Without the tolerance, rounding could alternate between equally good actions without end.
    """
    old = jnp.take_along_axis(q, policy[:, None], -1)[:, 0]
    better = jnp.max(q, -1) > old + tolerance * jnp.max(jnp.abs(q))
    return jnp.where(better, jnp.argmax(q, -1), policy)


def policy_iteration(
    P: Float[Array, "S A S"],
    R: Float[Array, "S A"],
    gamma: Discount,
    max_rounds: int = 1000,
) -> tuple[Float[Array, " S"], Int[Array, " S"], Int[Array, ""]]:
    """Evaluates exactly, improves greedily, until the policy stays. Needs gamma < 1, for a policy on the way may
    never end.

    Returns:
      values, the policy, and the number of evaluations.
    """

    def evaluate(policy):
        return evaluate_policy(P, R, gamma, jax.nn.one_hot(policy, R.shape[1]))

    def body(carry):
        policy, _, _, rounds = carry
        values = evaluate(policy)
        new = improve_policy(policy, action_values(P, R, gamma, values))
        return new, values, jnp.any(new != policy), rounds + 1

    def unfinished(carry):
        _, _, changed, rounds = carry
        return changed & (rounds < max_rounds)

    num_states = R.shape[0]
    policy = jnp.zeros(num_states, jnp.int32)
    start = (policy, jnp.zeros(num_states), jnp.ones((), bool), jnp.zeros((), jnp.int32))
    policy, values, _, rounds = jax.lax.while_loop(unfinished, body, start)
    return values, policy, rounds


def epsilon_soft(
    P: Float[Array, "S A S"], R: Float[Array, "S A"], epsilon: float | Float[Array, ""]
) -> tuple[Float[Array, "S A S"], Float[Array, "S A"]]:
    """The process in which the environment, not the agent, explores: with probability epsilon it replaces the action
    by a random one. Its optimal values are those of the best epsilon-greedy policy, to which SARSA converges; Sutton
    and Barto 2018, section 5.4."""
    random_P, random_R = P.mean(1, keepdims=True), R.mean(1, keepdims=True)
    return (1 - epsilon) * P + epsilon * random_P, (1 - epsilon) * R + epsilon * random_R


@dataclasses.dataclass(frozen=True)
class DynamicProgrammingConfig(Settings):
    """Settings of value and policy iteration."""

    total_steps: int = 1000
    """sweeps (value iteration) or rounds (policy iteration) of the whole run; no environment is stepped"""
    gamma: float = 0.99
    """discount"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("total_steps")
        self.require_share("gamma")


@flax.struct.dataclass
class DynamicProgrammingState:
    """Values of states, and the greedy policy."""

    values: Array | Any  # [S]
    policy: Array | Any  # int32 [S]


class _Exact:
    """Shared by both solvers: the tables, and acting by them."""

    Config: ClassVar[type] = DynamicProgrammingConfig
    iteration_steps = 1
    warmup_steps = 0

    def __init__(self, config: DynamicProgrammingConfig, env: Env):
        tables = [getattr(env, name, None) for name in ("P", "R", "initial_distribution")]
        if any(table is None for table in tables):
            raise ValueError(
                f"{type(self).__name__} needs an environment given as tables (FrozenLake-v1, "
                f"CliffWalking-v1, Taxi-v4), got {type(env).__name__}"
            )
        self.config, self.env = config, env
        self.P, self.R, self.start = (jnp.asarray(table) for table in tables)

    def init(self, key: PRNGKeyArray) -> DynamicProgrammingState:
        num_states = self.R.shape[0]
        return DynamicProgrammingState(jnp.zeros(num_states), jnp.zeros(num_states, jnp.int32))

    def act(
        self, state: DynamicProgrammingState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Greedy elements of the action space for states [...]; there is nothing random about them."""
        return element(self.env.action_space, state.policy[obs])

    def learned(self, state: DynamicProgrammingState) -> Array:
        return state.values

    def buffer_bytes(self) -> int:
        return 0

    def _metrics(self, old: Array, new: Array) -> dict[str, Array]:
        return {"value/start": self.start @ new, "value/change": jnp.max(jnp.abs(new - old))}


class ValueIteration(_Exact):
    """Value iteration: one sweep per iteration."""

    def step(
        self, state: DynamicProgrammingState, data: None = None
    ) -> tuple[DynamicProgrammingState, dict[str, Array]]:
        """Returns the state after one sweep of values, and the metrics of it."""
        q = action_values(self.P, self.R, self.config.gamma, state.values)
        values = jnp.max(q, -1)
        q = action_values(self.P, self.R, self.config.gamma, values)
        policy = jnp.argmax(q, -1).astype(jnp.int32)
        return DynamicProgrammingState(values, policy), self._metrics(state.values, values)


class PolicyIteration(_Exact):
    """Policy iteration: one evaluation and one improvement per iteration. Raises ValueError for gamma = 1, because a
    policy whose episodes never end then has no value."""

    def __init__(self, config: DynamicProgrammingConfig, env: Env):
        super().__init__(config, env)
        if config.gamma == 1:
            raise ValueError("policy iteration needs gamma < 1; value iteration does without")

    def step(
        self, state: DynamicProgrammingState, data: None = None
    ) -> tuple[DynamicProgrammingState, dict[str, Array]]:
        """Returns the state after one evaluation and improvement, and the metrics of it."""
        policy = jax.nn.one_hot(state.policy, self.R.shape[1])
        values = evaluate_policy(self.P, self.R, self.config.gamma, policy)
        improved = improve_policy(
            state.policy, action_values(self.P, self.R, self.config.gamma, values)
        )
        return DynamicProgrammingState(values, improved), self._metrics(state.values, values)
