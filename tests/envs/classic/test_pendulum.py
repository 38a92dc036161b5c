import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.classic import draw
from envs.classic.pendulum import Pendulum

KEY = jax.random.key(0)


def test_a_step_by_hand():
    state, torque = jnp.array([math.pi / 2, 1.0]), jnp.array([0.5])
    speed = 1 + 0.05 * (15 + 3 * 0.5)
    after = Pendulum().transition(state, torque, KEY)
    np.testing.assert_allclose(after, [math.pi / 2 + 0.05 * speed, speed], rtol=1e-6)
    np.testing.assert_allclose(
        Pendulum().observation(after), [math.cos(after[0]), math.sin(after[0]), speed], rtol=1e-5
    )


def test_torque_and_speed_are_limited():
    state = jnp.array([0.3, 0.0])
    strong, strongest = (Pendulum().transition(state, jnp.array([u]), KEY) for u in (9.0, 2.0))
    np.testing.assert_array_equal(strong, strongest)
    assert float(Pendulum().transition(jnp.array([0.3, 8.0]), jnp.array([2.0]), KEY)[1]) == 8


@pytest.mark.parametrize("turns", [-2, 0, 1])
def test_the_cost_is_that_of_the_state_before_the_step(turns):
    state = jnp.array([math.pi / 2 + turns * 2 * math.pi, 2.0])
    elsewhere = jnp.array([0.0, 0.0])
    reward = Pendulum().reward(state, jnp.array([3.0]), elsewhere)
    assert float(reward) == pytest.approx(-((math.pi / 2) ** 2 + 0.4 + 0.004), rel=1e-5)


def test_never_ends():
    assert not Pendulum().terminal(jnp.array([0.0, 0.0]))


def test_gravity_can_be_swept():
    tasks = Pendulum(g=jnp.array([0.0, 10.0]))
    state, none = jnp.array([math.pi / 2, 0.0]), jnp.zeros(1)
    speeds = jax.vmap(lambda env: env.transition(state, none, KEY)[1])(tasks)
    np.testing.assert_allclose(speeds, [0.0, 0.75], rtol=1e-6)


def test_the_picture_shows_the_rod():
    def place(angle):
        image = Pendulum().render(np.array([angle, 0.0], np.float32), 640, 360)
        rows, columns = np.where((np.abs(image.astype(int) - draw.RED) < 8).all(-1))
        return columns.mean() - 319.5, 179.5 - rows.mean()

    # Positive angles are counter-clockwise: to the left of upright.
    for angle, direction in ((0, (0, 1)), (math.pi / 2, (-1, 0)), (math.pi, (0, -1))):
        np.testing.assert_allclose(np.array(place(angle)) / 66, direction, atol=0.1)
