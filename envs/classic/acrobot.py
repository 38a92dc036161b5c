"""Acrobot: swing the free end of a two-link chain above a height, with a motor at the middle joint only.

Sutton, "Generalization in reinforcement learning: successful examples using sparse coarse coding", 1996; Sutton and
Barto's book, section 11.3 of its first edition. Constants, integrator, limits and rewards are those of Gymnasium's
Acrobot-v1.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from envs.base import Env, static
from envs.classic import draw
from envs.options import check_options

PERIOD = 0.2  # s between two actions
SPEED_LIMITS = (4 * math.pi, 9 * math.pi)  # rad/s, of the two joints
GOAL_HEIGHT = 1.0  # m above the fixed joint

# Both links are equal
_LENGTH = 1.0  # m
_CENTER = 0.5  # m, from a link's upper joint to its centre of mass
_MASS = 1.0  # kg
_INERTIA = 1.0  # kg m^2
_GRAVITY = 9.8  # m/s^2
_START = 0.1  # each coordinate starts uniformly within +- this


@flax.struct.dataclass
class Acrobot(Env[Array]):
    """State [4]: angle of the first link from hanging, of the second from the first (rad), their rates (rad/s)."""

    # N m, the largest disturbance of the torque, uniform; None: none, and no random number is drawn for it
    torque_noise_max: Any = None
    # The paper's equations lack a centrifugal term; its experiments were run with the book's.
    book_or_nips: Literal["book", "nips"] = static("book")
    max_episode_steps: int = static(500)

    render_fps = 15
    finite_observations = True

    def __post_init__(self):
        super().__post_init__()
        check_options(self)
        if self.book_or_nips not in ("book", "nips"):
            raise ValueError(f"unknown book_or_nips {self.book_or_nips!r}: choose book or nips")
        if isinstance(self.torque_noise_max, int | float) and self.torque_noise_max < 0:
            raise ValueError(f"torque_noise_max must be at least 0, got {self.torque_noise_max}")

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Bounds: 1 for cosines and sines, and the speed limits."""
        high = np.array([1.0, 1.0, 1.0, 1.0, *SPEED_LIMITS], np.float32)
        return gymnasium.spaces.Box(-high, high)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """0, 1, 2: a torque of -1, 0, 1 N m on the middle joint."""
        return gymnasium.spaces.Discrete(3)

    def initial(self, key: PRNGKeyArray) -> Float[Array, "4"]:
        """Uniform in [-0.1, 0.1] for each coordinate."""
        return jax.random.uniform(key, (4,), minval=-_START, maxval=_START)

    def transition(
        self, state: Float[Array, "4"], action: Array, key: PRNGKeyArray
    ) -> Float[Array, "4"]:
        """One step of the classic Runge-Kutta method; then angles are wrapped to +-pi and speeds limited."""
        torque = (action - 1.0).astype(state.dtype)
        if self.torque_noise_max is not None:
            torque += self.torque_noise_max * jax.random.uniform(key, (), state.dtype, -1.0, 1.0)
        k1 = self._rate(state, torque)
        k2 = self._rate(state + PERIOD / 2 * k1, torque)
        k3 = self._rate(state + PERIOD / 2 * k2, torque)
        k4 = self._rate(state + PERIOD * k3, torque)
        state = state + PERIOD / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        limits = jnp.array(SPEED_LIMITS, state.dtype)
        return jnp.concatenate([_wrap(state[:2]), jnp.clip(state[2:], -limits, limits)])

    def _rate(self, state: Float[Array, "4"], torque: Float[Array, ""]) -> Float[Array, "4"]:
        """The state's time derivative, in the book's symbols d1, d2, phi1, phi2."""
        angle1, angle2, speed1, speed2 = state
        sin2, cos2 = jnp.sin(angle2), jnp.cos(angle2)
        coupling = _MASS * _LENGTH * _CENTER
        own = _MASS * _CENTER**2 + _INERTIA  # of one link about its upper joint
        d1 = 2 * own + _MASS * _LENGTH**2 + 2 * coupling * cos2
        d2 = own + coupling * cos2
        phi2 = _MASS * _CENTER * _GRAVITY * jnp.sin(angle1 + angle2)
        phi1 = (
            -coupling * speed2**2 * sin2
            - 2 * coupling * speed2 * speed1 * sin2
            + _MASS * (_CENTER + _LENGTH) * _GRAVITY * jnp.sin(angle1)
            + phi2
        )
        drive = torque + d2 / d1 * phi1 - phi2
        if self.book_or_nips == "book":
            drive -= coupling * speed1**2 * sin2
        acceleration2 = drive / (own - d2**2 / d1)
        acceleration1 = -(d2 * acceleration2 + phi1) / d1
        return jnp.stack([speed1, speed2, acceleration1, acceleration2])

    def observation(self, state: Float[Array, "4"]) -> Float[Array, "6"]:
        """Cosine and sine of the first angle, of the second, and the two angular velocities (rad/s)."""
        cos, sin = jnp.cos(state[:2]), jnp.sin(state[:2])
        return jnp.stack([cos[0], sin[0], cos[1], sin[1], state[2], state[3]])

    def reward(self, state: Array, action: Array, next_state: Array) -> Float[Array, ""]:
        """-1 for each step but the one that reaches the goal."""
        return jnp.where(self.terminal(next_state), 0.0, -1.0)

    def terminal(self, state: Float[Array, "4"]) -> Array:
        """True if the free end is higher than 1 m above the fixed joint."""
        return -jnp.cos(state[0]) - jnp.cos(state[0] + state[1]) > GOAL_HEIGHT

    def render(
        self, state: Float[Array | np.ndarray, "4"], width: int, height: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Links and the goal's height; an RGB image of the state, uint8 [height, width, 3]."""
        angle1, angle2 = float(state[0]), float(state[1])
        elbow = np.array([math.sin(angle1), -math.cos(angle1)])
        tip = elbow + np.array([math.sin(angle1 + angle2), -math.cos(angle1 + angle2)])
        canvas = draw.Canvas(width, height, center=(0.0, 0.0), span=(4.6, 4.6))
        canvas.line([(-9, GOAL_HEIGHT), (9, GOAL_HEIGHT)], draw.GREEN)
        canvas.text((2.15, GOAL_HEIGHT + 0.05), "goal", "ld")
        canvas.rod([(0, 0), elbow], 0.2, draw.BLUE)
        canvas.rod([elbow, tip], 0.16, draw.ORANGE)
        for joint in ((0.0, 0.0), elbow):
            canvas.disc(joint, 0.05, draw.INK)
        canvas.disc(tip, 0.05, draw.GREEN if tip[1] > GOAL_HEIGHT else draw.INK)
        canvas.caption(f"tip {tip[1]:+.2f} m")
        return canvas.pixels()


def _wrap(angle: Float[Array, "2"]) -> Float[Array, "2"]:
    """Into [-pi, pi]; what lies there already is left exactly as it is."""
    turn = 2 * math.pi
    above = jnp.maximum(jnp.ceil((angle - math.pi) / turn), 0.0)
    below = jnp.minimum(jnp.floor((angle + math.pi) / turn), 0.0)
    return angle - turn * (above + below)
