import re

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from agents.distributions import Categorical, Normal
from agents.networks import MLP, Actor, ActorCritic, orthogonal

BOX = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)


def test_mlp_is_the_product_of_its_layers():
    mlp = MLP(3, (4, 5), 2, activation="tanh", rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (6, 3))
    expected = np.asarray(x)
    for i, layer in enumerate(mlp.layers):
        expected = expected @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
        expected = np.tanh(expected) if i < 2 else expected
    np.testing.assert_allclose(mlp(x), expected, atol=1e-6)
    np.testing.assert_allclose(mlp(x.reshape(2, 3, 3)), expected.reshape(2, 3, 2), atol=1e-6)
    np.testing.assert_allclose(mlp(x[0]), expected[0], atol=1e-6)


def test_initialisation_is_orthogonal_with_the_stated_gains():
    mlp = MLP(16, (16, 16), 16, head_gain=0.01, rngs=nnx.Rngs(0))
    for layer, gain in zip(mlp.layers, (np.sqrt(2), np.sqrt(2), 0.01), strict=True):
        kernel = np.asarray(layer.kernel[...])
        np.testing.assert_allclose(kernel.T @ kernel, gain**2 * np.eye(16), atol=1e-5)
        assert not np.any(layer.bias[...])


def test_actor_gives_the_distribution_that_fits_the_space():
    obs = jnp.ones((7, 3))
    continuous = ActorCritic(3, BOX, (8,), initial_log_std=-1.0, rngs=nnx.Rngs(0))
    dist = continuous.distribution(obs)
    assert isinstance(dist, Normal)
    assert dist.mean.shape == (7, 2)
    np.testing.assert_array_equal(dist.log_std, [-1.0, -1.0])
    assert continuous.value(obs).shape == (7,)

    discrete = ActorCritic(3, gymnasium.spaces.Discrete(5), (8,), rngs=nnx.Rngs(0))
    dist = discrete.distribution(obs)
    assert isinstance(dist, Categorical)
    # Nearly uniform at first, so that exploration does not depend on the seed.
    np.testing.assert_allclose(dist.entropy(), np.log(5), atol=1e-3)


def test_the_spread_does_not_fall_below_its_bound():
    def log_std(floor, initial):
        actor = Actor(3, BOX, (8,), initial_log_std=initial, min_log_std=floor, rngs=nnx.Rngs(0))
        return actor(jnp.ones((7, 3))).log_std

    np.testing.assert_array_equal(log_std(-1.0, -3.0), [-1.0, -1.0])
    np.testing.assert_array_equal(log_std(-1.0, -0.5), [-0.5, -0.5])
    np.testing.assert_array_equal(log_std(None, -3.0), [-3.0, -3.0])


def test_seeds_are_initialised_one_after_another_and_as_alone():
    """Batched QR decompositions, two at once, hang a CPU on JAX 0.10: see `orthogonal`."""
    init = orthogonal(2.0)
    keys = jax.random.split(jax.random.key(0), 6).reshape(2, 3)
    together = jax.jit(jax.vmap(jax.vmap(lambda key: init(key, (8, 5), jnp.float32))))
    calls = re.findall(r'geqrf.*num_batch_dims = "(\d)"', together.lower(keys).as_text())
    assert calls == ["0"]
    np.testing.assert_allclose(
        together(keys)[1, 2], jax.nn.initializers.orthogonal(2.0)(keys[1, 2], (8, 5)), rtol=1e-5
    )
