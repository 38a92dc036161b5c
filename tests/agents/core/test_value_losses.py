import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.core import value_losses as vl


def test_squared_error():
    np.testing.assert_allclose(vl.squared_error(jnp.array([3.0]), jnp.array([1.0])), [2.0])


def test_huber():
    value = jnp.array([0.0, 1.0, -2.0, 5.0])
    np.testing.assert_allclose(vl.huber(value, jnp.zeros(4), 2.0), [0.0, 0.5, 2.0, 8.0])
    slope = jax.grad(lambda v: vl.huber(v, jnp.zeros(4), 2.0).sum())(value)
    np.testing.assert_allclose(slope, [0.0, 1.0, -2.0, 2.0])


def test_clipped_value_loss_by_hand():
    value, old = jnp.array([1.1, 3.0, 3.0, -3.0]), jnp.array([1.0, 1.0, 1.0, 1.0])
    target = jnp.array([2.0, 3.0, 2.0, -3.0])
    # clipped values: 1.1, 1.5, 1.5, 0.5
    expected = [0.5 * 0.81, 0.5 * 2.25, 0.5 * 1.0, 0.5 * 12.25]
    np.testing.assert_allclose(vl.clipped_value_loss(value, old, target, 0.5), expected, rtol=1e-5)
    unclipped = vl.clipped_value_loss(value, old, target, 100.0)
    np.testing.assert_allclose(unclipped, vl.squared_error(value, target), rtol=1e-5)


def test_clipped_value_loss_has_no_gradient_where_clipped():
    def loss(value):
        return vl.clipped_value_loss(value, jnp.ones(2), jnp.array([3.0, 3.0]), 0.5).sum()

    # 2.5 has moved towards the target by more than the clip; 0 has moved away
    np.testing.assert_allclose(jax.grad(loss)(jnp.array([2.5, 0.0])), [0.0, -3.0])


def test_td_target():
    terminated = jnp.array([False, True])
    target = vl.td_target(jnp.array([1.0, 2.0]), jnp.array([10.0, jnp.nan]), terminated, 0.9)
    np.testing.assert_allclose(target, [10.0, 2.0])


def test_double_q_target_by_hand():
    online = jnp.array([[0.0, 5.0, 1.0], [9.0, 0.0, 0.0], [jnp.nan] * 3])
    other = jnp.array([[7.0, 10.0, 100.0], [20.0, 50.0, 0.0], [jnp.nan] * 3])
    terminated = jnp.array([False, False, True])
    target = vl.double_q_target(jnp.ones(3), online, other, terminated, 0.5)
    np.testing.assert_allclose(target, [6.0, 11.0, 1.0])


def random_next(seed, critics=2, size=20):
    """reward, next_q [K, size] (NaN where terminated), next_logp, terminated, discounts."""
    rng = np.random.default_rng(seed)
    reward, logp = rng.normal(size=(2, size)).astype(np.float32)
    terminated = rng.random(size) < 0.3
    next_q = rng.normal(size=(critics, size)).astype(np.float32)
    next_q[:, terminated] = np.nan
    discount = 0.9 ** rng.integers(1, 4, size).astype(np.float32)
    return reward, next_q, logp, terminated, discount


def test_clipped_double_q_target_against_a_loop():
    reward, next_q, _, terminated, discount = random_next(0)
    arrays = (jnp.asarray(x) for x in (reward, next_q, terminated, discount))
    got = vl.clipped_double_q_target(*arrays)
    for i in range(len(reward)):
        rest = 0.0 if terminated[i] else discount[i] * min(next_q[0, i], next_q[1, i])
        assert got[i] == pytest.approx(reward[i] + rest, rel=1e-5, abs=1e-6)


def test_soft_q_target_against_a_loop():
    reward, next_q, logp, terminated, discount = random_next(1, critics=3)
    arrays = (jnp.asarray(x) for x in (reward, next_q, logp, terminated, discount))
    got = vl.soft_q_target(*arrays, 0.2)
    for i in range(len(reward)):
        soft_value = min(next_q[:, i]) - 0.2 * logp[i]
        rest = 0.0 if terminated[i] else discount[i] * soft_value
        assert got[i] == pytest.approx(reward[i] + rest, rel=1e-5, abs=1e-6)


def test_targets_take_a_discount_for_each_entry():
    """Which makes n-step targets of n-step rewards."""
    never, discount = jnp.zeros(2, bool), jnp.array([0.9, 0.81])
    target = vl.td_target(jnp.ones(2), jnp.full(2, 10.0), never, discount)
    np.testing.assert_allclose(target, [10.0, 9.1], rtol=1e-6)
    q = jnp.array([[0.0, 10.0], [10.0, 0.0]])
    target = vl.double_q_target(jnp.ones(2), q, q, never, discount)
    np.testing.assert_allclose(target, [10.0, 9.1], rtol=1e-6)


def test_targets_have_no_gradient():
    never = jnp.zeros(3, bool)
    slope = jax.grad(lambda v: vl.td_target(jnp.ones(3), v, never, 0.9).sum())(jnp.ones(3))
    assert (slope == 0).all()
    q = jnp.arange(6.0).reshape(3, 2)
    slope = jax.grad(lambda q: vl.double_q_target(jnp.ones(3), q, q, never, 0.9).sum())(q)
    assert (slope == 0).all()
    twin = q.T
    slope = jax.grad(lambda q: vl.clipped_double_q_target(q[0], q, never, 0.9).sum())(twin)
    assert (slope == 0).all()
    slope = jax.grad(lambda q: vl.soft_q_target(q[0], q, q[1], never, 0.9, 0.1).sum())(twin)
    assert (slope == 0).all()


def test_explained_variance_against_numpy():
    rng = np.random.default_rng(0)
    value, target = rng.normal(size=(2, 7, 5)).astype(np.float32)
    mask = rng.random((7, 5)) < 0.6
    v, t = value[mask].astype(float), target[mask].astype(float)
    value[~mask] = target[~mask] = np.nan
    got = vl.explained_variance(jnp.asarray(value), jnp.asarray(target), jnp.asarray(mask))
    assert got == pytest.approx(1 - np.var(t - v) / np.var(t), rel=1e-4)


def test_explained_variance_extremes():
    x = jnp.array([1e-6, 2e-6, 4e-6])  # small is not constant
    assert vl.explained_variance(x, x) == 1
    assert vl.explained_variance(jnp.zeros(3), x) == pytest.approx(0, abs=1e-6)
    assert vl.explained_variance(x, jnp.full(3, 0.1)) == 0
    assert vl.explained_variance(x, jnp.zeros(3)) == 0
    assert vl.explained_variance(x, x, jnp.arange(3) < 1) == 0
