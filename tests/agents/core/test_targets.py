import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.core.targets import soft_update

TARGET = {"w": jnp.array([1.0, 2.0]), "b": [jnp.array(0.1, jnp.bfloat16)]}
ONLINE = {"w": jnp.array([3.0, 0.3]), "b": [jnp.array(0.7, jnp.bfloat16)]}


def test_by_hand():
    new = soft_update(TARGET, ONLINE, 0.25)
    np.testing.assert_allclose(new["w"], [1.5, 1.575], rtol=1e-6)
    assert new["b"][0].dtype == jnp.bfloat16


def test_many_updates_are_an_exponential_average():
    rng = np.random.default_rng(0)
    target, expected = jnp.zeros(3), np.zeros(3)
    for online in rng.normal(size=(200, 3)).astype(np.float32):
        target = soft_update(target, jnp.asarray(online), 0.05)
        expected = 0.95 * expected + 0.05 * online
    np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("step", "expected"), [(8, ONLINE), (9, TARGET)])
def test_every_c_steps_without_a_branch(step, expected):
    """Tau 1 and 0 are exact: the copy of DQN."""
    tau = jnp.where(jnp.asarray(step) % 4 == 0, 1.0, 0.0)
    jax.tree.map(np.testing.assert_array_equal, soft_update(TARGET, ONLINE, tau), expected)
