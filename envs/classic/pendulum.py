"""Pendulum: swing a rod up with a motor too weak to lift it at once, and hold it there.

Constants, integrator, limits and rewards are those of Gymnasium's Pendulum-v1.
"""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from envs.base import Env, static
from envs.classic import draw
from envs.options import check_options

PERIOD = 0.05  # s between two actions
MAX_SPEED = 8.0  # rad/s
MAX_TORQUE = 2.0  # N m

_LENGTH = 1.0  # m
_MASS = 1.0  # kg, spread evenly along the rod
_START = (math.pi, 1.0)  # rad, rad/s: angle and speed start uniformly within +- these


@flax.struct.dataclass
class Pendulum(Env[Array]):
    """State [2]: angle from upright, counter-clockwise and not wrapped (rad), and its rate (rad/s)."""

    g: Any = 10.0  # m/s^2
    max_episode_steps: int = static(200)

    render_fps = 30
    finite_observations = True

    def __post_init__(self):
        super().__post_init__()
        check_options(self)

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Bounds: 1 for cosine and sine, and the speed limit."""
        high = np.array([1.0, 1.0, MAX_SPEED], np.float32)
        return gymnasium.spaces.Box(-high, high)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """Torque in N m, positive counter-clockwise."""
        return gymnasium.spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32)

    def initial(self, key: PRNGKeyArray) -> Float[Array, "2"]:
        """Uniform angle in [-pi, pi], and rate in [-1, 1] rad/s."""
        return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0) * jnp.array(_START)

    def transition(
        self, state: Float[Array, "2"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> Float[Array, "2"]:
        """Semi-implicit Euler: the new speed, limited, turns the rod."""
        del key  # deterministic
        angle, speed = state
        gravity = 3 * self.g / (2 * _LENGTH) * jnp.sin(angle)
        motor = 3 / (_MASS * _LENGTH**2) * _torque(action)
        speed = jnp.clip(speed + (gravity + motor) * PERIOD, -MAX_SPEED, MAX_SPEED)
        return jnp.stack([angle + speed * PERIOD, speed])

    def observation(self, state: Float[Array, "2"]) -> Float[Array, "3"]:
        """Cosine and sine of the angle (the free end's height and sideways position, m), and its rate (rad/s)."""
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])

    def reward(
        self, state: Float[Array, "2"], action: Float[Array, "1"], next_state: Array
    ) -> Float[Array, ""]:
        """-(angle^2 + 0.1 speed^2 + 0.001 torque^2), angle and speed as they were before the step."""
        # To +-pi. Not by `%`: XLA calls C's fmod for that, one number at a time.
        angle = state[0] - 2 * math.pi * jnp.floor((state[0] + math.pi) / (2 * math.pi))
        return -(angle**2 + 0.1 * state[1] ** 2 + 0.001 * _torque(action) ** 2)

    def terminal(self, state: Array) -> Array:
        """False: only the time limit ends an episode."""
        return jnp.zeros((), bool)

    def render(
        self, state: Float[Array | np.ndarray, "2"], width: int, height: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """An RGB image of the state, uint8 [height, width, 3]."""
        angle, speed = (float(x) for x in state)
        tip = (-_LENGTH * math.sin(angle), _LENGTH * math.cos(angle))
        canvas = draw.Canvas(width, height, center=(0.0, 0.0), span=(2.7, 2.7))
        canvas.circle((0.0, 0.0), _LENGTH, draw.LINE)
        canvas.line([(0.0, _LENGTH - 0.06), (0.0, _LENGTH + 0.06)], draw.GREEN)
        canvas.rod([(0.0, 0.0), tip], 0.16, draw.RED)
        canvas.disc((0.0, 0.0), 0.045, draw.INK)
        upright = math.degrees(math.remainder(angle, 2 * math.pi))
        canvas.caption(f"angle {upright:+.0f} deg   speed {speed:+.1f} rad/s")
        return canvas.pixels()


def _torque(action: Float[Array, "1"]) -> Float[Array, ""]:
    return jnp.clip(action[0], -MAX_TORQUE, MAX_TORQUE)
