"""Trees of arrays as they travel between processes: NumPy, contiguous.

A `jax.Array` would land on the receiver's default device, and none is sent without a copy; a NumPy array that is not
contiguous takes ten times as long to be sent. What arrives may be read-only, and in memory that several share.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


class Key:
    """The data of a random key."""

    def __init__(self, data: np.ndarray):
        self.data = data


def to_host(tree: Any) -> Any:
    """Returns a tree of JAX's arrays in NumPy."""

    def leaf(x: Any) -> Any:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return Key(np.asarray(jax.random.key_data(x)))
        return np.asarray(jax.device_get(x), order="C")

    return jax.tree.map(leaf, tree)


def to_device(tree: Any) -> Any:
    """Returns the tree that `to_host` was given, in arrays of JAX's own, which may be donated."""

    def leaf(x: Any) -> Any:
        # A copy: memory that is shared, or NumPy's, cannot be donated.
        if isinstance(x, Key):
            return jax.random.wrap_key_data(jax.numpy.asarray(x.data))
        return jax.numpy.array(x)

    return jax.tree.map(leaf, tree)


def nbytes(tree: Any) -> int:
    """Returns the bytes of all arrays in a tree."""
    return sum(x.data.nbytes if isinstance(x, Key) else x.nbytes for x in jax.tree.leaves(tree))
