"""Arms that reach and push. Positions of bodies are as MuJoCo leaves them after a step, and as Gymnasium reads them:
in Reacher RK4's last estimate, in Pusher one substep old.

v5 against v4 (there is no v3): rewards are of the state after the step (v4: before it); Reacher no longer observes the
fingertip's height above the target, which was always 0; Pusher's object is heavier than air (density 0.01, not 1e-5:
under MuJoCo 3, v4 behaves otherwise); `info["reward_ctrl"]` is weighted.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from envs.base import static
from envs.gymnasium_mujoco.base import GymnasiumMujoco, squared, uniform
from envs.physics import PhysicsState


@flax.struct.dataclass
class _Arm(GymnasiumMujoco):
    extras = ("xpos",)
    bodies: ClassVar[tuple[str, ...]]  # that the task is about

    def __post_init__(self):
        super().__post_init__()
        for name in self.bodies:
            self.body(name)

    def position(self, state: PhysicsState, body: str) -> Float[Array, "3"]:
        return state.extras["xpos"][self.body(body)]


@flax.struct.dataclass
class Reacher(_Arm):
    """Bring the fingertip of a two-link arm to a target: minus the distance, minus the squared torques.

    Observation [10]: cosines and sines of the angles, the target's x and y, the angles' speeds, the fingertip less
    the target in x and y. Action [2]: torques in [-1, 1].
    """

    bodies = ("fingertip", "target")
    fewest_dofs = 4

    xml_file: str = static("reacher.xml")
    frame_skip: int = static(2)
    reward_dist_weight: Any = 1.0
    reward_control_weight: Any = 1.0
    max_episode_steps: int = static(50)

    def initial(self, key: PRNGKeyArray) -> PhysicsState:
        """Coordinates within 0.1 rad of the model's, speeds within 0.005 rad/s, uniform; a resting target, see
        `draw_goal`."""
        position_key, goal_key, speed_key = jax.random.split(key, 3)
        qpos = jnp.asarray(self.model.qpos0, jnp.float32) + uniform(
            position_key, self.model.nq, 0.1
        )
        qvel = uniform(speed_key, self.model.nv, 0.005)
        return self.at_rest(qpos.at[-2:].set(draw_goal(goal_key)), qvel.at[-2:].set(0.0))

    def observation(self, state: PhysicsState) -> Array:
        """The observation in the class's docstring."""
        angles = state.qpos[:2]
        return jnp.concatenate(
            [
                jnp.cos(angles),
                jnp.sin(angles),
                state.qpos[2:],
                state.qvel[:2],
                self._error(state)[:2],
            ]
        )

    def reward_terms(self, state, action, next_state):
        """Terms of the reward, as in the class's docstring."""
        return {
            "reward_dist": -self.reward_dist_weight * jnp.linalg.norm(self._error(next_state)),
            "reward_ctrl": -self.reward_control_weight * squared(action),
        }

    def _error(self, state: PhysicsState) -> Float[Array, "3"]:
        return self.position(state, "fingertip") - self.position(state, "target")


def draw_goal(key: PRNGKeyArray) -> Float[Array, "2"]:
    """A target (m), uniform in the disc of radius 0.2 m. Gymnasium draws it by rejection."""
    radius, turn = jax.random.uniform(key, (2,))
    radius, angle = 0.2 * jnp.sqrt(radius), 2.0 * jnp.pi * turn
    return radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])


@flax.struct.dataclass
class Pusher(_Arm):
    """Push a cylinder to a goal with a seven-joint arm: minus the cylinder's distance from the goal, minus half its
    distance from the fingertips, minus a tenth of the squared torques.

    Observation [23]: the arm's angles [7] and speeds [7], then the positions of fingertips, cylinder and goal.
    Action [7]: torques in [-2, 2].
    """

    bodies = ("tips_arm", "object", "goal")
    fewest_dofs = 11

    xml_file: str = static("pusher_v5.xml")
    frame_skip: int = static(5)
    reward_near_weight: Any = 0.5
    reward_dist_weight: Any = 1.0
    reward_control_weight: Any = 0.1
    max_episode_steps: int = static(100)

    def initial(self, key: PRNGKeyArray) -> PhysicsState:
        """The model's pose with the cylinder at rest (see `draw_object`); speeds of the arm within 0.005 rad/s,
        uniform."""
        object_key, speed_key = jax.random.split(key)
        place = jnp.concatenate([draw_object(object_key), jnp.zeros(2)])
        qpos = jnp.asarray(self.model.qpos0, jnp.float32).at[-4:].set(place)
        return self.at_rest(qpos, uniform(speed_key, self.model.nv, 0.005).at[-4:].set(0.0))

    def observation(self, state: PhysicsState) -> Array:
        """The observation in the class's docstring."""
        positions = [self.position(state, name) for name in self.bodies]
        return jnp.concatenate([state.qpos[:7], state.qvel[:7], *positions])

    def reward_terms(self, state, action, next_state):
        """Terms of the reward, as in the class's docstring."""
        tips, thing, goal = (self.position(next_state, name) for name in self.bodies)
        return {
            "reward_dist": -self.reward_dist_weight * jnp.linalg.norm(thing - goal),
            "reward_ctrl": -self.reward_control_weight * squared(action),
            "reward_near": -self.reward_near_weight * jnp.linalg.norm(thing - tips),
        }


_CANDIDATES = 32


def draw_object(key: PRNGKeyArray) -> Float[Array, "2"]:
    """Uniform in [-0.3, 0] x [-0.2, 0.2] m without the disc of 0.17 m around the goal.

    The disc takes 0.38 of the rectangle and the rest has no inverse in closed form, so the first of 32 candidates
    outside the disc is taken, where Gymnasium draws until there is one; none is, in 3e-14 of the cases.
    """
    low, high = jnp.array([-0.3, -0.2]), jnp.array([0.0, 0.2])
    places = jax.random.uniform(key, (_CANDIDATES, 2), minval=low, maxval=high)
    return places[jnp.argmax(jnp.linalg.norm(places, axis=1) > 0.17)]
