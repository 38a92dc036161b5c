"""Segments of episodes, cut from rollouts, and pairs of segments with preferences.

    trail = follow(trail, ...)                        # the newest steps, in which segments end
    first, second, eligible = candidate_pairs(...)    # drawn without replacement
    label = compare(first, second, key)               # 1: the first is better, 0: the second, 1/2: neither
    store = add(store, first, second, label, taken)

A segment consists of `length` consecutive steps. Where the process terminates within them, later steps are masked and
count as reward zero; so comparisons of short segments with full ones determine the constant of a learned reward, which
segments of equal length leave open. Where a time limit cuts an episode, what would have followed is unknown, and the
segment is not used.

Pure functions of fixed shapes, for use inside `jit`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, ScalarLike

from agents.batch import random_order


class Segments(NamedTuple):
    """n segments of up to k steps. `reward` is the environment's, for comparers only."""

    frames: Array  # [n, k + 1, O] observations before the first step, and after each
    action: Array  # [n, k, A]
    reward: Array  # [n, k]
    mask: Array  # [n, k] bool: False after the end of the process


class Trail(NamedTuple):
    """Steps of N environments in a row, encoded as vectors. Leaves [R, N, ...]."""

    obs: Array
    action: Array
    next_obs: Array  # the true successor, before any reset
    reward: Array  # the environment's
    terminated: Array
    truncated: Array


class Store(NamedTuple):
    """Up to P compared pairs of segments; the first `filled` rows hold one each."""

    frames: Array  # [P, 2, k + 1, O]
    action: Array  # [P, 2, k, A]
    mask: Array  # [P, 2, k] bool
    label: Array  # [P] probability that the first is better, as judged
    weight: Array  # [P] 0: the two could not be compared
    filled: Array | Any  # int32 []


@runtime_checkable
class Compare(Protocol):
    """Compares pairs of segments: (first, second, key) to labels [n]: 1 where the first is better, 0 where the second
    is, 1/2 where neither is, NaN where they cannot be compared."""

    def __call__(
        self, first: Segments, second: Segments, key: PRNGKeyArray
    ) -> Float[Array, " n"]: ...


def follow(trail: Trail, new: Trail, rows: int) -> Trail:
    """Returns the last `rows` steps of `trail` and the steps `new` that follow them."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a[a.shape[0] - rows :], b]), trail, new)


def cut(
    trail: Trail, start: Int[Array, " n"], column: Int[Array, " n"], length: int
) -> tuple[Segments, Bool[Array, " n"]]:
    """Returns the segments of `length` steps that begin in the given rows and columns, and True where none is cut off
    by a time limit on its way."""
    rows = start[:, None] + jnp.arange(length)
    columns = column[:, None]
    terminated, truncated = (x[rows, columns] for x in (trail.terminated, trail.truncated))
    done = (terminated | truncated).astype(jnp.int32)
    mask = jnp.cumsum(done, axis=1) - done == 0
    first = trail.obs[start, column][:, None]
    segments = Segments(
        frames=jnp.concatenate([first, trail.next_obs[rows, columns]], axis=1),
        action=trail.action[rows, columns],
        reward=trail.reward[rows, columns],
        mask=mask,
    )
    return segments, ~jnp.any((truncated & mask)[:, :-1], axis=1)


def candidate_pairs(
    trail: Trail, key: PRNGKeyArray, number: int, length: int
) -> tuple[Segments, Segments, Bool[Array, " n"]]:
    """Returns pairs of segments drawn from the trail without replacement, and True for those of two usable ones.

    `number` of pairs; fewer where the trail has no more segments.
    """
    rows, columns = trail.reward.shape
    starts = rows - length + 1
    number = min(number, starts * columns // 2)
    index = random_order(key, starts * columns)[: 2 * number]
    segments, usable = cut(trail, index // columns, index % columns, length)
    first, second = (jax.tree.map(lambda x, i=i: x[i::2], segments) for i in range(2))
    return first, second, usable[0::2] & usable[1::2]


def choose(
    score: Float[Array, " n"], eligible: Bool[Array, " n"], wanted: ScalarLike, slots: int
) -> tuple[Int[Array, " slots"], Bool[Array, " slots"]]:
    """Returns the indices of the highest scores among the eligible, and True for those to be used, `wanted` at most."""
    best, index = jax.lax.top_k(jnp.where(eligible, score, -jnp.inf), slots)
    return index, (jnp.arange(slots) < wanted) & (best > -jnp.inf)


def true_return(segments: Segments) -> Float[Array, " n"]:
    """Returns the sum of the environment's rewards over each segment."""
    return jnp.sum(jnp.where(segments.mask, segments.reward, 0.0), axis=1)


def by_return(temperature: float = 0.0, flips: float = 0.0, tie: float = 0.0) -> Compare:
    """Returns a comparer that knows the true reward and prefers the segment of the higher return.

    Args:
      temperature: labels are drawn by Bradley-Terry, P(first) = sigmoid((R_1 - R_2) / temperature); 0: no noise.
      flips: probability that a label is turned round, whatever the returns.
      tie: returns that differ by no more than this are alike, and the label is 1/2.
    """

    def compare(first: Segments, second: Segments, key: PRNGKeyArray) -> Float[Array, " n"]:
        noise_key, flip_key = jax.random.split(key)
        lead = true_return(first) - true_return(second)
        noisy = lead + temperature * jax.random.logistic(noise_key, lead.shape)
        better = (noisy > 0) ^ jax.random.bernoulli(flip_key, flips, lead.shape)
        label = jnp.where(jnp.abs(lead) <= tie, 0.5, better.astype(jnp.float32))
        return jnp.where(jnp.isfinite(lead), label, jnp.nan)

    return compare


def empty_store(pairs: int, length: int, observations: int, actions: int) -> Store:
    """Returns a store for so many pairs of segments, none of them there yet."""
    return Store(
        frames=jnp.zeros((pairs, 2, length + 1, observations)),
        action=jnp.zeros((pairs, 2, length, actions)),
        mask=jnp.zeros((pairs, 2, length), bool),
        label=jnp.zeros(pairs),
        weight=jnp.zeros(pairs),
        filled=jnp.zeros((), jnp.int32),
    )


def add(
    store: Store,
    first: Segments,
    second: Segments,
    label: Float[Array, " n"],
    taken: Bool[Array, " n"],
) -> Store:
    """Returns the store with the pairs that are `taken`, as far as there is room. A label of NaN gives weight 0."""
    # Rows beyond the end are dropped.
    row = jnp.where(taken, store.filled + jnp.cumsum(taken) - 1, store.label.shape[0])
    known = jnp.isfinite(label)
    new = Store(
        frames=jnp.stack([first.frames, second.frames], axis=1),
        action=jnp.stack([first.action, second.action], axis=1),
        mask=jnp.stack([first.mask, second.mask], axis=1),
        label=jnp.where(known, label, 0.5),
        weight=known.astype(jnp.float32),
        filled=None,
    )
    rows = jax.tree.map(
        lambda old, x: old.at[row].set(x, mode="drop"), store._replace(filled=None), new
    )
    filled = jnp.minimum(store.filled + jnp.sum(taken), store.label.shape[0])
    return rows._replace(filled=filled.astype(jnp.int32))
