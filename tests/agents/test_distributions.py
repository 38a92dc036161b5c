import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.distributions import Categorical, Normal, TanhNormal

KEY = jax.random.key(0)
LOGITS = jnp.array([[0.3, -0.5, 3.0], [2.0, 0.0, 0.1]])
NORMAL = Normal(jnp.array([[0.5, -1.0], [0.0, 2.0]]), jnp.array([-0.5, 0.3]))
OTHER = Normal(jnp.array([[0.0, -0.5], [0.3, 2.0]]), jnp.array([0.0, 0.1]))


def mean_and_error(x):
    return np.mean(x, axis=0), 5 * np.std(x, axis=0) / np.sqrt(len(x))


def assert_mean_is(samples, expected):
    mean, five_sigma = mean_and_error(np.asarray(samples, float))
    assert (np.abs(mean - expected) < five_sigma).all()


def draw(distribution, n=40_000):
    return jax.vmap(distribution.sample)(jax.random.split(KEY, n))


def test_categorical_against_numpy():
    x = np.asarray(LOGITS, float)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    q = np.full((2, 3), 1 / 3)
    distribution = Categorical(LOGITS)
    actions = jnp.array([2, 1])
    np.testing.assert_allclose(distribution.log_prob(actions), np.log(p[[0, 1], [2, 1]]), rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(), -(p * np.log(p)).sum(1), rtol=1e-5)
    kl = (p * np.log(p / q)).sum(1)
    np.testing.assert_allclose(distribution.kl(Categorical(jnp.zeros((2, 3)))), kl, rtol=1e-5)
    np.testing.assert_array_equal(distribution.mode(), [2, 0])
    for row in range(2):
        assert_mean_is(np.asarray(draw(distribution))[:, row, None] == np.arange(3), p[row])


def test_categorical_integers_are_int32():
    distribution = Categorical(LOGITS)
    assert distribution.mode().dtype == distribution.sample(KEY).dtype == jnp.int32


def test_forbidden_actions_make_no_nan():
    logits = jnp.array([0.0, 1.0, -jnp.inf])
    two = Categorical(logits[:2])

    def all_of(x):
        d = Categorical(x)
        return d.entropy() + d.kl(Categorical(jnp.zeros(3))) + d.kl(d) + d.log_prob(jnp.array(0))

    assert Categorical(logits).entropy() == pytest.approx(float(two.entropy()), rel=1e-6)
    assert jnp.isfinite(all_of(logits))
    assert jnp.isfinite(jax.grad(all_of)(logits)).all()
    assert jnp.isinf(Categorical(jnp.zeros(3)).kl(Categorical(logits)))


