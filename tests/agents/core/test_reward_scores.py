import inspect
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.core import reward_scores as scores

MASK = jnp.array([[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]], bool)
SCORE = jnp.array([[9.0, 0.5, 9.0], [0.4, 0.8, 9.0], [0.9, jnp.nan, 9.0], [jnp.nan, 0.25, jnp.nan]])


def test_the_score_is_read_at_the_last_real_token_whatever_the_padding():
    expected = np.float32([0.9, 0.25, 0.0])
    np.testing.assert_array_equal(scores.last_token_score(SCORE, MASK), expected)
    edges = ((3, 2), (0, 0))
    padded = jnp.pad(SCORE, edges, constant_values=jnp.nan), jnp.pad(MASK, edges)
    np.testing.assert_array_equal(scores.last_token_score(*padded), expected)
    slope = jax.grad(lambda x: scores.last_token_score(x, MASK).sum())(SCORE)
    np.testing.assert_array_equal(slope, [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]])


def test_standardised_scores_are_clipped():
    score = scores.standardised_score(jnp.array([3.0, 5.0, 900.0, -900.0]), 3.0, 2.0)
    np.testing.assert_array_equal(score, [0.0, 1.0, 10.0, -10.0])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("last", [0.9, 0.25, 0]),
        ("min", [0.4, 0.25, 0]),
        ("product", [0.36, 0.1, 0]),
        ("mean", [0.65, 1.55 / 3, 0]),
    ],
)
def test_steps_by_hand(how, expected):
    np.testing.assert_allclose(scores.step_score(SCORE, MASK, how), expected, rtol=1e-6)
    slope = jax.grad(lambda x: scores.step_score(x, MASK, how).sum())(SCORE)
    assert jnp.isfinite(slope).all()
    assert (slope[~MASK] == 0).all()


def test_filler_moves_the_mean_and_length_the_product_but_not_the_minimum():
    """Right steps (0.9) added to a solution that has one wrong step (0.2)."""
    short, long = (jnp.array([[0.2], *[[0.9]] * k]) for k in (1, 8))
    low, high = (
        {
            how: float(scores.step_score(x, jnp.ones(x.shape, bool), how)[0])
            for how in ("min", "product", "mean")
        }
        for x in (short, long)
    )
    assert low["min"] == high["min"]
    assert low["product"] > high["product"]
    assert low["mean"] < high["mean"]


def test_unknown_aggregation_of_steps_is_refused():
    with pytest.raises(ValueError, match="median"):
        inspect.unwrap(scores.step_score)(SCORE, MASK, "median")  # past the types' own check


def test_step_loss_is_the_binary_cross_entropy():
    logit = jnp.array([0.0, 2.0, 2.0, -500.0])
    right = jnp.array([True, True, False, True])
    expected = [np.log(2), np.log1p(np.exp(-2)), np.log1p(np.exp(2)), 500.0]
    np.testing.assert_allclose(scores.step_loss(logit, right), expected, rtol=1e-6)


def test_soft_overlong_penalty_by_hand():
    penalty = scores.soft_overlong_penalty(jnp.array([0, 60, 80, 85, 100, 400]), 100, 20)
    np.testing.assert_allclose(penalty, [0.0, 0.0, 0.0, -0.25, -1.0, -1.0])


def test_best_of_n_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=(2, 6, 3)).astype(np.float32)
    for n, row in enumerate(scores.best_of_n(jnp.asarray(proxy), jnp.asarray(gold)), start=1):
        subsets = [list(s) for s in itertools.combinations(range(6), n)]
        for p in range(3):
            best = [gold[s, p][np.argmax(proxy[s, p])] for s in subsets]
            assert row[p] == pytest.approx(np.mean(best), rel=1e-5, abs=1e-6)


def test_best_of_n_weights_at_large_n_against_exact_fractions():
    weights = scores.best_of_n_weights(256)
    np.testing.assert_allclose(weights.sum(axis=1), np.ones(256), rtol=2e-6)
    for n, i in [(1, 1), (1, 256), (4, 130), (64, 200), (64, 63), (128, 130), (256, 256)]:
        exact = math.comb(i - 1, n - 1) / math.comb(256, n)
        assert float(weights[n - 1, i - 1]) == pytest.approx(exact, rel=3e-5, abs=1e-37)


def test_best_of_n_of_the_proxy_itself_rises_from_the_mean_to_the_maximum():
    proxy = jnp.asarray(np.random.default_rng(1).normal(size=(32, 2)))
    best = scores.best_of_n(proxy, proxy)
    np.testing.assert_allclose(best[0], proxy.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(best[-1], proxy.max(axis=0), rtol=1e-6)
    assert (jnp.diff(best, axis=0) > 0).all()
    # A proxy without information leaves the mean of gold at every n in expectation: here, one of equals.
    np.testing.assert_allclose(
        scores.best_of_n(proxy, jnp.ones((32, 2))), np.ones((32, 2)), rtol=1e-6
    )


def test_best_of_n_kl_is_that_of_the_maximum_of_n_uniform_numbers():
    """The best of n has density n u^(n - 1) at quantile u; the KL is its integral against the logarithm."""
    n = jnp.array([1, 2, 4, 64])
    u = (np.arange(200_000) + 0.5) / 200_000
    expected = [
        np.mean(k * u ** (k - 1) * (np.log(k) + (k - 1) * np.log(u))) for k in (1, 2, 4, 64)
    ]
    np.testing.assert_allclose(scores.best_of_n_kl(n), expected, atol=1e-4)
