"""A two-legged robot learns to walk.

The robot is MathWorks' walking robot (`msra-walking-robot`, 2019): torso, two legs, six motors at ankles, knees and
hips. The project's source document prints its reward as `r_t = v_x - 3 y^2 - 50 z^2 + 25xx - 0.22xx`. We read it as

    r = v_x - 3 y^2 - 50 (z - z0)^2 + 25 Ts/Tf - 0.02 sum_i u_i^2

with v_x, y, z of the torso after the step, u the action in [-1, 1], Ts = 0.025 s and Tf = 10 s: "25xx" pays for
being alive, "0.22xx" charges for torque. The coefficient published with the robot is 0.02, and it is the default so
that returns compare with published ones; `torque_weight=0.22` is the one printed. From scratch the latter teaches
the robot to dive forward, so the weight can be raised along the way: `torque_weight_ramp`.

Solver. Newton with 6 iterations of 10 line-search steps from a cold start is converged (qpos to 6e-6 over one
control step) and costs C MuJoCo no more than fewer; 5 substeps of 5 ms with the implicitfast integrator carry the
stiff joints (damping 1 N m s/rad on an armature of 0.01 kg m^2).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, Literal

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from envs.base import Env
from envs.mujoco_env import load_file
from envs.options import require_count
from envs.physics import Backend, Engine, make_engine
from envs.physics.render import render

XML = Path(__file__).with_name("biped.xml")

CONTROL_PERIOD = 0.025  # s, Ts
EPISODE_SECONDS = 10.0  # s, Tf
HIP_HEIGHT = 0.18  # m above the ankles in the reset stance
FEET = ("right", "left")
JOINTS = tuple(f"{side}_{joint}" for side in FEET for joint in ("ankle", "knee", "hip"))
CORNERS = tuple(
    f"{side}_{corner}"
    for side in FEET
    for corner in ("front_left", "front_right", "back_left", "back_right")
)

_LEG = 0.1  # m, thigh and shank alike
_HIP_BELOW_TORSO = 0.02  # m
_FOOT_BELOW_ANKLE = 0.01  # m: half a foot and a contact sphere's radius
CORNER_RADIUS = 0.005  # m
_FOOT_CORNERS = (  # m from the ankle, in the foot's frame
    (0.035, 0.02, -0.005),
    (0.035, -0.02, -0.005),
    (-0.015, 0.02, -0.005),
    (-0.015, -0.02, -0.005),
)
# m the lowest corner is let in at a reset: at exactly 0, rounding would decide on contact
_TOUCHING = 1e-5
STANDING_HEIGHT = HIP_HEIGHT + _HIP_BELOW_TORSO + _FOOT_BELOW_ANKLE  # m, z0: the torso's centre


@functools.cache
def load_model() -> mujoco.MjModel:
    return load_file(XML)


@flax.struct.dataclass
class WalkerState:
    physics: Any  # PhysicsState: qpos [13], qvel [12], sensordata [8], one touch force per foot corner, N
    action: Any  # [6] the action that led here, clipped to [-1, 1]; zero at the start


@flax.struct.dataclass
class Walker(Env[WalkerState]):
    """The task. Build one with `make_walker`; the reward's coefficients are leaves and may be swept under vmap."""

    engine: Engine = flax.struct.field(pytree_node=False)
    forward_weight: Any = 1.0  # per m/s
    lateral_weight: Any = 3.0  # per m^2
    height_weight: Any = 50.0  # per m^2
    alive_weight: Any = 25.0  # per episode of full length
    torque_weight: Any = 0.02  # per squared normalised torque
    # (weight at first, env steps at which the ramp to `torque_weight` begins, and ends); None: constant
    torque_weight_ramp: tuple[float, float, float] | None = flax.struct.field(
        pytree_node=False, default=None
    )
    layout: Literal["document", "mathworks"] = flax.struct.field(
        pytree_node=False, default="document"
    )
    max_episode_steps: int = flax.struct.field(pytree_node=False, default=400)

    reset_bank = 256
    render_fps = round(1 / CONTROL_PERIOD)

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Every finite number: speeds and forces have no bound, and what is not finite is never shown."""
        largest = np.finfo(np.float32).max
        return gymnasium.spaces.Box(-largest, largest, (31,), np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """Normalised torques (times 3 N m) of right ankle, knee, hip, left ankle, knee, hip."""
        return gymnasium.spaces.Box(-1.0, 1.0, (6,), np.float32)

    def initial(self, key: PRNGKeyArray) -> WalkerState:
        """Stands on flat feet, hips 0.18 m above the ankles, a little perturbed.

        Joint angles +-0.05 rad and all speeds +-0.1 (m/s, rad/s), uniform; with probability one half one foot is
        put up to 5 cm ahead and the other as far behind, and in half of those the torso also starts with up to
        +-0.05 m/s. The lowest corner of the feet touches the floor.
        """
        keys = jax.random.split(key, 6)
        astride = jax.random.bernoulli(keys[0])
        stride = jnp.where(astride, jax.random.uniform(keys[1], (), minval=-0.05, maxval=0.05), 0.0)
        moving = astride & jax.random.bernoulli(keys[2])
        speed = jnp.where(moving, jax.random.uniform(keys[3], (), minval=-0.05, maxval=0.05), 0.0)
        legs = jnp.concatenate([_inverse_kinematics(stride), _inverse_kinematics(-stride)])
        legs = legs + jax.random.uniform(keys[4], (6,), minval=-0.05, maxval=0.05)
        qpos = jnp.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, *jnp.zeros(6)])
        qpos = qpos.at[QPOS_ADDRESS].set(legs)
        qpos = qpos.at[2].set(-_lowest_point(legs) - _TOUCHING)
        qvel = jax.random.uniform(keys[5], (12,), minval=-0.1, maxval=0.1).at[0].add(speed)
        return WalkerState(self.engine.forward(qpos, qvel), jnp.zeros(6))

    def transition(self, state: WalkerState, action: Array, key: PRNGKeyArray) -> WalkerState:
        del key  # the physics is deterministic
        action = jnp.clip(action, -1.0, 1.0)
        return WalkerState(self.engine.step(state.physics, action), action)

    def observation(self, state: WalkerState) -> Float[Array, "31"]:
        """World axes, torso's centre; the document's list, in its order.

        | index | what | unit |
        |---|---|---|
        | 0-1 | torso y, (z - z0) / 0.05 | m, 5 cm |
        | 2-4 | torso velocity x, y, z | m/s |
        | 5-7 | torso yaw, pitch, roll (intrinsic ZYX) | rad |
        | 8-10 | torso angular velocity x, y, z | rad/s |
        | 11-16 | joint angles: right ankle, knee, hip, left ankle, knee, hip | rad |
        | 17-22 | joint speeds, same order | rad/s |
        | 23-30 | contact force at each foot corner, right foot first (see CORNERS) | body weight |

        With `layout="mathworks"` the last eight are 2 foot-contact flags and the 6 previous actions.
        """
        qpos, qvel = state.physics.qpos, state.physics.qvel
        torso = jnp.stack([qpos[1], (qpos[2] - STANDING_HEIGHT) / 0.05])
        # A free joint's linear velocity is in world axes, its angular velocity in the body's.
        spin = _rotate(qpos[3:7], qvel[3:6])
        forces = state.physics.sensordata / WEIGHT
        if self.layout == "mathworks":
            touching = forces.reshape(2, 4).sum(-1) > 0.02
            tail = jnp.concatenate([touching.astype(jnp.float32), state.action])
        else:
            tail = forces
        return jnp.concatenate(
            [
                torso,
                qvel[:3],
                yaw_pitch_roll(qpos[3:7]),
                spin,
                qpos[QPOS_ADDRESS],
                qvel[QVEL_ADDRESS],
                tail,
            ]
        )

    def reward(self, state: WalkerState, action: Array, next_state: WalkerState) -> Array:
        return jnp.sum(jnp.stack(list(self.reward_terms(next_state).values())))

    def reward_terms(self, next_state: WalkerState) -> dict[str, Array]:
        """The reward's addends, in the order in which the formula names them."""
        qpos, qvel = next_state.physics.qpos, next_state.physics.qvel
        return {
            "forward": self.forward_weight * qvel[0],
            "lateral": -self.lateral_weight * qpos[1] ** 2,
            "height": -self.height_weight * (qpos[2] - STANDING_HEIGHT) ** 2,
            "alive": jnp.asarray(self.alive_weight * (CONTROL_PERIOD / EPISODE_SECONDS)),
            "torque": -self.torque_weight * jnp.sum(next_state.action**2),
        }

    def terminal(self, state: WalkerState) -> Array:
        """Torso at or below 0.1 m, more than 1 m off the line, or turned by 45 degrees about any axis."""
        return fallen(state.physics.qpos)

    def info(self, state: WalkerState, action: Array, next_state: WalkerState) -> dict[str, Array]:
        return {f"reward/{name}": term for name, term in self.reward_terms(next_state).items()}

    def render(self, state: WalkerState, width: int, height: int) -> np.ndarray:
        return render(self.engine.model, np.asarray(state.physics.qpos), width, height)

    def at(self, env_steps: Array | float) -> Walker:
        if self.torque_weight_ramp is None:
            return self
        first, begin, end = self.torque_weight_ramp
        progress = jnp.clip((env_steps - begin) / (end - begin), 0.0, 1.0)
        weight = jnp.where(
            progress < 1, first + progress * (self.torque_weight - first), self.torque_weight
        )
        return dataclasses.replace(self, torque_weight=weight, torque_weight_ramp=None)


