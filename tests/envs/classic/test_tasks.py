"""What all classic tasks share: transformations, options, precision, pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import base
from tests.envs.classic import parity

ANYWHERE = {name: np.array(bounds) for name, bounds in parity.ANYWHERE.items()}
TASKS = parity.TASKS


def some_states(name, n):
    low, high = ANYWHERE[name]
    return jnp.asarray(np.random.default_rng(3).uniform(low, high, (n, len(low))), jnp.float32)


@pytest.mark.parametrize("name", TASKS)
def test_batches_equal_single_runs(name):
    env = envs.make(name)
    states = some_states(name, 7)
    env.action_space.seed(0)
    actions = jnp.stack([jnp.asarray(env.action_space.sample()) for _ in range(7)])
    keys = jax.random.split(jax.random.key(0), 7)
    running = base.Running(states, jnp.zeros(7, jnp.int32))
    together = jax.jit(jax.vmap(base.step, (None, 0, 0, 0)))(env, keys, running, actions)
    single = jax.jit(base.step)
    for i in range(7):
        one = single(env, keys[i], jax.tree.map(lambda x, i=i: x[i], running), actions[i])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_precision_follows_the_state(name):
    env = envs.make(name)

    def dtypes():
        def everything(key):
            state = env.initial(key)
            action = jnp.asarray(env.action_space.sample())
            if jnp.issubdtype(action.dtype, jnp.floating):
                action = action.astype(state.dtype)
            after = env.transition(state, action, key)
            return state, after, env.observation(after), env.reward(state, action, after)

        shapes = jax.eval_shape(everything, jax.random.key(0))
        assert jax.eval_shape(env.terminal, shapes[0]).dtype == bool
        return {str(x.dtype) for x in shapes}

    assert dtypes() == {"float32"}
    with jax.enable_x64(True):
        assert dtypes() == {"float64"}


def test_coefficients_are_leaves():
    leaves = {name: jax.tree.leaves(envs.make(name)) for name in TASKS}
    assert leaves == {
        "CartPole-v1": [],
        "Acrobot-v1": [],
        "MountainCar-v0": [0.0],
        "MountainCarContinuous-v0": [0.0],
        "Pendulum-v1": [10.0],
    }
    assert jax.tree.leaves(envs.make("Acrobot-v1", torque_noise_max=0.5)) == [0.5]


@pytest.mark.parametrize("name", TASKS)
def test_time_limit_is_an_option(name):
    assert envs.make(name, max_episode_steps=7).max_episode_steps == 7


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CartPole-v1", {"max_episode_steps": 0}, "integer of at least 1, got 0"),
        ("Pendulum-v1", {"max_episode_steps": 2.5}, "integer of at least 1, got 2.5"),
        ("CartPole-v1", {"sutton_barto_reward": "no"}, "must be True or False, got 'no'"),
        ("Acrobot-v1", {"book_or_nips": "paper"}, "'paper': choose book or nips"),
        ("Acrobot-v1", {"torque_noise_max": -1.0}, "must be at least 0, got -1.0"),
        ("Acrobot-v1", {"torque_noise_max": float("inf")}, "must be a finite number, got inf"),
        ("MountainCar-v0", {"goal_velocity": float("nan")}, "must be a finite number, got nan"),
        ("MountainCarContinuous-v0", {"goal_velocity": "0"}, "must be a finite number, got '0'"),
        ("Pendulum-v1", {"g": "9.81"}, "g must be a finite number, got '9.81'"),
    ],
)
def test_bad_options(name, options, message, unchecked):
    with pytest.raises(ValueError, match=r"must be|unknown") as error:
        envs.make(name, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(640, 360), (300, 300)])
@pytest.mark.parametrize("name", TASKS)
def test_pictures(name, size):
    env, (a, b) = envs.make(name), some_states(name, 2)
    first = env.render(np.asarray(a), *size)
    assert first.shape == (size[1], size[0], 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(env.render(a, *size), first)
    changed = (env.render(b, *size) != first).any(-1)
    assert changed.mean() > 1e-3
