"""The batch that learners train on, whatever its source, and how batches are cut into parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from agents.core import across

_FEW_ENOUGH = 2**20  # numbers: twelve bits of a word are random then


class Batch(NamedTuple):
    """Steps, time-major [T, N]. Control: N environments. Tokens: N responses.

    `obs` is what the network saw, normalised with the statistics of the time. Entries where `mask` is False are
    ignored; `next_value` before such a gap is the value at the next step that counts. The fields with a default are
    there where the learner has a use for them.
    """

    obs: Any  # [T, N, ...]
    action: Any  # [T, N, ...] raw, see `agents.spaces`
    logp: (
        Array | Any
    )  # [T, N] log-prob of `action` when it was chosen; None: that of an update's only pass
    reward: Array  # [T, N]
    terminated: Array  # [T, N] bool
    truncated: Array  # [T, N] bool
    mask: Array  # [T, N] bool
    value: Array | Any = None  # [T, N] V(s_t)
    next_value: Array | Any = None  # [T, N] V(s_{t+1}), of the true successor
    ref_logp: Array | None = None  # [T, N] log-prob under a reference policy
    weight: Array | None = None  # [T, N] factor of each step's loss, in addition to its advantage


class Targets(NamedTuple):
    """The advantages that weight a policy update, and the values that a critic is fitted to."""

    advantage: Array  # [T, N]
    value: Array | Any = None  # [T, N]; None: there is no critic to learn it


class Evaluation(NamedTuple):
    """The present policy's view of a batch's observations and actions."""

    logp: Array  # [T, N]
    entropy: Array  # [T, N]
    value: Array | Any = None  # [T, N]; None: the policy has no critic


def require_old_logp(batch: Batch, gradient_steps: int) -> None:
    """Raises ValueError where a batch has no `logp` and more than one gradient step is to be made on it."""
    if batch.logp is None and gradient_steps != 1:
        raise ValueError(
            f"batch.logp is None, and {gradient_steps} gradient steps need it: from the second on the policy has moved"
        )


def flatten_time(tree: Any) -> Any:
    """[T, N, ...] to [1, T*N, ...]: for a memoryless policy every step is a row of its own, to be shuffled like any
    other. Do this after the targets, which need the order."""
    return jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), tree)


def random_order(key: PRNGKeyArray, n: int) -> Int[Array, " n"]:
    """Returns the numbers 0 .. n-1 in random order, for minibatches.

    Sorts words with random high bits and the number itself in the low bits: ten times faster on a CPU than
    `jax.random.permutation`, which sorts pairs, and twice. Where random bits are equal (a few in a hundred at
    n = 16384) numbers keep their order, which is of no consequence here. Beyond 2^20 numbers too few random bits would
    be left beside them, and `jax.random.permutation` takes over.
    """
    if n > _FEW_ENOUGH:
        return jax.random.permutation(key, n)
    low = max((n - 1).bit_length(), 1)
    high_bits = jax.random.bits(key, (n,), jnp.uint32) << low
    return (jnp.sort(high_bits | jnp.arange(n, dtype=jnp.uint32)) & ((1 << low) - 1)).astype(int)


def minibatches(tree: Any, order: Array) -> Any:
    """Picks columns: leaves [T, N, ...] and `order` [M, B] to leaves [M, T, B, ...]."""
    return jax.tree.map(lambda x: jnp.moveaxis(x[:, order], 1, 0), tree)


def mean_over_parts(
    f: Callable[[Any], Any], tree: Any, mask: Bool[Array, "T N"], parts: int
) -> Any:
    """Returns f(part) averaged over equal parts of the columns of `tree`, weighted by their unmasked steps.

    For an f that returns means over these steps, of all devices: its result for all columns at once.
    """
    if parts == 1:
        return f(tree)

    def sums(part):
        steps = across.total(jnp.sum(part[1]).astype(jnp.float32))
        return steps, jax.tree.map(lambda x: steps * x, f(part[0]))

    steps, total = sum_over_parts(sums, (tree, mask), parts)
    return jax.tree.map(lambda x: x / jnp.maximum(steps, 1.0), total)


def sum_over_parts(f: Callable[[Any], Any], tree: Any, parts: int) -> Any:
    """Returns f(part) added up over `parts` equal parts of the columns of `tree`, leaves [T, N, ...], one by one.

    Micro-batches: the memory of one part, and the result of all together if f returns sums.
    """
    if parts == 1:
        return f(tree)
    columns = jnp.arange(jax.tree.leaves(tree)[0].shape[1])
    tree = minibatches(tree, columns.reshape(parts, -1))
    shapes = jax.eval_shape(f, jax.tree.map(lambda x: x[0], tree))
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, f(part)), None), start, tree
    )
    return total