def make_walker(
    backend: Backend = "auto",
    *,
    observation: Literal["document", "mathworks"] = "document",
    forward_weight: float = 1.0,
    lateral_weight: float = 3.0,
    height_weight: float = 50.0,
    alive_weight: float = 25.0,
    torque_weight: float = 0.02,
    torque_weight_ramp: tuple[float, float, float] | None = None,
    max_episode_steps: int = 400,
) -> Walker:
    """The walker.

    Args:
      backend: physics engine: auto, native (C threads) or mjx (JAX, for GPUs)
      observation: the document's 31 observations, or foot contacts and previous actions in place of the eight forces
      forward_weight: reward per m/s of forward velocity
      lateral_weight: cost per m^2 off the line
      height_weight: cost per m^2 above or below standing height
      alive_weight: reward for surviving a full episode
      torque_weight: cost per squared normalised torque; the document prints 0.22
      torque_weight_ramp: FIRST BEGIN END: the torque weight is FIRST until env step BEGIN, then rises to torque-weight
        at END
      max_episode_steps: steps after which an episode is cut off

    Raises ValueError for an unknown backend or observation layout, or an impossible number.
    """
    weights = {
        "forward_weight": forward_weight,
        "lateral_weight": lateral_weight,
        "height_weight": height_weight,
        "alive_weight": alive_weight,
        "torque_weight": torque_weight,
    }
    if observation not in ("document", "mathworks"):
        raise ValueError(f"unknown observation {observation!r}: choose document or mathworks")
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(f"{name} must be finite, got {weight}")
    require_count("max_episode_steps", max_episode_steps)
    if torque_weight_ramp is not None and not (
        len(torque_weight_ramp) == 3
        and all(math.isfinite(x) for x in torque_weight_ramp)
        and 0 <= torque_weight_ramp[1] < torque_weight_ramp[2]
    ):
        raise ValueError(
            "torque_weight_ramp must be three finite numbers (first weight, begin, end) with "
            f"0 <= begin < end, got {torque_weight_ramp}"
        )
    model = load_model()
    substeps = round(CONTROL_PERIOD / model.opt.timestep)
    return Walker(
        make_engine(model, substeps, backend),
        torque_weight_ramp=torque_weight_ramp,
        layout=observation,
        max_episode_steps=max_episode_steps,
        **weights,
    )


