import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.core import policy_losses as pl
from agents.core import surrogates

HOW = ["token-mean", "seq-mean-token-mean", "token-sum-constant"]


def test_ratio_is_clamped():
    ratio = pl.importance_ratio(jnp.array([0.0, 500.0, -500.0, jnp.log(2.0)]), jnp.zeros(4))
    np.testing.assert_allclose(ratio, [1.0, np.exp(20.0), np.exp(-20.0), 2.0], rtol=1e-6)
    slope = jax.grad(lambda x: pl.importance_ratio(x, jnp.zeros(2)).sum())(jnp.array([500.0, 0.0]))
    np.testing.assert_array_equal(slope, [0.0, 1.0])


def test_clipped_surrogate_by_hand():
    ratio = jnp.array([0.5, 0.5, 1.0, 1.25, 2.0, 2.0])
    advantage = jnp.array([1.0, -1.0, 3.0, 2.0, 1.0, -1.0])
    loss = pl.clipped_surrogate(ratio, advantage, 0.2, 0.3)
    np.testing.assert_allclose(loss, [-0.5, 0.8, -3.0, -2.5, -1.3, 2.0], rtol=1e-6)


def test_clipped_surrogate_has_no_gradient_where_clipped():
    ratio = jnp.array([0.5, 0.5, 1.0, 1.25, 2.0, 2.0])
    advantage = jnp.array([1.0, -1.0, 3.0, 2.0, 1.0, -1.0])
    slope = jax.grad(lambda r: pl.clipped_surrogate(r, advantage, 0.2, 0.3).sum())(ratio)
    # Moving back towards 1 is never clipped: the first and the last keep their gradient.
    np.testing.assert_allclose(slope, [-1.0, 0.0, -3.0, -2.0, 0.0, 1.0])


@pytest.mark.parametrize("surrogate", ["clipped", "unclipped"])
def test_first_ratio_gives_the_policy_gradient(surrogate):
    rng = np.random.default_rng(0)
    logits, advantage = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((8, 4), (8,)))
    actions = jnp.asarray(rng.integers(4, size=8))

    def logp(logits):
        return jax.nn.log_softmax(logits)[jnp.arange(8), actions]

    def surrogate_loss(x):
        if surrogate == "clipped":
            ratio = pl.importance_ratio(logp(x), logp(logits))
            return pl.clipped_surrogate(ratio, advantage, 0.2, 0.2).sum()
        columns = (y[None] for y in (logp(x), logp(logits), advantage))
        return surrogates.unclipped(*columns, jnp.ones((1, 8), bool)).sum()

    want = jax.grad(lambda x: pl.policy_gradient_loss(logp(x), advantage).sum())(logits)
    np.testing.assert_allclose(jax.grad(surrogate_loss)(logits), want, rtol=1e-5, atol=1e-6)


def test_aggregate_by_hand():
    loss = jnp.array([[1.0, 10.0, jnp.nan], [3.0, jnp.nan, jnp.nan]])
    mask = jnp.array([[True, True, False], [True, False, False]])
    expected = {  # the third sequence is empty and counts nowhere
        "token-mean": (14.0, 3.0),
        "seq-mean-token-mean": (2.0 + 10.0, 2.0),
        "token-sum-constant": (14.0, 5.0 * 2),
    }
    for how, pair in expected.items():
        assert tuple(map(float, pl.aggregate(loss, mask, how, 5.0))) == pair


def random_loss(seed=0):
    rng = np.random.default_rng(seed)
    loss = rng.normal(size=(9, 12)).astype(np.float32)
    mask = np.arange(9)[:, None] < rng.integers(0, 10, size=12)
    return jnp.asarray(loss), jnp.asarray(mask)


def slow_aggregate(loss, mask, how, constant):
    sequences = [loss[mask[:, n], n] for n in range(loss.shape[1]) if mask[:, n].any()]
    if how == "token-mean":
        return np.concatenate(sequences).mean()
    if how == "seq-mean-token-mean":
        return np.mean([s.mean() for s in sequences])
    return np.mean([s.sum() / constant for s in sequences])


@pytest.mark.parametrize("how", HOW)
def test_aggregate_against_slow_loops(how):
    loss, mask = random_loss()
    total, denominator = pl.aggregate(loss, mask, how, 9.0)
    slow = slow_aggregate(np.asarray(loss), np.asarray(mask), how, 9.0)
    assert total / denominator == pytest.approx(slow, rel=1e-4)


@pytest.mark.parametrize("how", HOW)
def test_micro_batches_change_nothing(how):
    loss, mask = random_loss()
    whole = jnp.stack(pl.aggregate(loss, mask, how, 9.0))
    cuts = [0, 1, 6, 12]
    parts = [
        jnp.stack(pl.aggregate(loss[:, a:b], mask[:, a:b], how, 9.0))
        for a, b in itertools.pairwise(cuts)
    ]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", HOW)
def test_padding_changes_nothing(how):
    loss, mask = random_loss()
    edges = ((2, 3), (1, 4))
    padded = jnp.pad(loss, edges, constant_values=jnp.nan), jnp.pad(mask, edges)
    for a, b in zip(
        pl.aggregate(loss, mask, how, 9.0), pl.aggregate(*padded, how, 9.0), strict=True
    ):
        assert a == pytest.approx(float(b), rel=1e-5)


@pytest.mark.parametrize("how", HOW)
def test_masked_loss_has_no_gradient(how):
    loss, mask = random_loss()
    slope = jax.grad(lambda x: pl.aggregate(x, mask, how, 9.0)[0])(jnp.where(mask, loss, jnp.nan))
    assert (slope[~mask] == 0).all()
    assert (slope[mask] > 0).all()


def test_aggregate_without_mask_and_empty():
    assert tuple(map(float, pl.aggregate(jnp.ones((2, 3)), None, "token-mean"))) == (6.0, 6.0)
    for how in HOW:
        empty = pl.aggregate(jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3), bool), how, 1.0)
        assert tuple(map(float, empty)) == (0.0, 0.0)


def test_aggregate_needs_its_constant():
    with pytest.raises(ValueError, match="constant"):
        pl.aggregate(jnp.ones((2, 3)), None, "token-sum-constant")
