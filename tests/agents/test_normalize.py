import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import normalize

update = jax.jit(normalize.update)


def assert_is(stats, data, rtol=1e-5):
    """The statistics are those of `data` [samples, ...], in float64."""
    data = np.asarray(data, np.float64)
    mean, var = data.mean(0), data.var(0)
    assert stats.count == len(data)
    np.testing.assert_allclose(stats.mean, mean, rtol=rtol, atol=rtol * np.sqrt(var).max())
    np.testing.assert_allclose(stats.var, var, rtol=rtol)


def test_by_hand():
    stats = update(normalize.init(()), jnp.array([1.0, 3.0]))
    assert (stats.count, stats.mean, stats.var) == (2, 2.0, 1.0)
    stats = update(stats, jnp.array([8.0]))  # 1, 3, 8: mean 4, var (9 + 1 + 16) / 3
    assert stats.mean == 4.0
    assert stats.var == pytest.approx(26 / 3, rel=1e-6)


@pytest.mark.parametrize("lead", [(), (16,), (4, 8)])
@pytest.mark.parametrize("event", [(), (3,), (2, 3)])
def test_any_shape(lead, event):
    data = np.random.default_rng(0).normal(2, 3, size=(20, *lead, *event)).astype(np.float32)
    stats = normalize.init(event)
    for batch in data:
        stats = update(stats, jnp.asarray(batch))
    assert_is(stats, data.reshape(-1, *event))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_many_merges(offset):
    """4000 merges, float32, mean up to 10^4 standard deviations from zero."""
    data = np.random.default_rng(1).normal(size=(4000, 32, 2)).astype(np.float32)
    data += np.linspace(0, 1, 4000, dtype=np.float32)[:, None, None]  # a stream that drifts
    data += np.float32(offset)
    stats, _ = jax.jit(
        lambda s, x: jax.lax.scan(lambda s, b: (normalize.update(s, b), None), s, x)
    )(normalize.init((2,)), jnp.asarray(data))
    assert_is(stats, data.reshape(-1, 2), rtol=2e-5)


def test_one_large_batch_with_offset():
    data = np.random.default_rng(2).normal(1e4, 1, size=(200_000, 2)).astype(np.float32)
    stats = update(normalize.init((2,)), jnp.asarray(data))
    np.testing.assert_allclose(stats.mean, data.mean(0, dtype=np.float64), atol=2e-3)
    np.testing.assert_allclose(stats.var, data.var(0, dtype=np.float64), rtol=1e-4)


def test_does_not_freeze_at_a_billion():
    """The distribution changes after 9e8 samples; plain float32 would not move at all."""
    before, after, batch, steps = 900_000_000, 10.001, 16, 2000
    zeros = jnp.zeros(())
    stats = normalize.RunningStatistics(
        jnp.asarray(before, jnp.int32), jnp.asarray(10.0), zeros, jnp.asarray(1.0), zeros
    )
    data = jnp.full((batch,), after, jnp.float32)
    moved, _ = jax.jit(
        lambda s: jax.lax.scan(lambda s, _: (normalize.update(s, data), None), s, None, steps)
    )(stats)
    assert moved.count == before + batch * steps
    share = batch * steps / (before + batch * steps)
    exact = share * (float(data[0]) - 10.0)  # 3.6e-8, where the spacing of float32 is 9.5e-7
    assert float(moved.mean - 10.0) + float(moved.mean_low) == pytest.approx(exact, rel=1e-2)
    shrink = share * -1.0 + share * (1 - share) * 1e-6
    assert float(moved.var - 1.0) + float(moved.var_low) == pytest.approx(shrink, rel=1e-2)


def test_count_saturates():
    zeros = jnp.zeros(())
    full = normalize.RunningStatistics(
        jnp.asarray(normalize.MAX_COUNT, jnp.int32), zeros, zeros, zeros + 1, zeros
    )
    merged = normalize.merge(full, dataclasses.replace(full, mean=zeros + 2))
    assert (merged.count, merged.mean, merged.var) == (normalize.MAX_COUNT, 1.0, 2.0)


