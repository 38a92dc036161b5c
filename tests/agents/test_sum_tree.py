import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import sum_tree

update = jax.jit(sum_tree.update)
sample = jax.jit(sum_tree.sample, static_argnums=2)


def filled(weights):
    weights = jnp.asarray(weights, jnp.float32)
    return update(sum_tree.init(len(weights)), jnp.arange(len(weights)), weights)


def test_every_node_is_the_sum_of_its_children():
    rng = np.random.default_rng(0)
    tree, weights = sum_tree.init(13), np.zeros(16, np.float32)
    for _ in range(20):
        index, value = rng.choice(13, 5, replace=False), rng.random(5).astype(np.float32)
        tree = update(tree, jnp.asarray(index), jnp.asarray(value))
        weights[index] = value
        np.testing.assert_array_equal(tree[16:], weights)
        np.testing.assert_array_equal(tree[1:16], tree[2::2] + tree[3::2])
    assert tree[1] == pytest.approx(weights.sum(), rel=1e-6)


def test_of_values_for_one_index_the_largest_counts_even_if_below_the_old():
    tree = update(filled([9.0, 1.0]), jnp.array([0, 1, 0, 0]), jnp.array([2.0, 5.0, 3.0, 1.0]))
    np.testing.assert_array_equal(tree[1:], [8.0, 3.0, 5.0])


@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_any_size(size):
    index, weight = sample(filled(np.arange(1, size + 1)), jax.random.key(0), 256)
    assert set(np.unique(index)) <= set(range(size))
    np.testing.assert_array_equal(weight, index + 1)
    assert (np.unique(index).size == size) == (size < 64)


def test_draws_are_in_proportion_to_the_weights():
    weights = np.array([0.0, 1.0, 2.0, 0.0, 3.0, 10.0, 0.5])
    index, weight = sample(filled(weights), jax.random.key(1), 20_000)
    share = np.bincount(np.asarray(index), minlength=7) / 20_000
    # Stratified draws: each weight's share of 20000 parts is off by less than the two parts at its ends.
    np.testing.assert_allclose(share, weights / weights.sum(), atol=2 / 20_000)
    np.testing.assert_array_equal(weight, weights[np.asarray(index)])


def test_a_single_draw_is_in_proportion_too():
    """Over keys, not only over the parts of one batch."""
    tree, keys = filled([1.0, 3.0]), jax.random.split(jax.random.key(2), 4000)
    index = jax.vmap(lambda key: sum_tree.sample(tree, key, 1)[0][0])(keys)
    assert np.mean(index) == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 4000))


def test_a_weight_of_zero_is_never_drawn_whatever_the_rounding():
    """Weights of very different size, where partial sums are rounded at every level."""
    rng = np.random.default_rng(3)
    weights = np.where(rng.random(5000) < 0.5, 0.0, 10.0 ** rng.uniform(-8, 8, 5000))
    weights[-1000:] = 0.0
    _, weight = sample(filled(weights), jax.random.key(3), 50_000)
    assert (np.asarray(weight) > 0).all()
