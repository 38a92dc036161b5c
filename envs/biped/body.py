"""The walking robot: its model (biped.xml), sizes, state and kinematics.

World axes: x ahead, y to the left, z up. Legs are in the order right, left; their joints in the order ankle, knee, hip.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from envs.mujoco_env import load_file

XML = Path(__file__).with_name("biped.xml")

CONTROL_PERIOD = 0.025  # s, Ts
HIP_HEIGHT = 0.18  # m above the ankles in the reset stance
FEET = ("right", "left")
JOINTS = tuple(f"{side}_{joint}" for side in FEET for joint in ("ankle", "knee", "hip"))
CORNERS = tuple(
    f"{side}_{corner}"
    for side in FEET
    for corner in ("front_left", "front_right", "back_left", "back_right")
)

_LEG = 0.1  # m, length of thigh and of shank
_HIP_BELOW_TORSO = 0.02  # m
_FOOT_BELOW_ANKLE = 0.01  # m: half a foot and a contact sphere's radius
CORNER_RADIUS = 0.005  # m
_FOOT_CORNERS = (  # m from the ankle, in the foot's frame
    (0.035, 0.02, -0.005),
    (0.035, -0.02, -0.005),
    (-0.015, 0.02, -0.005),
    (-0.015, -0.02, -0.005),
)
STANDING_HEIGHT = HIP_HEIGHT + _HIP_BELOW_TORSO + _FOOT_BELOW_ANKLE  # m, z0: the torso's centre


MODEL = load_file(XML)
_JOINTS = [MODEL.joint(name) for name in JOINTS]
QPOS_ADDRESS = np.array([joint.qposadr[0] for joint in _JOINTS])  # [6], of JOINTS in qpos
QVEL_ADDRESS = np.array([joint.dofadr[0] for joint in _JOINTS])  # [6], of JOINTS in qvel
WEIGHT = float(MODEL.body_mass.sum() * -MODEL.opt.gravity[2])  # N


@flax.struct.dataclass
class WalkerState:
    """The physics' state, and the action that led to it."""

    physics: Any  # PhysicsState: qpos [13], qvel [12], sensordata [8], one touch force per foot corner, N
    action: Any  # [6], clipped to [-1, 1]; zero at the start


def fallen(qpos: Float[Array | np.ndarray, " 13 *batch"]) -> Bool[Array, " *batch"]:
    """True where the torso is at or below 0.1 m, more than 1 m off the line, or turned by 45 degrees about any axis.
    The first axis of `qpos` holds the coordinates."""
    # From sines and cosines: XLA calls C's atan2 one number at a time, half as long as the rest of a step's arithmetic.
    (sin_yaw, cos_yaw), sin_pitch, (sin_roll, cos_roll) = _attitude(qpos[3:7])
    turned = (
        (jnp.abs(sin_yaw) >= cos_yaw)
        | (jnp.abs(sin_pitch) >= math.sin(math.pi / 4))
        | (jnp.abs(sin_roll) >= cos_roll)
    )
    return (qpos[2] <= 0.1) | (jnp.abs(qpos[1]) > 1.0) | turned


def yaw_pitch_roll(quat: Float[Array | np.ndarray, " 4 *batch"]) -> Float[Array, " 3 *batch"]:
    """Intrinsic ZYX angles in radians of a unit quaternion (w, x, y, z); the first axis holds the components."""
    yaw, sin_pitch, roll = _attitude(quat)
    pitch = jnp.arcsin(jnp.clip(sin_pitch, -1.0, 1.0))
    return jnp.stack([jnp.arctan2(*yaw), pitch, jnp.arctan2(*roll)])


def _attitude(quat):
    """((sin, cos) of yaw, sin of pitch, (sin, cos) of roll); those of yaw and roll are times the pitch's cosine."""
    w, x, y, z = quat
    yaw = 2 * (w * z + x * y), 1 - 2 * (y * y + z * z)
    roll = 2 * (w * x + y * z), 1 - 2 * (x * x + y * y)
    return yaw, 2 * (w * y - z * x), roll


def rotate(quat: Float[Array, "4"], v: Float[Array, "3"]) -> Float[Array, "3"]:
    """Rotates `v` by the unit quaternion `quat` (w, x, y, z): from the body's axes to the world's."""
    w, u = quat[0], quat[1:]
    t = 2.0 * jnp.cross(u, v)
    return v + w * t + jnp.cross(u, t)


def leg_angles(ahead: Array) -> Float[Array, "3"]:
    """Inverse kinematics: ankle, knee and hip angle (rad) of a leg whose flat foot stands `ahead` m of the hip and
    HIP_HEIGHT below it."""
    reach = jnp.sqrt(HIP_HEIGHT**2 + ahead**2)
    knee = 2.0 * jnp.arccos(reach / (2 * _LEG))  # thigh and shank: an isosceles triangle
    hip = jnp.arctan2(ahead, HIP_HEIGHT) + knee / 2
    return jnp.stack([knee - hip, knee, hip])


def lowest_point(legs: Float[Array, "6"]) -> Array:
    """Height (m) of the lowest corner sphere above the torso's centre, torso upright, at joint angles in the order of
    JOINTS."""
    corners = foot_points(legs.reshape(2, 3))[:, 1:]
    return jnp.min(corners[..., 2]) - CORNER_RADIUS


def foot_points(
    legs: Float[Array | np.ndarray, "*batch 2 3"], xp: Any = jnp
) -> Float[Array | np.ndarray, "*batch 2 5 3"]:
    """Returns the ankle and the four corners (in the order of CORNERS) of each foot, in the torso's frame, in metres.

    Args:
      legs: angles (ankle, knee, hip) of right and left leg, rad.
      xp: array module, jnp or np.
    """
    ankle, knee, hip = xp.moveaxis(legs, -1, 0)
    thigh, shank = hip, hip - knee  # from straight down, positive forward
    foot = shank + ankle  # from level, positive toe up
    side = xp.array([-0.04, 0.04])
    ankle_x = -0.01 + _LEG * (xp.sin(thigh) + xp.sin(shank))
    ankle_z = -_HIP_BELOW_TORSO - _LEG * (xp.cos(thigh) + xp.cos(shank))
    points = []
    for x, y, z in ((0.0, 0.0, 0.0), *_FOOT_CORNERS):
        along = ankle_x + x * xp.cos(foot) - z * xp.sin(foot)
        up = ankle_z + x * xp.sin(foot) + z * xp.cos(foot)
        points.append(xp.stack([along, xp.broadcast_to(side + y, along.shape), up], -1))
    return xp.stack(points, -2)
