"""Replay buffer: a ring of transitions, sampled uniformly or by priority, with n-step returns made at sampling time.

Rows are moments, columns environments: storage leaves are `[rows, N, ...]`, where row t + 1 holds what the same
environments did next. Observations are stored raw, in the dtype they have, `next_obs` included: where an episode
ended it is not the `obs` of the row that follows.

The state is a pytree, the functions are pure: they run under `jit`, `scan` and `vmap` over seeds. Carry the state in
a loop, or donate it, and `add` writes in place. In a loop's body `add` first and sample after: the other way round XLA
copies the whole buffer at each turn, for the reader.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, ScalarLike

from agents import sum_tree
from agents.settings import COUNT_LIMIT


class Transition(NamedTuple):
    """A transition, or many with leading axes [N] or [T, N]."""

    obs: Any  # raw, where the action was chosen
    action: Any
    reward: Any  # []
    terminated: Any  # [] bool
    truncated: Any  # [] bool
    next_obs: Any  # raw, the true successor, before any reset


class Sample(NamedTuple):
    """B transitions of up to n steps. The target of Q(obs, action) is reward + discount V(next_obs), or `reward` alone
    where `terminated`."""

    obs: Any  # [B, ...]
    action: Any  # [B, ...]
    reward: Array  # [B] sum_{i<k} gamma^i r_{t+i} over the k <= n steps until the episode ends
    discount: Array  # [B] gamma^k, 0 where terminated
    terminated: Array  # [B] bool: within the k steps
    next_obs: Any  # [B, ...] the last step's
    index: Array  # type: ignore[assignment]  # [B] int32, of the first step: for `update_priorities`
    weight: Array  # [B] importance weights, at most 1; 1 if sampled uniformly


@flax.struct.dataclass
class Priorities:
    """Priorities of transitions: positive if at least n - 1 rows follow the transition, else 0."""

    # `| Any`: JAX rebuilds pytrees around placeholders, which a type checker at run time would refuse.
    tree: Array | Any  # [2 L] see `sum_tree`; leaf row * N + column
    largest: Array | Any  # [] of all there ever were: what new transitions get


@flax.struct.dataclass
class ReplayState:
    """A replay buffer and its place of writing."""

    storage: Transition | Any  # leaves [rows, N, ...]
    head: Array | Any  # int32 [], the row written next
    size: Array | Any  # int32 [], rows written, at most all
    priorities: Priorities | Any  # None: uniform sampling
    n: int = flax.struct.field(pytree_node=False)  # steps of the returns


def init(
    example: Transition, capacity: int, num_envs: int, n: int = 1, *, prioritized: bool = False
) -> ReplayState:
    """An empty buffer of capacity // num_envs rows.

    Args:
      example: one transition, without leading axes: arrays or `jax.ShapeDtypeStruct`s.
      n: the most steps of a sample's return.

    Raises ValueError if there is no room for n rows, or if places of the buffer have more than 32 bits.
    """
    rows = capacity // num_envs
    # Of priorities there is a tree with twice as many places, rounded up to a power of two.
    most = COUNT_LIMIT // 4 if prioritized else COUNT_LIMIT - 1
    if rows * num_envs > most:
        raise ValueError(f"capacity must be at most {most}, got {capacity}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if rows < n:
        raise ValueError(
            f"capacity {capacity} is {rows} rows of {num_envs} environments; {n}-step returns need {n}"
        )
    shapes = jax.eval_shape(lambda x: x, example)
    zero = jnp.zeros((), jnp.int32)
    return ReplayState(
        storage=jax.tree.map(lambda x: jnp.zeros((rows, num_envs, *x.shape), x.dtype), shapes),
        head=zero,
        size=zero,
        priorities=Priorities(sum_tree.init(rows * num_envs), jnp.ones(()))
        if prioritized
        else None,
        n=n,
    )


def nbytes(
    example: Transition, capacity: int, num_envs: int = 1, *, prioritized: bool = False
) -> int:
    """Bytes that `init` will allocate for the same arguments; nothing is allocated."""
    shapes = jax.eval_shape(lambda: init(example, capacity, num_envs, prioritized=prioritized))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def add(state: ReplayState, transitions: Transition) -> ReplayState:
    """Writes one row (leaves [N, ...]) or T consecutive ones ([T, N, ...]) over the oldest.

    Raises ValueError if the columns or the dtypes are not those of the buffer, or for more rows than there is room for.
    """
    if jnp.ndim(transitions.reward) == jnp.ndim(state.storage.reward) - 1:
        transitions = jax.tree.map(lambda x: x[None], transitions)
    rows, num_envs = state.storage.reward.shape[:2]
    num_new = transitions.reward.shape[0]
    _check(state.storage, transitions)
    most = rows if state.priorities is None else rows - state.n + 1
    if num_new > most:
        raise ValueError(f"{num_new} rows at once; a buffer of {rows} rows takes at most {most}")

    def write(buffer: Array, new: Array) -> Array:
        if num_new == 1:
            return jax.lax.dynamic_update_slice_in_dim(buffer, new, state.head, 0)
        return buffer.at[(state.head + jnp.arange(num_new)) % rows].set(new, unique_indices=True)

    head = state.head + num_new
    size = jnp.minimum(state.size + num_new, rows)
    priorities = state.priorities
    if priorities is not None:
        # The new rows, which are not followed by enough others yet, and the n - 1 before them; rows until the head:
        age = jnp.arange(num_new + state.n - 1, 0, -1)
        value = jnp.where((age >= state.n) & (age <= size), priorities.largest, 0.0)
        leaves = ((head - age) % rows)[:, None] * num_envs + jnp.arange(num_envs)
        value = jnp.broadcast_to(value[:, None], leaves.shape)
        tree = sum_tree.update(priorities.tree, leaves.reshape(-1), value.reshape(-1))
        priorities = dataclasses.replace(priorities, tree=tree)
    return dataclasses.replace(
        state,
        storage=jax.tree.map(write, state.storage, transitions),
        head=head % rows,
        size=size,
        priorities=priorities,
    )


def interrupt(state: ReplayState, begin: int, end: int) -> ReplayState:
    """Marks the newest row of columns `begin` to `end` as truncated: what is added next is of other episodes.

    For environments that were lost; returns of several steps must not run from one episode into the next.
    """
    storage = state.storage
    at = (state.head - 1) % storage.reward.shape[0], slice(begin, end)
    cut = storage.truncated.at[at].set(~storage.terminated[at])
    return dataclasses.replace(state, storage=storage._replace(truncated=cut))


def sample(
    state: ReplayState,
    key: PRNGKeyArray,
    batch_size: int,
    discount: ScalarLike,
    beta: ScalarLike = 1.0,
) -> Sample:
    """Transitions of up to n steps, drawn with replacement from those that n - 1 more rows follow.

    A return ends where its episode does: without a bootstrap if terminated, with one from the true last observation
    if truncated. It never runs past the newest row: as long as fewer than n rows have been added, samples start at the
    oldest and have fewer steps. Nothing can be drawn from an empty buffer: `add` at least a row before.

    Args:
      discount: gamma.
      beta: exponent of the importance weights (prioritised sampling): w_i = (p_i / min_j p_j)^-beta, which is
        (M P(i))^-beta over its maximum in the sample. Schaul et al. 2016, sec. 3.4. https://arxiv.org/abs/1511.05952
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    rows, num_envs = state.storage.reward.shape[:2]
    # A start for which less than n rows are there can only be drawn while the buffer holds no other.
    if state.priorities is None:
        starts = jnp.maximum(state.size - state.n + 1, 1) * num_envs
        drawn = jax.random.randint(key, (batch_size,), 0, starts)
        row = (state.head - state.size + drawn // num_envs) % rows
        index = row * num_envs + drawn % num_envs
        weight = jnp.ones(batch_size)
    else:
        index, priority = sum_tree.sample(state.priorities.tree, key, batch_size)
        # While all priorities are 0 the draw means nothing: the oldest row then, as above.
        none = state.size < state.n
        oldest = (state.head - state.size) % rows * num_envs
        index = jnp.where(none, oldest + jnp.arange(batch_size) % num_envs, index)
        weight = jnp.where(none, 1.0, (priority / jnp.min(priority)) ** -jnp.asarray(beta))
    return _n_step(state, index, weight, discount)


def update_priorities(
    state: ReplayState,
    index: Int[Array, " B"],
    td_error: Float[Array, " B"],
    alpha: ScalarLike = 0.6,
    epsilon: ScalarLike = 1e-6,
) -> ReplayState:
    """Priorities (|td_error| + epsilon)^alpha for the transitions of a sample; of equal indices the largest counts.

    Indices that can no longer be drawn (overwritten since) are left alone. Proportional prioritisation, Schaul et al.
    2016, eq. 1 and sec. 3.3. https://arxiv.org/abs/1511.05952

    Args:
      epsilon: positive; a transition of priority 0 would never be drawn again.

    Raises ValueError if the buffer samples uniformly.
    """
    if state.priorities is None:
        raise ValueError("this buffer has no priorities: init(..., prioritized=True)")
    tree = state.priorities.tree
    priority = (jnp.abs(td_error) + epsilon) ** jnp.asarray(alpha)
    priority = jnp.where(sum_tree.leaf(tree, index) > 0, priority, 0.0)
    largest = jnp.maximum(state.priorities.largest, jnp.max(priority))
    priorities = Priorities(sum_tree.update(tree, index, priority), largest)
    return dataclasses.replace(state, priorities=priorities)


def _n_step(state, index, weight, discount) -> Sample:
    storage = state.storage
    rows, num_envs = storage.reward.shape[:2]
    row, column = index // num_envs, index % num_envs
    window = (row[:, None] + jnp.arange(state.n)) % rows  # [B, n]
    at_window = window, column[:, None]
    terminated, truncated = storage.terminated[at_window], storage.truncated[at_window]
    last = terminated | truncated | (window == (state.head - 1) % rows)
    over = jnp.cumsum(last, axis=1) > 0
    taken = jnp.concatenate([jnp.ones_like(over[:, :1]), ~over[:, :-1]], axis=1)

    gamma = jnp.asarray(discount, storage.reward.dtype)
    weighted = storage.reward[at_window] * gamma ** jnp.arange(state.n)
    steps = jnp.sum(taken, axis=1)
    terminated = jnp.any(taken & terminated, axis=1)
    at_last = (row + steps - 1) % rows, column
    return Sample(
        obs=jax.tree.map(lambda x: x[row, column], storage.obs),
        action=jax.tree.map(lambda x: x[row, column], storage.action),
        reward=jnp.sum(jnp.where(taken, weighted, 0.0), axis=1),
        discount=jnp.where(terminated, 0.0, gamma**steps),
        terminated=terminated,
        next_obs=jax.tree.map(lambda x: x[at_last], storage.next_obs),
        index=index,
        weight=weight,
    )


def _check(storage, new):
    if jax.tree.structure(storage) != jax.tree.structure(new):
        raise ValueError(
            f"the buffer holds {jax.tree.structure(storage)}, got {jax.tree.structure(new)}"
        )
    for buffer, x in zip(jax.tree.leaves(storage), jax.tree.leaves(new), strict=True):
        if buffer.shape[1:] != x.shape[1:] or buffer.dtype != x.dtype:
            raise ValueError(
                f"the buffer's rows are {buffer.dtype}{list(buffer.shape[1:])}, "
                f"got {x.dtype}{list(x.shape[1:])}"
            )
