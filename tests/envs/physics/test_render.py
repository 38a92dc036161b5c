import jax
import numpy as np
import pytest

import envs
from envs.biped import walker
from envs.physics import render


@pytest.fixture(autouse=True)
def no_gl(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)


def picture(height=walker.STANDING_HEIGHT, x=0.0):
    qpos = np.zeros(13)
    qpos[[0, 2, 3]] = x, height, 1.0
    return render.render(walker.load_model(), qpos, 320, 180).astype(int)


def torso_rows(image):
    """Rows of the picture that show the torso: the one bluish, dark thing above the floor."""
    middle = image[:, 130:190]
    return np.flatnonzero(((middle[..., 2] - middle[..., 0] > 30) & (middle[..., 0] < 110)).any(1))


def test_the_robot_is_in_the_picture_and_moves_with_its_state():
    low, high = torso_rows(picture()), torso_rows(picture(walker.STANDING_HEIGHT + 0.03))
    assert len(low) > 10
    # The picture is 180 pixels for 0.75 of the model's extent (0.5 m): 3 cm are 14 of them.
    assert low.mean() - high.mean() == pytest.approx(14, abs=2)


def test_the_floor_moves_under_a_robot_that_is_kept_in_the_middle():
    a, b = picture(), picture(x=0.03)
    assert np.any(a != b)
    np.testing.assert_array_equal(torso_rows(a), torso_rows(b))


def test_an_environment_without_physics_says_that_it_has_nothing_to_draw():
    env = envs.make("probe-constant")
    with pytest.raises(NotImplementedError, match="ConstantReward has nothing to draw"):
        render.render_state(env, env.initial(jax.random.key(0)), 32, 32)
