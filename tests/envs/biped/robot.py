"""The robot as these tests see it: its model, and the orders of its parts, written out once more."""

import jax
import mujoco

from envs.biped.body import MODEL

SIDES = ("right", "left")
JOINT_ORDER = [f"{side}_{joint}" for side in SIDES for joint in ("ankle", "knee", "hip")]
CORNER_ORDER = [
    f"{side}_{end}_{flank}" for side in SIDES for end in ("front", "back") for flank in SIDES[::-1]
]
WEIGHT = 0.2432 * 9.81
N = 48  # random states
KEY = jax.random.key(0)


def mujoco_data(qpos, qvel):
    data = mujoco.MjData(MODEL)
    data.qpos[:], data.qvel[:] = qpos, qvel
    mujoco.mj_forward(MODEL, data)
    return data
