import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from envs.biped import body
from envs.physics import render


@pytest.fixture(autouse=True)
def no_gl(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)


def picture(height=body.STANDING_HEIGHT, x=0.0):
    qpos = np.zeros(13)
    qpos[[0, 2, 3]] = x, height, 1.0
    return render.render(body.MODEL, qpos, 320, 180).astype(int)


def torso_rows(image):
    """Rows of the picture that show the torso: the one bluish, dark thing above the floor."""
    middle = image[:, 130:190]
    return np.flatnonzero(((middle[..., 2] - middle[..., 0] > 30) & (middle[..., 0] < 110)).any(1))


def test_the_robot_is_in_the_picture_and_moves_with_its_state():
    low, high = torso_rows(picture()), torso_rows(picture(body.STANDING_HEIGHT + 0.03))
    assert len(low) > 10
    # The picture's 180 pixels are 1.7 times the robot's height (0.23 m): 3 cm are 14 of them.
    assert low.mean() - high.mean() == pytest.approx(14, abs=2)


def test_the_floor_moves_under_a_robot_that_is_kept_in_the_middle():
    a, b = picture(), picture(x=0.03)
    assert np.any(a != b)
    np.testing.assert_array_equal(torso_rows(a), torso_rows(b))


def scene(body, floor='<geom type="plane" size="5 5 0.1"/>'):
    """Pictures of a model, by the coordinates given."""
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{floor}{body}</worldbody></mujoco>")

    def look(*qpos):
        return render.render(model, np.array(qpos), 320, 180).astype(int)

    return look


def red(image):
    """Columns and rows of the red pixels' middle."""
    rows, columns = np.nonzero((image[..., 0] > 150) & (image[..., 1] < 90))
    return columns.mean(), rows.mean()


BALL = """<body pos="0 0 0.5">{joint}<geom type="sphere" size="0.1" rgba="1 0 0 1"/>
  <geom type="capsule" fromto="0 0 -0.1 0 0 -0.5" size="0.05" rgba="0 0 1 1"/></body>"""


def test_a_robot_on_a_sliding_root_is_kept_in_the_middle():
    look = scene(BALL.format(joint='<joint type="slide" axis="1 0 0"/>'))
    near, far = look(0.0), look(7.3)
    assert red(near) == pytest.approx(red(far))
    assert np.any(near != far)  # the floor has moved


def test_a_cart_on_a_rail_moves_through_the_picture():
    look = scene(
        BALL.format(joint='<joint type="slide" axis="1 0 0" limited="true" range="-1 1"/>')
    )
    (left, _), (right, _) = red(look(-0.2)), red(look(0.2))
    assert right - left > 20


def test_a_mechanism_in_the_plane_is_seen_from_above():
    look = scene(
        """<body><joint type="hinge" axis="0 0 1"/>
        <geom type="capsule" fromto="0 0 0 0.4 0 0" size="0.02" rgba="0 0 1 1"/>
        <geom type="sphere" pos="0.4 0 0" size="0.04" rgba="1 0 0 1"/></body>"""
    )
    (x0, y0), (x1, y1) = red(look(0.0)), red(look(np.pi / 2))
    # A quarter turn to the left: as far up as it was to the right.
    assert x0 - x1 == pytest.approx(y0 - y1, abs=1.5)
    assert x0 - x1 > 30


def test_the_picture_fits_the_robot_whatever_its_size_and_the_floors():
    joint = "<freejoint/>"
    small = scene(BALL.format(joint=joint))(0, 0, 0.5, 1, 0, 0, 0)
    for floor in ('<geom type="plane" size="90 90 0.1"/>', '<geom type="plane" size="0 0 1"/>'):
        np.testing.assert_array_equal(
            small, scene(BALL.format(joint=joint), floor)(0, 0, 0.5, 1, 0, 0, 0)
        )
    # A floor far below is left out: the robot would be tiny.
    deep = '<geom type="plane" pos="0 0 -9" size="5 5 1"/>'
    _, row = red(scene(BALL.format(joint=joint), deep)(0, 0, 0.5, 1, 0, 0, 0))
    assert 30 < row < 120


def test_a_screen_that_cannot_be_used_is_said_once_and_pictures_are_drawn():
    code = """
import numpy as np, warnings
from envs.biped import body
from envs.physics import render
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    shapes = [render.render(body.MODEL, body.MODEL.qpos0, 64, 48).shape for _ in "ab"]
print(shapes, [str(w.message) for w in said])
"""
    environment = {**os.environ, "DISPLAY": ":77"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    words = "MuJoCo's renderer does not work on DISPLAY=:77: pictures are drawn instead"
    assert run.stdout.strip() == f"{[(48, 64, 3)] * 2} {[words]}"
