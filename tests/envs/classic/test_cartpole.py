import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.classic import draw
from envs.classic.cartpole import CartPole

KEY = jax.random.key(0)


def test_a_push_from_rest_by_hand():
    """Euler's explicit method: after one step the velocities have changed and the positions have not."""
    push = 10 / 1.1
    angular = -push / (0.5 * (4 / 3 - 0.1 / 1.1))
    linear = push - 0.05 * angular / 1.1
    for action, sign in ((1, 1), (0, -1)):
        state = CartPole().transition(jnp.zeros(4), jnp.int32(action), KEY)
        expected = sign * 0.02 * np.array([0, linear, 0, angular])
        np.testing.assert_allclose(state, expected, rtol=1e-6)
    moved = CartPole().transition(jnp.array([0.0, 1.0, 0.0, 2.0]), jnp.int32(1), KEY)
    np.testing.assert_allclose(moved[jnp.array([0, 2])], [0.02, 0.04], rtol=1e-6)


@pytest.mark.parametrize(
    ("state", "ends"),
    [
        ([2.39, 0, 0, 0], False),
        ([2.41, 0, 0, 0], True),
        ([-2.41, 0, 0, 0], True),
        ([0, 9, np.radians(11.9), 9], False),
        ([0, 0, np.radians(12.1), 0], True),
        ([0, 0, -np.radians(12.1), 0], True),
    ],
)
def test_ends_and_rewards(state, ends):
    state, action = jnp.array(state, jnp.float32), jnp.int32(0)
    assert bool(CartPole().terminal(state)) == ends
    assert float(CartPole().reward(state, action, state)) == 1
    sutton = CartPole(sutton_barto_reward=True).reward(state, action, state)
    assert float(sutton) == (-1 if ends else 0)


def test_the_picture_shows_where_the_cart_is_and_how_the_pole_leans():
    def columns(state, color):
        image = CartPole().render(np.array(state, np.float32), 640, 360)
        return np.where((np.abs(image.astype(int) - color) < 8).all(-1))[1].mean()

    left, right = (columns([x, 0, 0, 0], draw.BLUE) for x in (-1.0, 1.0))
    assert left + right == pytest.approx(639, abs=2)
    assert right - left > 150
    assert columns([0, 0, 0.2, 0], draw.ORANGE) > columns([0, 0, -0.2, 0], draw.ORANGE) + 10
