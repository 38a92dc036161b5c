import jax
import mujoco
import numpy as np
import pytest

from envs.biped.body import STANDING_HEIGHT
from tests.envs.biped.robot import CORNER_ORDER, JOINT_ORDER, KEY, MODEL, SIDES

RESETS = 20_000


@pytest.fixture(scope="module")
def resets(env):
    state = jax.jit(jax.vmap(env.initial))(jax.random.split(KEY, RESETS))
    return jax.tree.map(np.asarray, state)


def joint_angles(resets):
    """name -> [RESETS], by MuJoCo's own addresses."""
    return {n: resets.physics.qpos[:, MODEL.joint(n).qposadr[0]] for n in JOINT_ORDER}


def assert_share(flags, share):
    """A share of so many independent draws, within five standard deviations."""
    assert flags.mean() == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / RESETS))


def feet_ahead(resets):
    """By how far the right ankle is ahead of the left, m."""
    angles, x = joint_angles(resets), {}
    for side in SIDES:
        hip = angles[f"{side}_hip"]
        x[side] = 0.1 * np.sin(hip) + 0.1 * np.sin(hip - angles[f"{side}_knee"])
    return x["right"] - x["left"]


def test_reset_stands_upright_on_the_floor(env, resets):
    qpos = resets.physics.qpos
    assert (qpos[:, :2] == 0).all()
    np.testing.assert_array_equal(qpos[:, 3:7], np.tile([1, 0, 0, 0], (RESETS, 1)))
    assert (resets.action == 0).all()
    assert not jax.vmap(env.terminal)(resets).any()
    feet = [MODEL.geom(name).id for name in CORNER_ORDER]
    data = mujoco.MjData(MODEL)
    for i in range(300):
        data.qpos[:], data.qvel[:] = qpos[i], resets.physics.qvel[i]
        mujoco.mj_forward(MODEL, data)
        assert data.geom_xpos[feet, 2].min() - 0.005 == pytest.approx(-1e-5, abs=1e-6)
        np.testing.assert_array_equal(resets.physics.sensordata[i], np.float32(data.sensordata))


def test_reset_joint_angles(resets):
    """Inverse kinematics for flat feet and hips at 0.18 m gives hip = atan(s / 0.18) + knee / 2, the same knee on
    both legs, and ankle = knee - hip. So what follows is the noise of the joints, U(+-0.05), alone."""
    q = joint_angles(resets)
    noise = {  # how many squared units of that noise
        "right foot's pitch": (q["right_hip"] - q["right_knee"] + q["right_ankle"], 3),
        "left foot's pitch": (q["left_hip"] - q["left_knee"] + q["left_ankle"], 3),
        "knees": (q["right_knee"] - q["left_knee"], 2),
        "hips": (q["right_hip"] + q["left_hip"] - (q["right_knee"] + q["left_knee"]) / 2, 2.5),
    }
    for name, (values, squares) in noise.items():
        deviation = 0.05 * np.sqrt(squares / 3)
        assert values.std() == pytest.approx(deviation, rel=0.03), name
        assert values.mean() == pytest.approx(0, abs=5 * deviation / np.sqrt(RESETS)), name
    for side in SIDES:
        assert np.abs(noise[f"{side} foot's pitch"][0]).max() < 0.15
    # Every reset is within 0.05 of the stance for some stride in +-5 cm.
    stride = np.linspace(-0.05, 0.05, 201)
    knee = 2 * np.arccos(np.hypot(0.18, stride) / 0.2)
    reached = np.zeros((RESETS, len(stride)), bool) | True
    for side, sign in (("right", 1), ("left", -1)):
        hip = np.arctan(sign * stride / 0.18) + knee / 2
        for joint, stance in (("hip", hip), ("knee", knee), ("ankle", knee - hip)):
            # half a grid cell of slack
            reached &= np.abs(q[f"{side}_{joint}"][:, None] - stance) < 0.05 + 0.002
    assert reached.any(1).all()


def test_reset_puts_one_foot_ahead_in_half_of_the_cases(resets):
    """The ankles are 2 s apart, s uniform in +-5 cm, or level; joint noise adds less than 3 cm. So beyond 3 cm there
    are half the resets times 1 - 3/10, right and left alike."""
    ahead = feet_ahead(resets)
    assert np.abs(ahead).max() < 0.13
    assert_share(np.abs(ahead) > 0.03, 0.35)
    assert_share(ahead > 0.03, 0.175)


def test_reset_speeds(resets):
    """U(+-0.1), and in a quarter of the cases, all with one foot ahead, U(+-0.05) more on vx: then |vx| > 0.1 with
    probability E|v| / 0.2 = 1/8."""
    qvel = resets.physics.qvel
    for values in qvel[:, 1:].T:
        assert np.abs(values).max() <= 0.1
        quarters = np.histogram(values, 4, (-0.1, 0.1))[0] / RESETS
        np.testing.assert_allclose(quarters, 0.25, atol=0.016)
    assert np.abs(np.corrcoef(qvel.T) - np.eye(12)).max() < 0.04
    fast = np.abs(qvel[:, 0]) > 0.1
    assert 0.14 < np.abs(qvel[:, 0]).max() <= 0.15
    assert_share(fast, 0.25 / 8)
    apart = np.abs(feet_ahead(resets)[fast]) > 0.03
    assert apart.mean() == pytest.approx(0.7, abs=5 * np.sqrt(0.21 / fast.sum()))


def test_reset_hip_height(resets):
    """Hips 0.18 m above the ankles, but for the noise of hips, knees and feet."""
    height = resets.physics.qpos[:, 2]
    assert height.mean() == pytest.approx(STANDING_HEIGHT, abs=0.002)
    assert np.abs(height - STANDING_HEIGHT).max() < 0.015
