import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.core import kl

LOGITS = jnp.array([0.3, -0.5, 1.0, 0.0])
REF_LOGITS = jnp.array([0.0, 0.4, 0.8, -0.2])
LOGP, REF_LOGP = jax.nn.log_softmax(LOGITS), jax.nn.log_softmax(REF_LOGITS)
P = jnp.exp(LOGP)
EXACT = float(jnp.sum(P * (LOGP - REF_LOGP)))


def test_by_hand():
    logp, ref_logp = jnp.array([0.0, 0.0]), jnp.array([-1.0, 1.0])
    np.testing.assert_allclose(kl.k1(logp, ref_logp), [1.0, -1.0])
    np.testing.assert_allclose(kl.k2(logp, ref_logp), [0.5, 0.5])
    np.testing.assert_allclose(kl.k3(logp, ref_logp), [np.exp(-1), np.e - 2], rtol=1e-6)


@pytest.mark.parametrize("estimator", [kl.k1, kl.k3])
def test_k1_and_k3_are_unbiased(estimator):
    """The expectation over actions, taken exactly, is the KL."""
    assert jnp.sum(P * estimator(LOGP, REF_LOGP)) == pytest.approx(EXACT, rel=1e-5)


def test_k2_is_biased_at_third_order_only():
    def relative_bias(step):
        near = jax.nn.log_softmax(LOGITS + step * (REF_LOGITS - LOGITS))
        exact = jnp.sum(P * (LOGP - near))
        return abs(jnp.sum(P * kl.k2(LOGP, near)) / exact - 1)

    assert relative_bias(1.0) > 1e-3
    # The KL itself is of second order.
    assert relative_bias(0.1) < 0.2 * relative_bias(1.0)


def test_expected_gradients_on_policy():
    """k1 in the loss has none; that of k2 is the gradient of the KL (see the module docstring)."""

    def expected(estimator):
        def loss(logits):  # the weights are the sampling distribution: no gradient through them
            return jnp.sum(P * estimator(jax.nn.log_softmax(logits), REF_LOGP))

        return jax.grad(loss)(LOGITS)

    def exact(logits):
        logp = jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(logp) * (logp - REF_LOGP))

    np.testing.assert_allclose(expected(kl.k1), np.zeros(4), atol=1e-6)
    np.testing.assert_allclose(expected(kl.k2), jax.grad(exact)(LOGITS), atol=1e-6)


def test_k3_plus_has_the_value_of_k3_and_the_gradient_of_k2():
    np.testing.assert_allclose(kl.k3_plus(LOGP, REF_LOGP), kl.k3(LOGP, REF_LOGP), rtol=1e-5)
    slopes = [
        jax.grad(lambda x, f=f: jnp.sum(f(x, REF_LOGP)))(LOGP) for f in (kl.k3_plus, kl.k2, kl.k3)
    ]
    np.testing.assert_array_equal(slopes[0], slopes[1])
    assert (jnp.abs(slopes[0] - slopes[2]) > 1e-3).any()


def test_weighted_k3_is_exact_off_policy_in_value_and_gradient():
    """Weights are those of another sampling distribution, and the ratio makes up for it."""
    old = jax.nn.log_softmax(jnp.array([0.5, 0.0, 0.2, -1.0]))

    def expected(estimator):
        def loss(logits):
            return jnp.sum(jnp.exp(old) * estimator(jax.nn.log_softmax(logits)))

        return jax.value_and_grad(loss)(LOGITS)

    def exact(logits):
        logp = jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(logp) * (logp - REF_LOGP))

    value, slope = expected(lambda logp: kl.weighted_k3(logp, REF_LOGP, old))
    assert value == pytest.approx(EXACT, rel=1e-5)
    np.testing.assert_allclose(slope, jax.grad(exact)(LOGITS), atol=1e-6)
    for estimator in (kl.k2, kl.k3):
        _, other = expected(lambda logp, f=estimator: f(logp, REF_LOGP))
        assert np.abs(other - jax.grad(exact)(LOGITS)).max() > 1e-2


def test_k3_from_samples_has_less_variance_than_k1():
    actions = jax.random.categorical(jax.random.key(0), LOGITS, shape=(50_000,))
    a, b = (estimator(LOGP[actions], REF_LOGP[actions]) for estimator in (kl.k1, kl.k3))
    assert a.mean() == pytest.approx(EXACT, abs=0.01)
    assert b.mean() == pytest.approx(EXACT, abs=0.01)
    assert b.std() < a.std()


def test_k2_and_k3_are_never_negative_even_next_to_ratio_one():
    small = jnp.linspace(-1e-3, 1e-3, 201)
    for estimator in (kl.k2, kl.k3):
        got = estimator(small, jnp.zeros(201))
        assert (got >= 0).all()
        # atol: float32 rounding of the two terms, of the size of 1e-3 * 6e-8
        np.testing.assert_allclose(got, np.asarray(small, float) ** 2 / 2, rtol=1e-3, atol=2e-10)


@pytest.mark.parametrize("estimator", [kl.k1, kl.k2, kl.k3])
def test_wild_ratios_stay_finite(estimator):
    assert jnp.isfinite(estimator(jnp.array([0.0, -500.0]), jnp.array([-500.0, 0.0]))).all()


def test_proportional_coefficient():
    assert kl.adaptive_coefficient_proportional(2.0, 6.6, 6.0, 100, 1000) == pytest.approx(2.02)
    assert kl.adaptive_coefficient_proportional(2.0, 600.0, 6.0, 100, 1000) == pytest.approx(2.04)
    assert kl.adaptive_coefficient_proportional(2.0, 0.0, 6.0, 100, 1000) == pytest.approx(1.96)


def test_double_halve_coefficient():
    results = [kl.adaptive_coefficient_double_halve(3.0, x, 0.3) for x in (0.19, 0.21, 0.44, 0.46)]
    np.testing.assert_allclose(results, [1.5, 3.0, 3.0, 6.0])


@pytest.mark.parametrize(("always", "then"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_coefficient_always_finds_back(always, then):
    """However often it was halved or doubled, it is neither 0 nor infinite."""
    beta = jnp.ones(())
    for _ in range(200):
        beta = kl.adaptive_coefficient_double_halve(beta, always, 0.3)
    assert beta == pytest.approx(kl.COEFFICIENT_RANGE[int(always)])
    for _ in range(20):
        beta = kl.adaptive_coefficient_double_halve(beta, then, 0.3)
    assert 0.9 < beta < 1.1
