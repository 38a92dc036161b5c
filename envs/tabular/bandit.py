"""The k-armed bandit: a decision process of one state and one step. Sutton and Barto 2018, section 2.3."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from envs import TIME_LIMITS
from envs.base import Env, require_count, static

_SEED = 0  # of the default means


class BanditState(NamedTuple):
    """The reward of the pull, and whether there was one."""

    reward: Any  # float32 [], of the arm pulled; 0 before
    pulled: Any  # bool []


@flax.struct.dataclass
class Bandit(Env[BanditState]):
    """Arm a pays Normal(means[a], 1); the episode ends after one pull. The one observation is 0, of Discrete(1).

    The means belong to the bandit, not to the episode: if each pull drew new ones, there would be nothing to learn. By
    default they are drawn once, with a fixed seed, from Normal(0, 1): a bandit of the ten-armed testbed. For many
    bandits, `vmap` over `means`.

    Raises ValueError where `means` is not one number for each arm, or the arms or the time limit are no positive
    integer.
    """

    arms: int = static(10)
    means: Any = None  # [arms] float32
    max_episode_steps: int = static(TIME_LIMITS["Bandit-v0"])

    observation_space = gymnasium.spaces.Discrete(1)

    def __post_init__(self):
        super().__post_init__()
        require_count("arms", self.arms)
        means = self.means
        if means is None:
            means = np.random.default_rng(_SEED).standard_normal(self.arms, np.float32)
        if isinstance(means, list | tuple):
            means = np.asarray(means, np.float32)
        # JAX also builds this around placeholders, which have no shape, and batches, whose last axis is the arms.
        shape = getattr(means, "shape", None)
        if shape and shape[-1] != self.arms:
            raise ValueError(f"means must be {self.arms} numbers, one for each arm, got {shape}")
        object.__setattr__(self, "means", means)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """The arm to pull."""
        return gymnasium.spaces.Discrete(self.arms)

    def initial(self, key: PRNGKeyArray) -> BanditState:
        """No arm pulled."""
        return BanditState(jnp.zeros(()), jnp.zeros((), bool))

    def transition(self, state: BanditState, action: Array, key: PRNGKeyArray) -> BanditState:
        """Pulls an arm: its reward is Normal(means[action], 1)."""
        reward = jnp.asarray(self.means)[action] + jax.random.normal(key)
        return BanditState(reward, jnp.ones((), bool))

    def observation(self, state: BanditState) -> Int[Array, ""]:
        """0."""
        return jnp.zeros((), jnp.int32)

    def reward(self, state: BanditState, action: Array, next_state: BanditState) -> Array:
        """The reward of the pull."""
        return next_state.reward

    def terminal(self, state: BanditState) -> Array:
        """True after the pull."""
        return state.pulled

    def info(self, state: BanditState, action: Array, next_state: BanditState) -> dict[str, Array]:
        """`bandit/optimal`, 1 if the best arm was pulled, and `bandit/regret`, the best mean less the arm's."""
        regret = jnp.max(self.means) - jnp.asarray(self.means)[action]
        return {"bandit/optimal": (regret == 0).astype(jnp.float32), "bandit/regret": regret}


def draw_means(key: PRNGKeyArray, bandits: int, arms: int = 10) -> Float[Array, "bandits arms"]:
    """Means of the arms of `bandits` bandits of the testbed, Normal(0, 1), for `Bandit(means=...)` under `vmap`."""
    return jax.random.normal(key, (bandits, arms))
