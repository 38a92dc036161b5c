import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.exploration import next_noise


def test_without_correlation_it_is_fresh_noise():
    key = jax.random.key(0)
    noise = next_noise(jnp.full((3, 2), 7.0), key, 0.0)
    np.testing.assert_array_equal(noise, jax.random.normal(key, (3, 2)))


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
