"""A two-legged robot learns to walk.

The robot is MathWorks' walking robot (`msra-walking-robot`, 2019): torso, two legs, six motors at ankles, knees and
hips. The project's source document prints its reward as `r_t = v_x - 3 y^2 - 50 z^2 + 25xx - 0.22xx`. We read it as

    r = v_x - 3 y^2 - 50 (z - z0)^2 + 25 Ts/Tf - 0.02 sum_i u_i^2

with v_x, y, z of the torso after the step, u the action in [-1, 1], Ts = 0.025 s and Tf = 10 s: "25xx" pays for
being alive, "0.22xx" charges for torque. The coefficient published with the robot is 0.02, and it is the default so
that returns compare with published ones; `torque_weight=0.22` is the one printed. From scratch the latter teaches
a robot to dive forward, so the weight can be raised along the way: `torque_weight_ramp`.

Solver. Newton with 6 iterations of 10 line-search steps from a cold start is converged (qpos to 6e-6 over one
control step) and costs C MuJoCo no more than fewer; 5 substeps of 5 ms with the implicitfast integrator carry the
stiff joints (damping 1 N m s/rad on an armature of 0.01 kg m^2).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from envs import TIME_LIMITS
from envs.base import static
from envs.biped import gait
from envs.biped.body import (
    CONTROL_PERIOD,
    MODEL,
    QPOS_ADDRESS,
    QVEL_ADDRESS,
    STANDING_HEIGHT,
    WEIGHT,
    XML,
    WalkerState,
    fallen,
    leg_angles,
    lowest_point,
    rotate,
    yaw_pitch_roll,
)
from envs.mujoco_env import MujocoEnv
from envs.options import RenamedOptions, check_options
from envs.physics import PhysicsState

EPISODE_SECONDS = 10.0  # s, Tf
GOAL_RETURN = 216  # what the best of five seeds of MathWorks' TD3 earns in the end, after hours
# m the lowest corner is let in at a reset: at exactly 0, rounding would decide on contact
_TOUCHING = 1e-5


@flax.struct.dataclass
class Walker(MujocoEnv):
    """The walking robot. Observation [31], see `observation`; action [6]: normalised torques (times 3 N m) of right
    ankle, knee, hip, left ankle, knee, hip.

    `envs.make("walker", ...)` takes these fields as options, `layout` as `observation`.

    Raises ValueError for an unknown backend or observation layout, or an impossible number.
    """

    xml = XML
    substeps = round(CONTROL_PERIOD / MODEL.opt.timestep)
    recorded_episodes = 512

    # the document's 31 observations, or foot contacts and previous actions in place of the eight forces
    layout: Literal["document", "mathworks"] = static("document")
    forward_weight: Any = 1.0  # reward per m/s of forward velocity
    lateral_weight: Any = 3.0  # cost per m^2 off the line
    height_weight: Any = 50.0  # cost per m^2 above or below standing height
    alive_weight: Any = 25.0  # reward for surviving a full episode
    torque_weight: Any = 0.02  # cost per squared normalised torque; the document prints 0.22
    # FIRST BEGIN END: the torque weight is FIRST until env step BEGIN, then rises to torque-weight at END
    torque_weight_ramp: tuple[float, float, float] | None = static(None)
    max_episode_steps: int = static(TIME_LIMITS["walker"])

    def __post_init__(self):
        if self.layout not in ("document", "mathworks"):
            raise ValueError(f"unknown observation {self.layout!r}: choose document or mathworks")
        check_options(self)
        ramp = self.torque_weight_ramp
        if ramp is not None and not (
            len(ramp) == 3 and all(math.isfinite(x) for x in ramp) and 0 <= ramp[1] < ramp[2]
        ):
            raise ValueError(
                "torque_weight_ramp must be three finite numbers (first weight, begin, end) with "
                f"0 <= begin < end, got {ramp}"
            )
        super().__post_init__()

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
        legs = jnp.concatenate([leg_angles(stride), leg_angles(-stride)])
        legs = legs + jax.random.uniform(keys[4], (6,), minval=-0.05, maxval=0.05)
        qpos = jnp.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, *jnp.zeros(6)])
        qpos = qpos.at[QPOS_ADDRESS].set(legs)
        qpos = qpos.at[2].set(-lowest_point(legs) - _TOUCHING)
        qvel = jax.random.uniform(keys[5], (12,), minval=-0.1, maxval=0.1).at[0].add(speed)
        return WalkerState(self.at_rest(qpos, qvel), jnp.zeros(6))

    def physics(self, state: WalkerState) -> PhysicsState:
        """The field `physics`."""
        return state.physics

    def transition(
        self,
        state: WalkerState,
        action: Float[Array, "6"],
        key: PRNGKeyArray,
        overrides: Mapping[str, Array] | None = None,
    ) -> WalkerState:
        """The physics after one action, which is clipped to [-1, 1]."""
        action = jnp.clip(action, -1.0, 1.0)
        return WalkerState(super().transition(state, action, key, overrides), action)

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
        spin = rotate(qpos[3:7], qvel[3:6])
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
        """The sum of `reward_terms`."""
        return jnp.sum(jnp.stack(list(self.reward_terms(next_state).values())))

    def reward_terms(self, next_state: WalkerState) -> dict[str, Array]:
        """Terms of the reward, in the order of the formula."""
        qpos, qvel = next_state.physics.qpos, next_state.physics.qvel
        return {
            "forward": self.forward_weight * qvel[0],
            "lateral": -self.lateral_weight * qpos[1] ** 2,
            "height": -self.height_weight * (qpos[2] - STANDING_HEIGHT) ** 2,
            "alive": jnp.asarray(self.alive_weight * (CONTROL_PERIOD / EPISODE_SECONDS)),
            "torque": -self.torque_weight * jnp.sum(next_state.action**2),
        }

    def terminal(self, state: WalkerState) -> Array:
        """True if the torso is at or below 0.1 m, more than 1 m off the line, or turned by 45 degrees about any
        axis."""
        return fallen(state.physics.qpos)

    def info(self, state: WalkerState, action: Array, next_state: WalkerState) -> dict[str, Array]:
        """The terms of the reward, as "reward/..."."""
        return {f"reward/{name}": term for name, term in self.reward_terms(next_state).items()}

    def episode_report(
        self,
        states: WalkerState,
        alive: Bool[np.ndarray, "T N"],
        returns: Float[np.ndarray, " N"],
    ) -> dict[str, Any]:
        """The gait of N episodes (see `gait.analyse`), whether it is walking, and the mean distance in metres."""
        measures = gait.analyse(states, alive, returns)
        return {
            "distance_m": measures["distance"],
            "gait": {"walks": gait.walks(measures), **measures},
        }

    def goals(self, report: dict[str, Any]) -> dict[str, bool]:
        """Walking, by the definition of `gait.walks`, and a mean return of 216: see `GOAL_RETURN`."""
        return {
            "walks": report["gait"]["walks"],
            f"return_{GOAL_RETURN}": report["gait"]["return"] >= GOAL_RETURN,
        }

    def caption(self, states: WalkerState, rewards: np.ndarray, t: int) -> tuple[str, ...]:
        """Time, distance, and speed over the last second."""
        x = np.asarray(states.physics.qpos)[:, 0]
        before = max(0, t - self.render_fps)
        speed = (x[t] - x[before]) / max((t - before) * CONTROL_PERIOD, CONTROL_PERIOD)
        return f"{(t + 1) * CONTROL_PERIOD:4.1f} s", f"{x[t]:5.2f} m", f"{speed:5.2f} m/s"

    def at(self, env_steps: Array | float) -> Walker:
        """The walker with the torque weight that `torque_weight_ramp` gives after `env_steps` steps."""
        if self.torque_weight_ramp is None:
            return self
        first, begin, end = self.torque_weight_ramp
        progress = jnp.clip((env_steps - begin) / (end - begin), 0.0, 1.0)
        weight = jnp.where(
            progress < 1, first + progress * (self.torque_weight - first), self.torque_weight
        )
        return dataclasses.replace(self, torque_weight=weight, torque_weight_ramp=None)


# A field cannot have the name of a method.
make_walker = RenamedOptions(Walker, {"layout": "observation"})
