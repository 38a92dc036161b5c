import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.batch import Batch
from agents.groups import episode_returns, group_starts, group_targets
from envs import probes


def batch(reward, mask):
    flags = jnp.zeros(mask.shape, bool)
    return Batch(reward, reward, reward, reward, flags, flags, mask, reward, reward)


def test_starts_are_equal_inside_groups_and_differ_between_them():
    class Uniform(probes.ConstantReward):
        def initial(self, key):
            return jax.random.uniform(key, (1,)), jnp.zeros((), jnp.int32)

    running = group_starts(Uniform(), jax.random.key(0), 12, 4)
    x = np.asarray(running.state[0]).reshape(3, 4)
    np.testing.assert_array_equal(x, np.broadcast_to(x[:, :1], (3, 4)))
    assert len(set(x[:, 0].tolist())) == 3
    np.testing.assert_array_equal(running.t, np.zeros(12))


def test_returns_are_discounted_from_the_first_unmasked_step():
    reward = jnp.array([[9.0, 1.0, 5.0], [1.0, 2.0, 5.0], [2.0, 9.0, 5.0], [4.0, 9.0, 5.0]])
    mask = jnp.array([[0, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)
    np.testing.assert_allclose(episode_returns(reward, mask, 1.0), [7.0, 3.0, 0.0])
    np.testing.assert_allclose(episode_returns(reward, mask, 0.5), [1 + 1 + 1, 1 + 1, 0.0])


@pytest.mark.parametrize("scale", [True, False])
def test_advantage_is_the_return_relative_to_the_group_at_every_step(scale):
    reward = jnp.array([[1.0, 2.0, 5.0, 5.0], [2.0, 9.0, 0.0, 0.0]])
    mask = jnp.array([[1, 1, 1, 1], [1, 0, 1, 0]], bool)
    targets, metrics = group_targets(batch(reward, mask), 2, scale=scale)
    # Returns 3 and 2, then 5 and 5. The deviation of (3, 2) with ddof 1 is sqrt(1 / 2).
    a = 0.5 / (np.sqrt(0.5) + 1e-4) if scale else 0.5
    np.testing.assert_allclose(targets.advantage, [[a, -a, 0, 0], [a, 0, 0, 0]], rtol=1e-6)
    assert metrics["frac_zero_std"] == 0.5
