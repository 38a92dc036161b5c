import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.biped.body import WalkerState
from tests.envs.biped.robot import KEY, N


@pytest.fixture(scope="module")
def env():
    return envs.make("walker", backend="native")


@pytest.fixture(scope="module")
def transition(env):
    return jax.jit(jax.vmap(lambda state, action: env.transition(state, action, KEY)))


@pytest.fixture(scope="module")
def states(env):
    """Random states with their exact sensors; a good part of them touch the floor."""
    rng = np.random.default_rng(0)
    qpos = np.zeros((N, 13))
    qpos[:, :2] = rng.normal(0, 0.3, (N, 2))
    qpos[:, 2] = rng.uniform(0.17, 0.23, N)
    qpos[:, 3:7] = rng.normal([1, 0, 0, 0], [0, 0.2, 0.2, 0.2], (N, 4))
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    qpos[:, 7:] = rng.uniform(-0.7, 0.7, (N, 6))
    qvel = rng.normal(0, 1, (N, 12))
    physics = jax.vmap(env.engine.forward)(jnp.float32(qpos), jnp.float32(qvel))
    action = jnp.asarray(rng.uniform(-1, 1, (N, 6)), jnp.float32)
    assert 0.2 < (physics.sensordata.sum(1) > 0).mean() < 0.95
    return WalkerState(physics, action)


@pytest.fixture(scope="module")
def actions():
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (N, 6)), jnp.float32)
