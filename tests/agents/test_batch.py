import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.batch import (
    flatten_time,
    mean_over_parts,
    minibatches,
    random_order,
    sum_over_parts,
)


@pytest.mark.parametrize("n", [1, 2, 7, 1000, 16384])
def test_random_order_holds_every_number_once(n):
    order = random_order(jax.random.key(0), n)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_random_order_is_uniform_enough():
    # Every number is equally likely to land in the first half; chance alone gives 0.5 +- 0.0079.
    orders = jax.vmap(lambda k: random_order(k, 64))(jax.random.split(jax.random.key(1), 4000))
    share = np.zeros(64)
    np.add.at(share, np.asarray(orders[:, :32]).ravel(), 1)
    assert np.abs(share / 4000 - 0.5).max() < 5 * 0.0079


def test_random_order_up_to_a_million_numbers_is_the_one_of_published_runs():
    order = np.asarray(random_order(jax.random.key(0), 2**20))
    assert np.dot(order[:: 2**14].astype(np.int64), np.arange(64)) == 1065619466
    np.testing.assert_array_equal(random_order(jax.random.key(3), 7), [2, 4, 1, 0, 5, 3, 6])


@pytest.mark.parametrize("n", [2**20 + 1, 3_000_000])
@pytest.mark.slow
def test_random_order_beyond_a_million_numbers_is_uniform(n):
    """With the ten random bits that a word has left, thousands of numbers would follow one another in their order."""
    order = np.asarray(random_order(jax.random.key(0), n))
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    # Of n - 1 pairs of neighbours half ascend, give or take sqrt(n / 12).
    ascending = np.count_nonzero(np.diff(order) > 0)
    assert abs(ascending - (n - 1) / 2) < 5 * np.sqrt(n / 12)
    # Each tenth of the numbers is spread evenly over the tenths of the order.
    table = np.histogram2d(np.arange(n), order, bins=10)[0]
    assert np.abs(table - n / 100).max() < 5 * np.sqrt(n / 100)


def test_minibatches_split_columns_and_keep_time_together():
    x = jnp.arange(12).reshape(3, 4)  # [T, N]
    parts = minibatches({"x": x}, jnp.array([[2, 0], [3, 1]]))["x"]
    np.testing.assert_array_equal(parts[0], x[:, [2, 0]])
    np.testing.assert_array_equal(parts[1], x[:, [3, 1]])


def test_flatten_time_makes_every_step_a_row():
    x = jnp.arange(24).reshape(2, 3, 4)
    assert flatten_time(x).shape == (1, 6, 4)
    np.testing.assert_array_equal(flatten_time(x)[0, 4], x[1, 1])


X = jnp.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
SOME = jnp.array([[True, True, True, False], [False, True, False, False]])


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_sums_over_parts(parts):
    """1 + 2 + ... + 8 = 36, and the squares add up to 204; each part has whole columns."""
    shapes = []

    def sums(x):
        shapes.append(x.shape)
        return {"sum": jnp.sum(x), "squares": jnp.sum(x**2)}

    found = sum_over_parts(sums, X, parts)
    assert found["sum"] == 36
    assert found["squares"] == 204
    assert set(shapes) == {(2, 4 // parts)}


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_means_over_parts_count_their_steps(parts):
    """The mean of 1, 2, 6 and 3 is 3; the mean of the means of the columns, 1, 4, 3 and none, is not."""

    def mean(part):
        x, mask = part
        return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)

    assert float(mean_over_parts(mean, (X, SOME), SOME, parts)) == pytest.approx(3.0)


def test_the_mean_over_parts_without_steps_is_0():
    found = mean_over_parts(lambda x: jnp.mean(x), X, jnp.zeros_like(SOME), 2)
    assert found == 0
