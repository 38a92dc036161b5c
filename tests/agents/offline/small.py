"""Small datasets to test with."""

import gymnasium
import jax
import numpy as np

from agents.offline.data import offline_data
from agents.spaces import encode, num_inputs


def random_data(env, steps=60, length=12, seed=0):
    """Episodes of `length` steps of random numbers, ended in turn by termination and by truncation."""
    rng = np.random.default_rng(seed)
    space, actions = env.observation_space, env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        obs, next_obs = rng.integers(space.n, size=(2, steps)).astype(np.int32)
    else:
        obs, next_obs = rng.normal(size=(2, steps, num_inputs(space))).astype(np.float32)
    if isinstance(actions, gymnasium.spaces.Discrete):
        action = rng.integers(actions.n, size=steps).astype(np.int32)
    else:
        action = rng.uniform(-1, 1, size=(steps, *actions.shape)).astype(np.float32)
    last = np.arange(steps) % length == length - 1
    terminated = last & (np.arange(steps) // length % 2 == 0)
    return offline_data(
        obs,
        action,
        rng.normal(size=steps).astype(np.float32),
        next_obs,
        terminated,
        last & ~terminated,
        lambda x: encode(space, x),
    )


def stepped(algo, data, steps=1, seed=0):
    """The state after some gradient steps, one an iteration."""
    algo.iteration_steps = 1
    state = jax.jit(algo.init)(jax.random.key(seed))
    step = jax.jit(algo.step)
    metrics = {}
    for _ in range(steps):
        state, metrics = step(state, data)
    return state, metrics
