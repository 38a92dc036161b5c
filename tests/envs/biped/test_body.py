import mujoco
import numpy as np
import pytest

from envs.biped import body
from tests.envs.biped.robot import CORNER_ORDER, JOINT_ORDER, MODEL, SIDES, WEIGHT, mujoco_data


def test_masses_and_lengths():
    mass = {MODEL.body(i).name: MODEL.body_mass[i] for i in range(MODEL.nbody)}
    expected = {"world": 0, "torso": 0.160}
    for side in SIDES:
        expected |= {f"{side}_thigh": 0.0088, f"{side}_shank": 0.0088, f"{side}_foot": 0.024}
    assert mass == pytest.approx(expected)
    assert sum(mass.values()) == pytest.approx(0.2432)
    assert pytest.approx(WEIGHT) == body.WEIGHT
    np.testing.assert_allclose(MODEL.geom("torso").size, [0.025, 0.04, 0.04])
    for side, y in (("right", -0.04), ("left", 0.04)):
        np.testing.assert_allclose(MODEL.body(f"{side}_thigh").pos, [-0.01, y, -0.02])
        np.testing.assert_allclose(MODEL.body(f"{side}_shank").pos, [0, 0, -0.1])
        np.testing.assert_allclose(MODEL.body(f"{side}_foot").pos, [0, 0, -0.1])
        for part in ("thigh", "shank"):
            np.testing.assert_allclose(MODEL.geom(f"{side}_{part}").size[:2], [0.0075, 0.05])
        np.testing.assert_allclose(MODEL.geom(f"{side}_foot").size, [0.025, 0.02, 0.005])
        np.testing.assert_allclose(MODEL.geom(f"{side}_foot").pos, [0.01, 0, 0], atol=1e-12)
        for end, x in (("front", 0.025), ("back", -0.025)):
            for flank, dy in (("left", 0.02), ("right", -0.02)):
                corner = MODEL.geom(f"{side}_{end}_{flank}")
                assert corner.size[0] == 0.005
                np.testing.assert_allclose(corner.pos, [0.01 + x, dy, -0.005], atol=1e-12)


def test_joints_and_motors():
    for name in JOINT_ORDER:
        joint = MODEL.joint(name)
        low, high = (0, 150) if "knee" in name else (-45, 45)
        np.testing.assert_allclose(np.rad2deg(joint.range), [low, high])
        assert MODEL.jnt_limited[joint.id]
        assert joint.damping == 1
        assert joint.armature == pytest.approx(0.01)
        assert joint.stiffness == joint.frictionloss == 0
    assert [MODEL.actuator(i).name for i in range(6)] == JOINT_ORDER
    moved = [MODEL.joint(MODEL.actuator_trnid[i, 0]).name for i in range(6)]
    assert moved == JOINT_ORDER
    np.testing.assert_array_equal(MODEL.actuator_gear[:, 0], 3)  # N m
    np.testing.assert_array_equal(MODEL.actuator_ctrlrange, [[-1, 1]] * 6)
    assert (MODEL.dof_damping[:6] == 0).all()  # nothing holds the torso
    assert (MODEL.dof_armature[:6] == 0).all()
    assert round(body.CONTROL_PERIOD / MODEL.opt.timestep, 9) == 5


def test_joints_turn_the_right_way():
    """Positive: hip swings the thigh forward, knee folds the shank back, ankle lifts the toes."""
    for side in SIDES:
        for joint, part, what in (
            ("hip", "shank", lambda d, b: d.body(b).xpos[0] > 0.0),
            ("knee", "foot", lambda d, b: d.body(b).xpos[0] < -0.02),
            ("ankle", "foot", lambda d, b: d.body(b).xmat.reshape(3, 3)[2, 0] > 0.1),
        ):
            data = mujoco.MjData(MODEL)
            data.joint(f"{side}_{joint}").qpos[0] = 0.3
            mujoco.mj_kinematics(MODEL, data)
            assert what(data, f"{side}_{part}"), joint


def test_eight_corners_touch_the_floor_and_nothing_else_collides():
    assert MODEL.npair == 8
    pairs = zip(MODEL.pair_geom1, MODEL.pair_geom2, strict=True)
    pairs = {frozenset((MODEL.geom(a).name, MODEL.geom(b).name)) for a, b in pairs}
    assert pairs == {frozenset(("floor", corner)) for corner in CORNER_ORDER}
    assert not MODEL.geom_contype.any()
    assert not MODEL.geom_conaffinity.any()
    assert (MODEL.pair_friction[:, :2] >= 0.6).all()
    assert (MODEL.pair_friction[:, :2] <= 0.9).all()
    lying = [
        0,
        0,
        0.02,
        np.sqrt(0.5),
        0,
        np.sqrt(0.5),
        0,
        *[0.0] * 6,
    ]  # torso and legs in the floor
    for contact in mujoco_data(lying, np.zeros(12)).contact:
        assert {MODEL.geom(i).name for i in contact.geom} & {*CORNER_ORDER}
    buried = mujoco_data([0, 0, 0.1, 1, 0, 0, 0, *[0.0] * 6], np.zeros(12))
    assert buried.ncon == 8
    crossed = [0, 0, 1, 1, 0, 0, 0, 0.5, 2.5, 0, 0.5, 2.5, 0]
    assert mujoco_data(crossed, np.zeros(12)).ncon == 0


def test_solver_settings():
    assert MODEL.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_WARMSTART
    assert MODEL.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_AUTORESET
