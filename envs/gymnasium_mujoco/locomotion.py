"""Planar robots that swim, hop, run and walk: forward speed, less the squared torques, plus a reward for health.

v5 against v3 and v4: Hopper and Walker2d earn the healthy reward only while healthy (before: at every step, the one
that falls included); both feet of Walker2d have friction 1.9 (before: 0.9 on the right). Swimmer and HalfCheetah
differ in names of `info` alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from envs.base import static
from envs.gymnasium_mujoco.base import GymnasiumMujoco, squared
from envs.physics import PhysicsState


@flax.struct.dataclass
class _Runner(GymnasiumMujoco):
    forward_reward_weight: Any = 1.0
    ctrl_cost_weight: Any = 0.1
    reset_noise_scale: Any = 0.1
    exclude_current_positions_from_observation: bool = static(True)

    def initial(self, key: PRNGKeyArray) -> PhysicsState:
        return self.near_rest(key, self.reset_noise_scale)

    def observation(self, state: PhysicsState) -> Array:
        skipped = 1 if self.exclude_current_positions_from_observation else 0
        return jnp.concatenate([state.qpos[skipped:], state.qvel])

    def reward_terms(self, state, action, next_state):
        return {
            "reward_forward": self.forward_reward_weight * self._speed(state, next_state, 0),
            "reward_ctrl": -self.ctrl_cost_weight * squared(action),
        }

    def measurements(self, state: PhysicsState, next_state: PhysicsState) -> dict[str, Array]:
        return {
            "x_position": next_state.qpos[0],
            "x_velocity": self._speed(state, next_state, 0),
        }

    def _speed(self, state: PhysicsState, next_state: PhysicsState, axis: int) -> Array:
        """Mean speed (m/s) along a coordinate, over the step."""
        return (next_state.qpos[axis] - state.qpos[axis]) / self.dt


@flax.struct.dataclass
class Swimmer(_Runner):
    """Three links in a viscous fluid.

    Observation [8]: the body's angle, two joint angles, five speeds; x and y come first if not excluded. Action [2]:
    torques in [-1, 1]. Never ends.
    """

    fewest_dofs = 2

    xml_file: str = static("swimmer.xml")
    frame_skip: int = static(4)
    ctrl_cost_weight: Any = 1e-4

    def observation(self, state: PhysicsState) -> Array:
        """The observation in the class's docstring."""
        skipped = 2 if self.exclude_current_positions_from_observation else 0
        return jnp.concatenate([state.qpos[skipped:], state.qvel])

    def measurements(self, state: PhysicsState, next_state: PhysicsState) -> dict[str, Array]:
        """The measurements of all runners, y (m) and its velocity (m/s), and the distance from the origin (m)."""
        return super().measurements(state, next_state) | {
            "y_position": next_state.qpos[1],
            "distance_from_origin": jnp.linalg.norm(next_state.qpos[:2]),
            "y_velocity": self._speed(state, next_state, 1),
        }


@flax.struct.dataclass
class HalfCheetah(_Runner):
    """A two-legged runner in the plane.

    Observation [17]: z, pitch, six joint angles, nine speeds; x comes first if not excluded. Action [6]: torques in
    [-1, 1]. Never ends.
    """

    xml_file: str = static("half_cheetah.xml")
    frame_skip: int = static(5)

    def initial(self, key: PRNGKeyArray) -> PhysicsState:
        """The model's pose with noise of `reset_noise_scale`: uniform coordinates, Gaussian speeds."""
        return self.near_rest(key, self.reset_noise_scale, gaussian_speeds=True)


@flax.struct.dataclass
class _Healthy(_Runner):
    """A runner whose episode ends when it falls (`terminate_when_unhealthy`). Ranges are open intervals."""

    fewest_dofs = 3

    frame_skip: int = static(4)
    ctrl_cost_weight: Any = 1e-3
    reset_noise_scale: Any = 5e-3
    healthy_reward: Any = 1.0
    healthy_z_range: Any = (0.8, 2.0)
    healthy_angle_range: Any = (-1.0, 1.0)
    terminate_when_unhealthy: bool = static(True)

    def observation(self, state: PhysicsState) -> Array:
        return super().observation(replace(state, qvel=jnp.clip(state.qvel, -10.0, 10.0)))

    def reward_terms(self, state, action, next_state):
        healthy = self.healthy(next_state)
        return super().reward_terms(state, action, next_state) | {
            "reward_survive": jnp.where(healthy, self.healthy_reward, 0.0),
        }

    def measurements(self, state: PhysicsState, next_state: PhysicsState) -> dict[str, Array]:
        return super().measurements(state, next_state) | {
            "z_distance_from_origin": next_state.qpos[1] - self.model.qpos0[1],
        }

    def healthy(self, state: PhysicsState) -> Array:
        _, z, angle = state.qpos[:3]
        return within(z, self.healthy_z_range) & within(angle, self.healthy_angle_range)

    def terminal(self, state: PhysicsState) -> Array:
        return ~self.healthy(state) if self.terminate_when_unhealthy else super().terminal(state)


@flax.struct.dataclass
class Hopper(_Healthy):
    """One leg. Healthy: height above 0.7 m, pitch within 0.2 rad, and every other coordinate and speed within 100.

    Observation [11]: z, pitch, three joint angles, six speeds cut to [-10, 10]; x comes first if not excluded.
    Action [3]: torques in [-1, 1].
    """

    xml_file: str = static("hopper.xml")
    healthy_state_range: Any = (-100.0, 100.0)
    healthy_z_range: Any = (0.7, float("inf"))
    healthy_angle_range: Any = (-0.2, 0.2)

    def healthy(self, state: PhysicsState) -> Array:
        """True if healthy as in the class's docstring."""
        others = jnp.concatenate([state.qpos[2:], state.qvel])
        return super().healthy(state) & within(others, self.healthy_state_range).all()


@flax.struct.dataclass
class Walker2d(_Healthy):
    """Two legs. Healthy: height in (0.8, 2) m, pitch within 1 rad.

    Observation [17]: z, pitch, six joint angles, nine speeds cut to [-10, 10]; x comes first if not excluded.
    Action [6]: torques in [-1, 1].
    """

    xml_file: str = static("walker2d_v5.xml")


def within(x: Array, interval: tuple[float, float]) -> Array:
    """True where x lies in the open interval (low, high)."""
    low, high = interval
    return (low < x) & (x < high)
