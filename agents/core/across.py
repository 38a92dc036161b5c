"""Sums and means over the devices that share a batch.

A batch may be spread over a mesh of devices by its axis N: then each device holds some of its environments, or
responses, and runs the same program (`jax.shard_map` over the axis `AXIS`). What follows from all of the batch has to
be the same number on all devices: means, statistics, gradients. The functions here make it so. Outside of such a
program there is one device, and they return what they are given.

A mean that is taken here inside of a loss makes the loss the same on all devices, and the mean over devices of its
gradients is the gradient (`mean`). A loss of which each device computes its share, without a sum over devices in it,
has gradients that add up (`total`). Both hold in programs without JAX's tracking of varying values
(`check_vma=False`), which calls to the host need.
"""

from typing import TypeVar

import jax
from jaxtyping import Array, PRNGKeyArray

AXIS = "env"  # of the mesh

Tree = TypeVar("Tree")


def devices() -> int:
    """Returns the number of devices that share the batch; 1 outside of a program for several."""
    try:
        return jax.lax.axis_size(AXIS)
    except NameError:  # no such axis here
        return 1


def total(tree: Tree) -> Tree:
    """Returns the sum over devices of each leaf."""
    return tree if devices() == 1 else jax.lax.psum(tree, AXIS)


def mean(tree: Tree) -> Tree:
    """Returns the mean over devices of each leaf."""
    return tree if devices() == 1 else jax.lax.pmean(tree, AXIS)


def smallest(x: Array) -> Array:
    """Returns the least of the devices' numbers."""
    return x if devices() == 1 else jax.lax.pmin(x, AXIS)


def largest(x: Array) -> Array:
    """Returns the greatest of the devices' numbers."""
    return x if devices() == 1 else jax.lax.pmax(x, AXIS)


def index() -> Array | int:
    """Returns the number of this device, from 0."""
    return 0 if devices() == 1 else jax.lax.axis_index(AXIS)


def own_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """Returns a key of this device's own, from one that all have; for random numbers of its part of the batch."""
    return key if devices() == 1 else jax.random.fold_in(key, index())
