"""Sum tree: draws an index in proportion to its weight, and changes weights, in log time. For prioritised replay.

A complete binary tree in one array: node 1 is the root, the children of node i are 2i and 2i + 1, the L leaves are
nodes L to 2L - 1 (L a power of two, node 0 unused), and each inner node is the sum of its two children. Inner nodes
are recomputed rather than corrected by differences, so that rounding errors do not gather. Leaves are not negative.

Schaul et al. 2016, appendix B.2.1. https://arxiv.org/abs/1511.05952
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


def init(size: int) -> Float[Array, " nodes"]:
    """At least `size` leaves, all 0."""
    return jnp.zeros(2 << (size - 1).bit_length())


def leaf(tree: Float[Array, " nodes"], index: Int[Array, " B"]) -> Float[Array, " B"]:
    """The weights at `index`."""
    return tree[tree.shape[0] // 2 + index]


def update(
    tree: Float[Array, " nodes"], index: Int[Array, " B"], value: Float[Array, " B"]
) -> Float[Array, " nodes"]:
    """Sets the weights at `index`; for repeated indices the largest value wins, on every device."""
    node = tree.shape[0] // 2 + index
    tree = tree.at[node].set(value).at[node].max(value)

    def level(_, carry):
        tree, node = carry
        node = node // 2
        return tree.at[node].set(tree[2 * node] + tree[2 * node + 1]), node

    tree, _ = jax.lax.fori_loop(0, _depth(tree), level, (tree, node))
    return tree


def sample(
    tree: Float[Array, " nodes"], key: PRNGKeyArray, batch_size: int
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Indices drawn in proportion to their weights, and those weights.

    Stratified: one draw from each of `batch_size` equal parts of the total. A weight of 0 is never drawn, unless all
    are 0.
    """
    part = (jnp.arange(batch_size) + jax.random.uniform(key, (batch_size,))) / batch_size

    def level(_, carry):
        node, _, rest = carry
        left, right = tree[2 * node], tree[2 * node + 1]
        # By rounding `rest` may exceed the sum of both; a branch without weight is not entered even then.
        go_right = (rest >= left) & (right > 0)
        rest = jnp.where(go_right, rest - left, rest)
        return 2 * node + go_right, jnp.where(go_right, right, left), rest

    # The weight comes down along with the node: looked up after the loop, it would be one more reader of the tree for
    # a later `update` to wait for, and XLA makes a copy of the tree instead.
    root = jnp.ones(batch_size, jnp.int32)
    start = (root, tree[root], part * tree[1])
    node, weight, _ = jax.lax.fori_loop(0, _depth(tree), level, start)
    return node - tree.shape[0] // 2, weight


def _depth(tree):
    return tree.shape[0].bit_length() - 2
