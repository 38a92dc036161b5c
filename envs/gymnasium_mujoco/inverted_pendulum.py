"""A pole, or two, on a cart.

v5 against v4 (there is no v3): the step that drops the pole earns nothing for being healthy (v4 paid it); the double
pendulum observes one constraint force, not three of which two were always 0.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from envs.base import static
from envs.gymnasium_mujoco.base import GymnasiumMujoco
from envs.physics import PhysicsState


@flax.struct.dataclass
class InvertedPendulum(GymnasiumMujoco):
    """Hold up a pole on a cart: 1 a step while it is within 0.2 rad.

    Observation [4]: cart (m), pole (rad), their speeds. Action [1]: force on the cart in [-3, 3].
    """

    fewest_dofs = 2

    xml_file: str = static("inverted_pendulum.xml")
    frame_skip: int = static(2)
    reset_noise_scale: Any = 0.01

    def initial(self, key: PRNGKeyArray) -> PhysicsState:
        """The model's pose with noise of `reset_noise_scale`: uniform coordinates, uniform speeds."""
        return self.near_rest(key, self.reset_noise_scale)

    def observation(self, state: PhysicsState) -> Array:
        """The observation in the class's docstring."""
        return jnp.concatenate([state.qpos, state.qvel])

    def reward_terms(self, state, action, next_state):
        """Terms of the reward, as in the class's docstring."""
        return {"reward_survive": jnp.where(self.terminal(next_state), 0.0, 1.0)}

    def terminal(self, state: PhysicsState) -> Array:
        """True if the pole is more than 0.2 rad off upright."""
        return jnp.abs(state.qpos[1]) > 0.2


@flax.struct.dataclass
class InvertedDoublePendulum(GymnasiumMujoco):
    """Hold up two poles, one on the other: 10 a step while the tip is above 1 m, less the tip's distance from the top
    and the poles' speeds.

    Observation [9]: cart (m), sines and cosines of the two angles, speeds cut to [-10, 10], the force of the cart's
    stops cut to [-10, 10]. Action [1]: force on the cart in [-1, 1]. Tip and force are as MuJoCo leaves them after a
    step: RK4's last estimate.
    """

    extras = ("site_xpos", "qfrc_constraint")
    fewest_dofs = 3

    xml_file: str = static("inverted_double_pendulum.xml")
    frame_skip: int = static(5)
    healthy_reward: Any = 10.0
    reset_noise_scale: Any = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not self.model.nsite:
            raise ValueError(f"{self.xml_file} has no site, which {type(self).__name__} needs")

    def initial(self, key: PRNGKeyArray) -> PhysicsState:
        """The model's pose with noise of `reset_noise_scale`: uniform coordinates, Gaussian speeds."""
        return self.near_rest(key, self.reset_noise_scale, gaussian_speeds=True)

    def observation(self, state: PhysicsState) -> Array:
        """The observation in the class's docstring."""
        return jnp.concatenate(
            [
                state.qpos[:1],
                jnp.sin(state.qpos[1:]),
                jnp.cos(state.qpos[1:]),
                jnp.clip(state.qvel, -10.0, 10.0),
                jnp.clip(state.extras["qfrc_constraint"][:1], -10.0, 10.0),
            ]
        )

    def reward_terms(self, state, action, next_state):
        """Terms of the reward, as in the class's docstring."""
        x, _, height = next_state.extras["site_xpos"][0]
        v1, v2 = next_state.qvel[1:3]
        return {
            "reward_survive": jnp.where(self.terminal(next_state), 0.0, self.healthy_reward),
            "distance_penalty": -(0.01 * x**2 + (height - 2.0) ** 2),
            "velocity_penalty": -(1e-3 * v1**2 + 5e-3 * v2**2),
        }

    def terminal(self, state: PhysicsState) -> Array:
        """True if the tip is at or below 1 m."""
        return state.extras["site_xpos"][0, 2] <= 1.0
