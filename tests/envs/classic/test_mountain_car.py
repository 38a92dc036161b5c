import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.classic import draw
from envs.classic.mountain_car import ContinuousMountainCar, MountainCar

KEY = jax.random.key(0)
BOTH = [MountainCar, ContinuousMountainCar]


def transition(env, state, action):
    action = jnp.int32(action) if isinstance(env, MountainCar) else jnp.array([action], jnp.float32)
    return env.transition(jnp.array(state, jnp.float32), action, KEY)


def test_a_push_by_hand():
    """The new velocity moves the car."""
    gravity = -0.0025 * np.cos(-1.5)
    for action in (0, 1, 2):
        velocity = 0.01 + (action - 1) * 0.001 + gravity
        state = transition(MountainCar(), [-0.5, 0.01], action)
        np.testing.assert_allclose(state, [-0.5 + velocity, velocity], rtol=1e-5)
    for action, thrust in ((0.5, 0.5), (1.0, 1.0), (3.0, 1.0), (-3.0, -1.0)):
        velocity = 0.01 + 0.0015 * thrust + gravity
        state = transition(ContinuousMountainCar(), [-0.5, 0.01], action)
        np.testing.assert_allclose(state, [-0.5 + velocity, velocity], rtol=1e-5)


@pytest.mark.parametrize("kind", BOTH)
def test_walls(kind):
    np.testing.assert_array_equal(
        transition(kind(), [-1.19, -0.06], 0), np.array([-1.2, 0.0], np.float32)
    )
    position, velocity = transition(kind(), [0.59, 0.06], 1)
    assert position == np.float32(0.6)
    assert velocity > 0.05


@pytest.mark.parametrize(("kind", "goal"), [(MountainCar, 0.5), (ContinuousMountainCar, 0.45)])
def test_goal(kind, goal):
    def ends(position, velocity, **options):
        return bool(kind(**options).terminal(jnp.array([position, velocity])))

    assert ends(goal + 0.01, 0.0)
    assert ends(goal + 0.01, 0.03)
    assert not ends(goal - 0.01, 0.05)
    assert not ends(goal + 0.01, -0.01)
    assert not ends(goal + 0.01, 0.03, goal_velocity=0.04)


def test_rewards():
    there, elsewhere = jnp.array([0.55, 0.01]), jnp.array([0.0, 0.01])
    for state in (there, elsewhere):
        assert float(MountainCar().reward(elsewhere, jnp.int32(1), state)) == -1
    action = jnp.array([2.0])  # not clipped here
    reward = ContinuousMountainCar().reward
    assert float(reward(elsewhere, action, elsewhere)) == pytest.approx(-0.4)
    assert float(reward(elsewhere, action, there)) == pytest.approx(99.6)


@pytest.mark.parametrize("kind", BOTH)
def test_goal_velocities_can_be_swept(kind):
    tasks = kind(goal_velocity=jnp.array([0.0, 0.04]))
    ends = jax.vmap(lambda env: env.terminal(jnp.array([0.55, 0.02])))(tasks)
    assert ends.tolist() == [True, False]


@pytest.mark.parametrize("kind", BOTH)
def test_the_picture_shows_where_the_car_is(kind):
    def column(position):
        image = kind().render(np.array([position, 0.0], np.float32), 640, 360)
        return np.where((np.abs(image.astype(int) - draw.BLUE) < 8).all(-1))[1].mean()

    places = [column(x) for x in (-1.2, -0.5, 0.0, 0.5)]
    assert np.diff(places).min() > 60
