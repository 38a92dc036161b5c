import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.exploration import draw_epsilon_greedy, epsilon_greedy_probabilities, next_noise


def test_without_correlation_the_last_noise_is_forgotten():
    """Standard normal around 0, though the last noise was 7."""
    noise = np.asarray(next_noise(jnp.full((20_000, 2), 7.0), jax.random.key(0), 0.0))
    assert noise.mean() == pytest.approx(0.0, abs=0.03)
    assert noise.std() == pytest.approx(1.0, abs=0.03)
    assert (noise[:, 0] * noise[:, 1]).mean() == pytest.approx(0.0, abs=0.03)


def test_correlated_noise_by_hand():
    """0.6 of the last noise, and fresh noise of variance 1 - 0.36, which has a deviation of 0.8."""
    noise = np.asarray(next_noise(jnp.full((20_000, 1), 5.0), jax.random.key(0), 0.6))
    assert noise.mean() == pytest.approx(3.0, abs=0.03)
    assert noise.std() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("q", "expected"),
    [([1.0, 3.0, 2.0], [0.1, 0.8, 0.1]), ([3.0, 1.0, 3.0], [0.45, 0.1, 0.45])],
)
def test_epsilon_greedy(q, expected):
    """0.3 shared by three actions; the rest for the best, or shared by those that tie."""
    np.testing.assert_allclose(epsilon_greedy_probabilities(jnp.array(q), 0.3), expected, rtol=1e-6)
    drawn = draw_epsilon_greedy(jax.random.key(0), jnp.tile(jnp.array(q), (20_000, 1)), 0.3)
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 20_000, expected, atol=0.012)


@pytest.mark.parametrize("correlation", [0.5, 0.85])
def test_standard_normal_with_the_correlation_of_an_ornstein_uhlenbeck_process(correlation):
    def step(noise, key):
        noise = next_noise(noise, key, correlation)
        return noise, noise

    keys = jax.random.split(jax.random.key(1), 300)
    noise = np.asarray(jax.lax.scan(step, jnp.zeros((500, 1)), keys)[1])[50:, :, 0]
    assert noise.mean() == pytest.approx(0.0, abs=0.02)
    assert noise.std() == pytest.approx(1.0, abs=0.02)
    for lag in (1, 2, 5):
        assert (noise[lag:] * noise[:-lag]).mean() == pytest.approx(correlation**lag, abs=0.03)
