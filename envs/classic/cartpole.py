"""CartPole: keep a pole upright on a cart by pushing the cart left or right.

Barto, Sutton and Anderson, "Neuronlike adaptive elements that can solve difficult learning control problems", 1983;
the frictionless equations of Florian, "Correct equations for the dynamics of the cart-pole system", 2007. Constants,
integrator, limits and rewards are those of Gymnasium's CartPole-v1.
"""

from __future__ import annotations

import math

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from envs.base import Env, static
from envs.classic import draw
from envs.options import check_options

PERIOD = 0.02  # s between two actions
POSITION_LIMIT = 2.4  # m, either side
ANGLE_LIMIT = math.radians(12)  # either side of upright

_GRAVITY = 9.8  # m/s^2
_FORCE = 10.0  # N
_POLE_MASS = 0.1  # kg
_TOTAL_MASS = 1.1  # kg, pole and cart
_HALF_LENGTH = 0.5  # m, from the pivot to the pole's centre of mass
_START = 0.05  # each coordinate starts uniformly within +- this


@flax.struct.dataclass
class CartPole(Env[Array]):
    """State [4]: cart position (m), velocity (m/s), pole angle from upright, clockwise (rad), its rate (rad/s)."""

    # False: 1 for every step. True: 0, and -1 for the step that ends the episode.
    sutton_barto_reward: bool = static(False)
    max_episode_steps: int = static(500)

    render_fps = round(1 / PERIOD)
    finite_observations = True

    def __post_init__(self):
        super().__post_init__()
        check_options(self)
        if not isinstance(self.sutton_barto_reward, bool):
            raise ValueError(
                f"sutton_barto_reward must be True or False, got {self.sutton_barto_reward!r}"
            )

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Twice the limits, so that the observation that ends an episode lies within."""
        high = np.array([2 * POSITION_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf], np.float32)
        return gymnasium.spaces.Box(-high, high)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """0 pushes left, 1 right, with 10 N."""
        return gymnasium.spaces.Discrete(2)

    def initial(self, key: PRNGKeyArray) -> Float[Array, "4"]:
        """Uniform in [-0.05, 0.05] for each coordinate."""
        return jax.random.uniform(key, (4,), minval=-_START, maxval=_START)

    def transition(
        self, state: Float[Array, "4"], action: Array, key: PRNGKeyArray
    ) -> Float[Array, "4"]:
        """One step of Euler's explicit method: all four coordinates advance at their rates before the step."""
        del key  # deterministic
        _, velocity, angle, spin = state
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        force = jnp.where(action == 1, _FORCE, -_FORCE)
        push = (force + _POLE_MASS * _HALF_LENGTH * spin**2 * sin) / _TOTAL_MASS
        inertia = _HALF_LENGTH * (4 / 3 - _POLE_MASS * cos**2 / _TOTAL_MASS)
        angular_acceleration = (_GRAVITY * sin - cos * push) / inertia
        acceleration = push - _POLE_MASS * _HALF_LENGTH * angular_acceleration * cos / _TOTAL_MASS
        return state + PERIOD * jnp.stack([velocity, acceleration, spin, angular_acceleration])

    def observation(self, state: Float[Array, "4"]) -> Float[Array, "4"]:
        """The state."""
        return state

    def reward(self, state: Array, action: Array, next_state: Array) -> Float[Array, ""]:
        """1 for every step; with `sutton_barto_reward`, -1 for the step that ends the episode, else 0."""
        if self.sutton_barto_reward:
            return jnp.where(self.terminal(next_state), -1.0, 0.0)
        return jnp.ones(())

    def terminal(self, state: Float[Array, "4"]) -> Array:
        """True if the cart is more than 2.4 m off the middle, or the pole more than 12 degrees off upright."""
        return (jnp.abs(state[0]) > POSITION_LIMIT) | (jnp.abs(state[2]) > ANGLE_LIMIT)

    def render(
        self, state: Float[Array | np.ndarray, "4"], width: int, height: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """An RGB image of the state, uint8 [height, width, 3]."""
        position, _, angle, _ = (float(x) for x in state)
        canvas = draw.Canvas(width, height, center=(0.0, 0.62), span=(5.6, 2.2))
        canvas.polygon([(-9, -9), (-9, -0.16), (9, -0.16), (9, -9)], draw.GROUND)
        canvas.line([(-9, -0.16), (9, -0.16)], draw.LINE)
        for metre in (-2, -1, 0, 1, 2):
            canvas.line([(metre, -0.16), (metre, -0.2)], draw.LINE)
            canvas.text((metre, -0.23), f"{metre} m", "ma")
        for side in (-POSITION_LIMIT, POSITION_LIMIT):
            canvas.line([(side, -0.16), (side, 0.2)], draw.RED)
        for wheel in (-0.14, 0.14):
            canvas.disc((position + wheel, -0.1), 0.06, draw.INK)
        low, high = -0.08, 0.1
        left, right = position - 0.25, position + 0.25
        canvas.polygon([(left, low), (left, high), (right, high), (right, low)], draw.BLUE)
        tip = (
            position + 2 * _HALF_LENGTH * math.sin(angle),
            2 * _HALF_LENGTH * math.cos(angle),
        )
        canvas.rod([(position, 0.0), tip], 0.07, draw.ORANGE)
        canvas.disc((position, 0.0), 0.02, draw.INK)
        canvas.caption(f"x {position:+.2f} m   angle {math.degrees(angle):+.1f} deg")
        return canvas.pixels()
