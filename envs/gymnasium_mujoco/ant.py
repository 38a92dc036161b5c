"""Four legs: forward speed and health, less squared torques and squared contact forces.

v5 against v3 and v4: the healthy reward is earned only while healthy (before: at every step); the contact cost always
counts (v4: only with `use_contact_forces=True`, off by default; in v3 it counted, but was 0 under mujoco-py above
2.0); contact forces are observed by default, the world's left out (v4: not observed; v3: 84 numbers with the
world's). Here they are not observed by default, as in v4, so that the observation is the [27] of most published
numbers.

Contact forces are as MuJoCo leaves them after a step (RK4's last estimate), and exact after a reset, where Gymnasium
shows zeros until the first step.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from envs.base import static
from envs.gymnasium_mujoco.base import GymnasiumMujoco, squared
from envs.physics import PhysicsState


@flax.struct.dataclass
class Ant(GymnasiumMujoco):
    """Four legs. Healthy: the torso's height in [0.2, 1] m. `main_body`, a name or an index, is the body whose motion
    is rewarded.

    Observation [27]: z, the torso's quaternion, eight joint angles, 14 speeds; x and y come first if not excluded;
    contact forces (torque and force on each of 13 bodies, clipped to `contact_force_range`) [78] last if included.
    Action [8]: torques in [-1, 1].
    """

    extras = ("xpos", "cfrc_ext")
    fewest_dofs = 3

    xml_file: str = static("ant.xml")
    frame_skip: int = static(5)
    forward_reward_weight: Any = 1.0
    ctrl_cost_weight: Any = 0.5
    contact_cost_weight: Any = 5e-4
    healthy_reward: Any = 1.0
    main_body: int | str = static(1)
    terminate_when_unhealthy: bool = static(True)
    healthy_z_range: Any = (0.2, 1.0)
    contact_force_range: Any = (-1.0, 1.0)
    reset_noise_scale: Any = 0.1
    exclude_current_positions_from_observation: bool = static(True)
    include_cfrc_ext_in_observation: bool = static(False)

    def __post_init__(self):
        super().__post_init__()
        self.body(self.main_body)

    def initial(self, key: PRNGKeyArray) -> PhysicsState:
        """The model's pose with noise of `reset_noise_scale`: uniform coordinates, Gaussian speeds."""
        return self.near_rest(key, self.reset_noise_scale, gaussian_speeds=True)

    def observation(self, state: PhysicsState) -> Array:
        """The observation in the class's docstring."""
        skipped = 2 if self.exclude_current_positions_from_observation else 0
        parts = [state.qpos[skipped:], state.qvel]
        if self.include_cfrc_ext_in_observation:
            parts.append(self.contact_forces(state)[1:].ravel())
        return jnp.concatenate(parts)

    def reward_terms(self, state, action, next_state):
        """Terms of the reward, as in the class's docstring."""
        x_velocity, _ = self._velocity(state, next_state)
        return {
            "reward_forward": self.forward_reward_weight * x_velocity,
            "reward_ctrl": -self.ctrl_cost_weight * squared(action),
            "reward_contact": -self.contact_cost_weight * squared(self.contact_forces(next_state)),
            "reward_survive": jnp.where(self.healthy(next_state), self.healthy_reward, 0.0),
        }

    def measurements(self, state: PhysicsState, next_state: PhysicsState) -> dict[str, Array]:
        """Position (m), distance from the origin (m) and velocity (m/s) of the torso."""
        x_velocity, y_velocity = self._velocity(state, next_state)
        return {
            "x_position": next_state.qpos[0],
            "y_position": next_state.qpos[1],
            "distance_from_origin": jnp.linalg.norm(next_state.qpos[:2]),
            "x_velocity": x_velocity,
            "y_velocity": y_velocity,
        }

    def contact_forces(self, state: PhysicsState) -> Float[Array, "nbody 6"]:
        """External torque and force on each body, clipped to `contact_force_range`."""
        return jnp.clip(state.extras["cfrc_ext"], *self.contact_force_range)

    def healthy(self, state: PhysicsState) -> Array:
        """True if the torso's height (m) is in `healthy_z_range`, a closed interval."""
        low, high = self.healthy_z_range
        return (low <= state.qpos[2]) & (state.qpos[2] <= high)

    def terminal(self, state: PhysicsState) -> Array:
        """True if not healthy, where `terminate_when_unhealthy`."""
        return ~self.healthy(state) if self.terminate_when_unhealthy else super().terminal(state)

    def _velocity(self, state: PhysicsState, next_state: PhysicsState) -> Float[Array, "2"]:
        """Mean velocity (m/s) of the main body over the step."""
        body = self.body(self.main_body)
        return (next_state.extras["xpos"] - state.extras["xpos"])[body, :2] / self.dt
