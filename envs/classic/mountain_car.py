"""MountainCar: a car too weak for the hill in front of it must first back up the one behind.

Moore, "Efficient memory-based learning for robot control", 1990; Sutton and Barto's book, example 10.1. Constants,
limits and rewards are those of Gymnasium's MountainCar-v0 and MountainCarContinuous-v0, which differ in the motor's
strength, in the goal's position and in what is rewarded.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from envs.base import Env, static
from envs.classic import draw
from envs.options import check_options

POSITION_LIMITS = (-1.2, 0.6)  # a wall on the left, the end of the world on the right
SPEED_LIMIT = 0.07  # per step
START = (-0.6, -0.4)  # positions, uniform; at rest

_GRAVITY = 0.0025


@flax.struct.dataclass
class _Car(Env[Array]):
    """State [2]: position and velocity (per step). Subclasses say how an action pushes and what is rewarded."""

    goal_velocity: Any = 0.0  # the least with which the goal counts as reached
    max_episode_steps: int = static(200)

    goal_position: ClassVar[float]
    render_fps = 30
    finite_observations = True

    def __post_init__(self):
        super().__post_init__()
        check_options(self)

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        low, high = POSITION_LIMITS
        return gymnasium.spaces.Box(
            np.array([low, -SPEED_LIMIT], np.float32), np.array([high, SPEED_LIMIT], np.float32)
        )

    def initial(self, key: PRNGKeyArray) -> Float[Array, "2"]:
        low, high = START
        position = jax.random.uniform(key, (), minval=low, maxval=high)
        return jnp.stack([position, jnp.zeros_like(position)])

    def push(self, action: Array) -> Array:
        """The motor's acceleration."""
        raise NotImplementedError

    def transition(
        self, state: Float[Array, "2"], action: Array, key: PRNGKeyArray
    ) -> Float[Array, "2"]:
        """Semi-implicit: the new velocity moves the car. The wall on the left stops it dead."""
        del key  # deterministic
        position, velocity = state
        velocity = velocity + self.push(action) - _GRAVITY * jnp.cos(3 * position)
        velocity = jnp.clip(velocity, -SPEED_LIMIT, SPEED_LIMIT)
        position = jnp.clip(position + velocity, *POSITION_LIMITS)
        stopped = (position <= POSITION_LIMITS[0]) & (velocity < 0)
        return jnp.stack([position, jnp.where(stopped, 0.0, velocity)])

    def observation(self, state: Float[Array, "2"]) -> Float[Array, "2"]:
        return state

    def terminal(self, state: Float[Array, "2"]) -> Array:
        """At the goal or beyond, and not slower than `goal_velocity`."""
        return (state[0] >= self.goal_position) & (state[1] >= self.goal_velocity)

    def render(
        self, state: Float[Array | np.ndarray, "2"], width: int, height: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        position, velocity = (float(x) for x in state)
        canvas = draw.Canvas(width, height, center=(-0.35, 0.62), span=(2.0, 1.25))
        road = [(x, _height(x)) for x in np.linspace(-2.5, 2.0, 300)]
        canvas.polygon([(-2.5, -9.0), *road, (2.0, -9.0)], draw.GROUND)
        canvas.line(road, draw.LINE)
        wall = POSITION_LIMITS[0] - _CAR_LENGTH / 2
        canvas.line([(wall, _height(wall)), (wall, _height(wall) + 0.15)], draw.RED)
        _draw_flag(canvas, self.goal_position)
        _draw_car(canvas, position)
        canvas.caption(f"x {position:+.2f}   speed {velocity:+.3f}")
        return canvas.pixels()


@flax.struct.dataclass
class MountainCar(_Car):
    """-1 for every step until the goal at 0.5."""

    goal_position = 0.5

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """0, 1, 2: push left, not at all, right."""
        return gymnasium.spaces.Discrete(3)

    def push(self, action: Array) -> Array:
        """-0.001, 0 or 0.001 for the actions 0, 1, 2."""
        return (action - 1) * 0.001

    def reward(self, state: Array, action: Array, next_state: Array) -> Float[Array, ""]:
        """-1."""
        return -jnp.ones(())


@flax.struct.dataclass
class ContinuousMountainCar(_Car):
    """-0.1 a^2 for every action a, and 100 for reaching the goal at 0.45."""

    max_episode_steps: int = static(999)

    goal_position = 0.45

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """The motor's thrust; beyond +-1 it pushes no more, but costs more."""
        return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def push(self, action: Float[Array, "1"]) -> Array:
        """0.0015 times the action, clipped to [-1, 1]."""
        return jnp.clip(action[0], -1.0, 1.0) * 0.0015

    def reward(
        self, state: Array, action: Float[Array, "1"], next_state: Array
    ) -> Float[Array, ""]:
        """-0.1 a^2, and 100 for the step that reaches the goal."""
        return jnp.where(self.terminal(next_state), 100.0, 0.0) - 0.1 * action[0] ** 2


_CAR_LENGTH, _WHEEL = 0.13, 0.022


def _height(x: float) -> float:
    return 0.45 * math.sin(3 * x) + 0.55


def _draw_flag(canvas: draw.Canvas, x: float) -> None:
    foot = _height(x)
    top = foot + 0.2
    canvas.polygon([(x, top), (x, top - 0.07), (x + 0.1, top - 0.035)], draw.GREEN)
    canvas.line([(x, foot), (x, top)], draw.INK)


def _draw_car(canvas: draw.Canvas, x: float) -> None:
    slope = math.atan(1.35 * math.cos(3 * x))
    along = np.array([math.cos(slope), math.sin(slope)])
    up = np.array([-along[1], along[0]])
    road = np.array([x, _height(x)])

    def place(points):
        return [road + a * along + b * up for a, b in points]

    half, floor, hood, roof = _CAR_LENGTH / 2, 0.8 * _WHEEL, 0.055, 0.085
    body = [(-half, floor), (-half, hood), (half, hood), (half, floor)]
    cabin = [(-0.6 * half, hood), (-0.4 * half, roof), (0.2 * half, roof), (0.5 * half, hood)]
    canvas.polygon(place(cabin), draw.INK)
    canvas.polygon(place(body), draw.BLUE)
    for wheel in place([(-0.6 * half, _WHEEL), (0.6 * half, _WHEEL)]):
        canvas.disc(wheel, _WHEEL, draw.INK)
