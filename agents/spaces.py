"""What networks make of Gymnasium's spaces."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from agents import normalize
from envs.base import Env


def num_inputs(space: gymnasium.Space) -> int:
    """Inputs of a network that sees `space` through `encode`. Raises ValueError for spaces it cannot see."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(space.n)
    if isinstance(space, gymnasium.spaces.Box):
        return int(np.prod(space.shape))
    raise ValueError(f"networks here need Box or Discrete observations, got {space}")


def encode(space: gymnasium.Space, obs: Any) -> Float[Array, "*batch inputs"]:
    """Observations [*batch, ...] as vectors: a Box flattened, a Discrete one as one-hot."""
    obs = jnp.asarray(obs)
    if isinstance(space, gymnasium.spaces.Discrete):
        return jax.nn.one_hot(obs - space.start, int(space.n))
    events = len(space.shape or ())
    return obs.astype(jnp.float32).reshape(*obs.shape[: obs.ndim - events], -1)


def normalized(
    space: gymnasium.Space, statistics: normalize.RunningStatistics, obs: Any
) -> Float[Array, "*batch inputs"]:
    """As `encode`, to mean 0 and variance 1. One-hot vectors stay so: scaled, a rare state would be huge."""
    inputs = encode(space, obs)
    if isinstance(space, gymnasium.spaces.Discrete):
        return inputs
    return normalize.normalize(statistics, inputs)


def num_outputs(space: gymnasium.Space) -> int:
    """Logits of a Discrete space from 0, coordinates of a Box."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(space.n)
    return int(np.prod(space.shape or ()))


def require_actions(learner: str, env: Env, *kinds: type[gymnasium.Space]) -> None:
    """Raises ValueError unless the environment's actions are of one of the kinds, and of a shape that learners know."""
    space = env.action_space
    names = " or ".join(kind.__name__ for kind in kinds)
    if not isinstance(space, kinds):
        raise ValueError(f"{learner} needs {names} actions, got {space}")
    if isinstance(space, gymnasium.spaces.Discrete) and space.start != 0:
        raise ValueError(f"{learner} needs actions that are counted from 0, got {space}")
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) != 1:
        raise ValueError(f"{learner} needs a vector of actions, got {space}")


def require_bounds(learner: str, env: Env) -> None:
    """Raises ValueError unless every coordinate of a Box of actions has a range: finite, and not a single point."""
    space = env.action_space
    if not isinstance(space, gymnasium.spaces.Box):
        return
    if not np.all((space.low > -1e6) & (space.high < 1e6) & (space.low < space.high)):
        raise ValueError(f"{learner} needs bounded actions, low < high, got {space}")