def test_normal_against_numpy():
    mean, std = np.asarray(NORMAL.mean, float), np.exp(np.asarray(NORMAL.log_std, float))
    x = jnp.array([[0.0, 1.0], [2.0, -3.0]])
    density = np.exp(-(((x - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(NORMAL.log_prob(x), np.log(density).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(NORMAL.mode(), NORMAL.mean)
    samples = draw(NORMAL)
    assert_mean_is(samples, mean)
    assert_mean_is((samples - mean) ** 2, np.broadcast_to(std**2, mean.shape))


def test_normal_entropy_and_kl_against_monte_carlo():
    samples = draw(NORMAL)
    assert_mean_is(-jax.vmap(NORMAL.log_prob)(samples), np.asarray(NORMAL.entropy()))
    log_ratio = jax.vmap(lambda x: NORMAL.log_prob(x) - OTHER.log_prob(x))(samples)
    assert_mean_is(log_ratio, np.asarray(NORMAL.kl(OTHER)))


def test_normal_kl_by_hand():
    # std 1 against std 2, means 1 apart: log 2 + (1 + 1) / 8 - 1/2
    a, b = Normal(jnp.zeros(1), jnp.zeros(1)), Normal(jnp.ones(1), jnp.log(jnp.full(1, 2.0)))
    assert a.kl(b) == pytest.approx(np.log(2) + 2 / 8 - 0.5, rel=1e-6)
    assert a.kl(a) == 0


def test_kl_of_nearly_equal_normals_keeps_its_digits():
    step = 1e-4
    near = Normal(jnp.zeros(1), jnp.full(1, step))
    # second order: step^2; the plain formula in float32 is off by a factor
    assert Normal(jnp.zeros(1), jnp.zeros(1)).kl(near) == pytest.approx(step**2, rel=1e-2)


def test_shared_log_std_gives_batch_shapes():
    shared = Normal(jnp.zeros((5, 3, 2)), jnp.zeros(2))
    for got in (shared.entropy(), shared.log_prob(jnp.zeros((5, 3, 2))), shared.kl(shared)):
        assert got.shape == (5, 3)
    assert shared.sample(KEY).shape == shared.mode().shape == (5, 3, 2)


def test_tanh_density_integrates_to_its_probabilities():
    """The integral of exp(log_prob) over an interval is the share of samples in it."""
    distribution = TanhNormal(jnp.array([0.4]), jnp.array([-0.2]))
    edges = np.linspace(-1, 1, 200_001)
    middle = jnp.asarray((edges[1:] + edges[:-1]) / 2, jnp.float32)
    log_prob = jax.vmap(lambda x: distribution.log_prob(x[None]))(middle)
    mass = np.exp(np.asarray(log_prob, float)) * np.diff(edges)
    assert mass.sum() == pytest.approx(1, abs=1e-3)
    samples = np.asarray(draw(distribution))[:, 0]
    for lower, upper in [(-1, 0), (0, 0.5), (0.5, 0.9)]:
        inside = (middle > lower) & (middle < upper)
        share = mass[np.asarray(inside)].sum()
        assert_mean_is((samples > lower) & (samples < upper), share)


def test_tanh_sample_and_log_prob_agree_with_log_prob():
    distribution = TanhNormal(0.3 * NORMAL.mean, NORMAL.log_std - 0.5)
    action, log_prob = distribution.sample_and_log_prob(KEY)
    np.testing.assert_array_equal(action, distribution.sample(KEY))
    np.testing.assert_allclose(log_prob, distribution.log_prob(action), rtol=1e-4)


def test_standard_normal_noise_makes_the_sample():
    key = jax.random.key(2)
    noise = jax.random.normal(key, NORMAL.mean.shape)
    for d in (NORMAL, TanhNormal(NORMAL.mean, NORMAL.log_std)):
        np.testing.assert_array_equal(d.at(noise), d.sample(key))
    np.testing.assert_allclose(
        NORMAL.at(jnp.ones_like(NORMAL.mean)), NORMAL.mean + jnp.exp(NORMAL.log_std)
    )


def test_tanh_is_exact_where_it_saturates():
    # mean 30: log det = 2 (log 2 - x) there, to float32
    distribution = TanhNormal(jnp.array([30.0]), jnp.array([-10.0]))
    action, log_prob = distribution.sample_and_log_prob(KEY)
    x = distribution._normal().sample(KEY)
    assert action == 1
    expected = distribution._normal().log_prob(x) - 2 * (np.log(2) - x[0])
    assert log_prob == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("mean", [-30.0, 0.0, 30.0])
def test_tanh_has_finite_gradients(mean):
    def log_probs(mean):
        d = TanhNormal(mean, jnp.zeros(1))
        return d.sample_and_log_prob(KEY)[1] + d.log_prob(jnp.ones(1)) + d.log_prob(-jnp.ones(1))

    assert jnp.isfinite(jax.grad(log_probs)(jnp.array([mean]))).all()


def test_tanh_kl_mode_entropy():
    a, b = TanhNormal(NORMAL.mean, NORMAL.log_std), TanhNormal(OTHER.mean, OTHER.log_std)
    np.testing.assert_array_equal(a.kl(b), NORMAL.kl(OTHER))
    np.testing.assert_array_equal(a.mode(), jnp.tanh(NORMAL.mean))
    with pytest.raises(NotImplementedError, match="sample_and_log_prob"):
        a.entropy()


@pytest.mark.parametrize("make", [lambda: Categorical(LOGITS), lambda: NORMAL])
def test_are_pytrees(make):
    distribution = make()
    entropy = jax.jit(lambda d: d.entropy())(distribution)
    np.testing.assert_allclose(entropy, distribution.entropy(), rtol=1e-6)
    doubled = jax.tree.map(lambda x: jnp.stack([x, x]), distribution)
    both = jax.vmap(lambda d: d.entropy())(doubled)
    np.testing.assert_allclose(both, jnp.stack([entropy, entropy]), rtol=1e-6)
    jax.tree.map(lambda _: None, distribution)  # placeholders pass a run-time type checker
