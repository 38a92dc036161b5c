"""A finite Markov decision process, written out as tables.

S states, A actions, and for each pair up to K outcomes, each with its probability, next state, reward and whether the
process ends there. Reward and end belong to the outcome, not to the state arrived at: on Taxi an illegal action costs
10 and a wall 1, yet both lead from a state to itself. So the state carries those of the outcome that led to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from envs.base import Env, static

# Probability, next state, reward, terminated: plain numbers or NumPy's.
Outcome = tuple[Any, Any, Any, Any]


class TabularState(NamedTuple):
    """A state's number, and the outcome that led to it."""

    s: Any  # int32 [], 0 to S - 1
    reward: Any  # float32 [], of the outcome that led here; 0 at the start
    terminal: Any  # bool [], likewise; False at the start


@flax.struct.dataclass
class Tabular(Env[TabularState]):
    """Observations and actions are the numbers of states and actions: Discrete(S), Discrete(A).

    Where a pair has fewer than K outcomes, the others have probability 0. See `from_outcomes`. Raises ValueError for a
    time limit that is no positive integer.
    """

    probabilities: Any  # [S, A, K] float32, sums to 1 over K
    next_states: Any  # [S, A, K] int32
    rewards: Any  # [S, A, K] float32
    terminals: Any  # [S, A, K] bool
    initial_distribution: Any  # [S] float32, sums to 1
    max_episode_steps: int = static(1000)

    @property
    def observation_space(self) -> gymnasium.spaces.Discrete:
        """The S states."""
        return gymnasium.spaces.Discrete(self.probabilities.shape[0])

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """The A actions."""
        return gymnasium.spaces.Discrete(self.probabilities.shape[1])

    def initial(self, key: PRNGKeyArray) -> TabularState:
        """A state from `initial_distribution`."""
        s = _draw(key, jnp.asarray(self.initial_distribution))
        return TabularState(s, jnp.zeros(()), jnp.zeros((), bool))

    def transition(self, state: TabularState, action: Array, key: PRNGKeyArray) -> TabularState:
        """Samples one of the outcomes of (state, action) with their probabilities."""

        def row(table):
            return jnp.asarray(table)[state.s, action]

        outcome = _draw(key, row(self.probabilities))
        return TabularState(
            row(self.next_states)[outcome], row(self.rewards)[outcome], row(self.terminals)[outcome]
        )

    def observation(self, state: TabularState) -> Int[Array, ""]:
        """The state's number."""
        return state.s

    def reward(self, state: TabularState, action: Array, next_state: TabularState) -> Array:
        """The reward of the outcome."""
        return next_state.reward

    def terminal(self, state: TabularState) -> Array:
        """True if the outcome ended the process."""
        return state.terminal

    @property
    def P(self) -> Float[Array, "S A S"]:  # noqa: N802  the field's own name
        """P(s', not ended | s, a), for exact dynamic programming: what ends the process is left out.

        Values of ended processes are zero, so the Bellman equation is V = R + gamma P V with no flags; the mass by
        which a row falls short of 1 is the probability that the process ends.
        """
        num_states, num_actions, _ = self.probabilities.shape
        goes_on = jnp.where(self.terminals, 0.0, self.probabilities)
        s, a = jnp.arange(num_states)[:, None, None], jnp.arange(num_actions)[:, None]
        empty = jnp.zeros((num_states, num_actions, num_states))
        return empty.at[s, a, self.next_states].add(goes_on)

    @property
    def R(self) -> Float[Array, "S A"]:  # noqa: N802
        """Expected reward of each action in each state."""
        return jnp.sum(jnp.asarray(self.probabilities) * jnp.asarray(self.rewards), -1)


def from_outcomes(
    outcomes: Mapping[int, Mapping[int, Sequence[Outcome]]],
    initial_distribution: Sequence[float] | np.ndarray,
) -> dict[str, np.ndarray]:
    """The arrays of a `Tabular`, from Gymnasium's `env.unwrapped.P`: outcomes[s][a] = [(p, s', r, terminated), ...].

    Raises ValueError where the probabilities of a pair, or of the initial states, do not sum to 1.
    """
    num_states, num_actions = len(outcomes), len(outcomes[0])
    width = max(len(row) for actions in outcomes.values() for row in actions.values())
    shape = (num_states, num_actions, width)
    probabilities, rewards = np.zeros(shape), np.zeros(shape, np.float32)
    next_states, terminals = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for s in range(num_states):
        for a in range(num_actions):
            for k, outcome in enumerate(outcomes[s][a]):
                probabilities[s, a, k], next_states[s, a, k] = outcome[:2]
                rewards[s, a, k], terminals[s, a, k] = outcome[2:]
    initial = np.asarray(initial_distribution, np.float64)
    if initial.shape != (num_states,) or not np.isclose(initial.sum(), 1.0):
        raise ValueError(
            f"the initial distribution must give {num_states} probabilities that sum to 1, "
            f"got shape {initial.shape} and sum {initial.sum():g}"
        )
    sums = probabilities.sum(-1)
    if (probabilities < 0).any() or not np.allclose(sums, 1.0):
        s, a = np.argwhere((probabilities < 0).any(-1) | ~np.isclose(sums, 1.0))[0]
        raise ValueError(
            f"the outcomes of action {a} in state {s} must have probabilities >= 0 that sum to 1, "
            f"got {probabilities[s, a].tolist()}"
        )
    return {
        "probabilities": probabilities.astype(np.float32),
        "next_states": next_states,
        "rewards": rewards,
        "terminals": terminals,
        "initial_distribution": initial.astype(np.float32),
    }


def _draw(key: PRNGKeyArray, probabilities: Float[Array, " n"]) -> Int[Array, ""]:
    """An index, by one uniform number however many there are; never one of probability 0.

    A parallel cumulative sum may rise by a rounding error where the probability is 0: such entries are masked.
    """
    if probabilities.shape[0] == 1:
        return jnp.zeros((), jnp.int32)
    cumulative = jnp.where(probabilities > 0, jnp.cumsum(probabilities), -1.0)
    return jnp.argmax(cumulative > jax.random.uniform(key) * jnp.max(cumulative)).astype(jnp.int32)
