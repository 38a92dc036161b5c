import gymnasium
import jax
import numpy as np
import pytest

import envs
from envs.tabular import pictures


def state(env, s):
    return env.initial(jax.random.key(0))._replace(s=np.int32(s))


@pytest.mark.parametrize(
    "name", ["FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "Taxi-v4"]
)
def test_every_state_has_a_picture_of_its_own(name):
    env = envs.make(name)
    starts = np.flatnonzero(env.initial_distribution)
    shown = [0, 1, int(starts[-1])]
    frames = [env.render(state(env, s), 160, 120) for s in shown]
    for frame in frames:
        assert frame.shape == (120, 160, 3)
        assert frame.dtype == np.uint8
    assert len({frame.tobytes() for frame in frames}) == len(set(shown))


def centre(desc, cell, **kwargs):
    """The colour in the middle of a cell, of a square picture."""
    side = 40 * len(desc)
    size = 0.94 * 40
    frame = pictures.grid(desc, side, side, **kwargs)
    row, column = divmod(cell, len(desc[0]))
    y, x = (int(0.03 * side + size * (i + 0.5)) for i in (row, column))
    return tuple(frame[y, x].tolist())


LAKE = ("SFF", "FHF", "FFG")


def test_agent_hole_and_shades_are_where_they_belong():
    assert centre(LAKE, 5, agent=5) == pictures._AGENT
    assert centre(LAKE, 1, agent=5) == pictures._FILL["F"]
    assert max(centre(LAKE, 4)) < 80  # a hole is dark
    values = np.arange(9.0)
    values[[4, 8]] = 100  # of hole and goal: no cell to shade, nor do they set the scale
    np.testing.assert_array_equal(centre(LAKE, 7, values=values), pictures._HIGH)
    np.testing.assert_array_equal(centre(LAKE, 0, values=values), pictures._LOW)


def test_arrows_are_not_drawn_on_holes():
    assert centre(LAKE, 1, arrows=[(0, 1)] * 9) == pictures._INK
    assert centre(LAKE, 4, arrows=[(0, 1)] * 9) == centre(LAKE, 4)


def test_arrows_of_a_policy_point_as_the_actions_move():
    for name in ("FrozenLake-v1", "CliffWalking-v1"):
        env = envs.make(name, is_slippery=False)
        columns = len(env.desc[0])
        s = columns + (2 if name.startswith("Frozen") else 1)  # not at the border
        for a, (down, right) in enumerate(env.moves):
            assert env.next_states[s, a, 0] == s + down * columns + right
        frame = env.picture(200, 150, policy=np.zeros(env.observation_space.n))
        assert frame.shape == (150, 200, 3)


def test_walls_of_the_picture_are_those_of_the_taxi():
    table = envs.make("Taxi-v4").next_states[:, 2, 0]  # east
    desc = gymnasium.make("Taxi-v4").unwrapped.desc
    for row in range(5):
        for column in range(4):
            s = (row * 5 + column) * 20
            blocked = table[s] == s
            assert blocked == ((row, column) in pictures._WALLS)
            assert blocked == (desc[row + 1, 2 * column + 2] == b"|")