def fallen(qpos: Float[Array | np.ndarray, " 13 *batch"]) -> Array:
    """Whether the episode ends here; the first axis holds the coordinates."""
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
    """Sine and cosine of yaw and of roll, both times the pitch's cosine, and in their midst the pitch's sine."""
    w, x, y, z = quat
    yaw = 2 * (w * z + x * y), 1 - 2 * (y * y + z * z)
    roll = 2 * (w * x + y * z), 1 - 2 * (x * x + y * y)
    return yaw, 2 * (w * y - z * x), roll


def _rotate(quat: Float[Array, "4"], v: Float[Array, "3"]) -> Float[Array, "3"]:
    """v, given in the frame whose orientation is the unit quaternion `quat`, in world axes."""
    w, u = quat[0], quat[1:]
    t = 2.0 * jnp.cross(u, v)
    return v + w * t + jnp.cross(u, t)


def _inverse_kinematics(ahead: Array) -> Float[Array, "3"]:
    """Ankle, knee and hip angle of a leg whose flat foot stands `ahead` m of the hip and HIP_HEIGHT below it."""
    reach = jnp.sqrt(HIP_HEIGHT**2 + ahead**2)
    knee = 2.0 * jnp.arccos(reach / (2 * _LEG))  # thigh and shank: an isosceles triangle
    hip = jnp.arctan2(ahead, HIP_HEIGHT) + knee / 2
    return jnp.stack([knee - hip, knee, hip])


def _lowest_point(legs: Float[Array, "6"]) -> Array:
    """Height of the lowest corner sphere relative to the torso's centre, torso upright."""
    corners = foot_points(legs.reshape(2, 3))[:, 1:]
    return jnp.min(corners[..., 2]) - CORNER_RADIUS


def foot_points(
    legs: Float[Array | np.ndarray, "*batch 2 3"], xp: Any = jnp
) -> Float[Array | np.ndarray, "*batch 2 5 3"]:
    """Each foot's ankle and its four corners (in the order of CORNERS), in the torso's frame, in metres.

    `legs` are the angles (ankle, knee, hip) of right and left leg; `xp` the array module, jnp or np.
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


def _addresses() -> tuple[np.ndarray, np.ndarray, float]:
    model = load_model()
    joints = [model.joint(name) for name in JOINTS]
    qpos = np.array([joint.qposadr[0] for joint in joints])
    qvel = np.array([joint.dofadr[0] for joint in joints])
    return qpos, qvel, float(model.body_mass.sum() * -model.opt.gravity[2])


QPOS_ADDRESS, QVEL_ADDRESS, WEIGHT = _addresses()