def test_merge_is_one_stream_and_symmetric():
    data = np.random.default_rng(3).normal(5, 2, size=(300, 3)).astype(np.float32)
    a = update(normalize.init((3,)), jnp.asarray(data[:50]))
    b = update(normalize.init((3,)), jnp.asarray(data[50:]))
    assert_is(normalize.merge(a, b), data)
    assert_is(normalize.merge(b, a), data)


def test_merge_counts_the_low_parts():
    zeros = jnp.zeros(())
    a = normalize.RunningStatistics(jnp.asarray(1, jnp.int32), zeros + 1, zeros, zeros + 1, zeros)
    b = dataclasses.replace(a, mean_low=zeros + 4e-8, var_low=zeros - 2e-8)
    merged = normalize.merge(a, b)  # halfway; both are below the spacing of float32 at 1
    assert float(merged.mean - 1) + float(merged.mean_low) == pytest.approx(2e-8, rel=1e-3)
    assert float(merged.var - 1) + float(merged.var_low) == pytest.approx(-1e-8, rel=1e-3)


def test_merge_with_nothing():
    empty = normalize.init((3,))
    a = update(empty, jnp.arange(12.0).reshape(4, 3))
    for merged in (normalize.merge(a, empty), normalize.merge(empty, a)):
        assert_is(merged, np.arange(12.0).reshape(4, 3))
    nothing = normalize.merge(empty, empty)
    assert nothing.count == 0
    assert (nothing.mean == 0).all()


def test_mask():
    rng = np.random.default_rng(4)
    data, mask = rng.normal(size=(6, 7, 3)).astype(np.float32), rng.random((6, 7)) < 0.5
    kept = data[mask]
    data[~mask] = np.nan
    stats = update(normalize.init((3,)), jnp.asarray(data), jnp.asarray(mask))
    assert_is(stats, kept)
    same = update(stats, jnp.asarray(data), jnp.zeros((6, 7), bool))
    np.testing.assert_allclose(same.mean, stats.mean, rtol=1e-6)
    assert same.count == stats.count
    with pytest.raises(ValueError, match="leading axes"):
        normalize.update(stats, jnp.asarray(data), jnp.ones((6, 1), bool))


def test_normalize_whitens_and_clips():
    data = np.random.default_rng(5).normal(7, 3, size=(500, 2)).astype(np.float32)
    stats = update(normalize.init((2,)), jnp.asarray(data))
    white = np.asarray(normalize.normalize(stats, jnp.asarray(data)))
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(white.std(0), 1, rtol=1e-4)
    far = normalize.normalize(stats, jnp.array([1e9, -1e9]), clip=5.0)
    np.testing.assert_array_equal(far, [5.0, -5.0])


def test_before_two_samples_only_the_mean_is_taken_off():
    stats = normalize.init((2,))
    x = jnp.array([3.0, -4.0])
    np.testing.assert_array_equal(normalize.normalize(stats, x), x)
    stats = update(stats, jnp.ones(2))
    np.testing.assert_array_equal(normalize.normalize(stats, x), x - 1)


def test_constant_entries_stay_finite():
    stats = update(normalize.init((1,)), jnp.full((1000, 1), 0.1))
    got = normalize.normalize(stats, jnp.full((1,), 0.1))
    assert abs(float(got[0])) < 1e-2
    assert normalize.std(stats)[0] == pytest.approx(1e-4, rel=1e-2)


def test_vmap_equals_single_runs():
    data = jnp.asarray(np.random.default_rng(6).normal(size=(4, 50, 3)), jnp.float32)
    start = jax.vmap(lambda _: normalize.init((3,)))(jnp.arange(4))
    many = jax.vmap(normalize.update)(start, data)
    for seed in range(4):
        one = normalize.update(normalize.init((3,)), data[seed])
        np.testing.assert_allclose(many.mean[seed], one.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(many.var[seed], one.var, rtol=1e-5)
    white = jax.vmap(normalize.normalize)(many, data)
    assert white.shape == data.shape
