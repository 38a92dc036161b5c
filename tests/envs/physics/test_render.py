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


def picture(height=walker.STANDING_HEIGHT, x=0.0, **kwargs):
    qpos = np.zeros(13)
    qpos[[0, 2, 3]] = x, height, 1.0
    return render.render(walker.load_model(), qpos, 320, 180, **kwargs).astype(int)


def rows_like(image, rgb):
    middle = image[:, 130:190]  # no captions, no numbers on the floor
    return np.flatnonzero((np.abs(middle - rgb).sum(-1) < 40).any(axis=1))


def test_the_robot_is_in_the_picture_and_moves_with_its_state():
    torso = 255 * walker.load_model().geom("torso").rgba[:3] * 0.9 + 20
    low, high = (
        rows_like(picture(), torso),
        rows_like(picture(walker.STANDING_HEIGHT + 0.05), torso),
    )
    assert len(low) > 10
    # The picture is 180 pixels for 0.75 of the model's extent (0.5 m): 5 cm are 24 of them.
    assert low.mean() - high.mean() == pytest.approx(24, abs=3)


def test_the_floor_moves_under_a_robot_that_is_kept_in_the_middle():
    torso = 255 * walker.load_model().geom("torso").rgba[:3] * 0.9 + 20
    a, b = picture(), picture(x=0.03)
    assert np.any(a != b)
    np.testing.assert_array_equal(rows_like(a, torso), rows_like(b, torso))


def test_a_caption_is_written():
    assert np.any(picture(caption="t = 1 s") != picture())


def test_an_environment_without_physics_says_that_it_has_nothing_to_draw():
    env = envs.make("probe-constant")
    with pytest.raises(NotImplementedError, match="ConstantReward has nothing to draw"):
        render.render_state(env, env.initial(jax.random.key(0)), 32, 32)
