"""Conversions between Gymnasium's spaces and networks: observations to inputs, outputs to actions.

A learner's raw action is an integer from 0 for a Discrete space. For a Box it is one float per coordinate, where [-1,
1] maps to the range from `low` to `high`; a coordinate without a finite range keeps the environment's units. Batches
and replay buffers hold raw actions, and log-probabilities and values refer to raw actions. An environment receives
`element(space, raw)`, which is always an element of its action space.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from agents import normalize
from envs.base import Env, require_32_bits

MOST_ENTRIES = 2**20  # largest one-hot size of a Discrete space
_UNBOUNDED = 1e6  # bounds this far out are no range that exploration could span


def num_inputs(space: gymnasium.Space) -> int:
    """Inputs of a network that sees `space` through `encode`. Raises ValueError for spaces it cannot see."""
    require_32_bits(space, "observations")
    if isinstance(space, gymnasium.spaces.Discrete):
        _require_few(space, "an observation", "shown to a network as so many numbers")
        return int(space.n)
    if isinstance(space, gymnasium.spaces.Box):
        return int(np.prod(space.shape))
    raise ValueError(f"networks here need Box or Discrete observations, got {space}")


def _require_few(space: gymnasium.spaces.Discrete, what: str, reason: str) -> None:
    if space.n > MOST_ENTRIES:
        raise ValueError(
            f"{what} of {space} is {reason}, and networks here take at most {MOST_ENTRIES}: give it as a Box of a few "
            "numbers"
        )


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
    """Returns `encode` of observations, normalised to mean 0 and variance 1. One-hot vectors are not normalised,
    because a rare state would get a huge entry."""
    inputs = encode(space, obs)
    if isinstance(space, gymnasium.spaces.Discrete):
        return inputs
    return normalize.normalize(statistics, inputs)


def element(space: gymnasium.Space, raw: Any) -> Array:
    """Returns the elements of the action space that correspond to a learner's raw actions [*batch, ...].

    Discrete: counted from `space.start`. Box: scaled from [-1, 1] to the bounds, rounded if the space is of integers,
    and clipped to the bounds.
    """
    raw = jnp.asarray(raw)
    if isinstance(space, gymnasium.spaces.Discrete):
        return raw if space.start == 0 else raw + int(space.start)
    assert isinstance(space, gymnasium.spaces.Box)
    middle, half = _scale(space)
    action = middle + half * raw
    dtype = jax.dtypes.canonicalize_dtype(space.dtype)
    if np.issubdtype(dtype, np.integer):
        action = jnp.round(action)
    low, high = (np.asarray(x, np.float32) for x in (space.low, space.high))
    return jnp.clip(action, low, high).astype(dtype)


def action_inputs(space: gymnasium.Space, raw: Any) -> Float[Array, "*batch inputs"]:
    """Raw actions [*batch, ...] as vectors of what the environment was given: a Discrete one as one-hot, a Box's
    element in units in which [-1, 1] stands for its range."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return jax.nn.one_hot(raw, int(space.n))
    assert isinstance(space, gymnasium.spaces.Box)
    middle, half = _scale(space)
    return (element(space, raw).astype(jnp.float32) - middle) / half


def num_action_inputs(space: gymnasium.Space) -> int:
    """Returns the length of the vectors that `action_inputs` makes."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(space.n)
    return int(np.prod(space.shape or ()))


def raw_action(space: gymnasium.Space, action: Any) -> np.ndarray:
    """The raw actions that elements of the action space [*batch, ...] stand for: the inverse of `element`, in NumPy. Of
    a Box, within [-1, 1] where there is a range."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.asarray(action, np.int32) - np.int32(space.start)
    assert isinstance(space, gymnasium.spaces.Box)
    middle, half = _scale(space)
    raw = ((np.asarray(action, np.float64) - middle) / half).astype(np.float32)
    return np.where(has_range(space), np.clip(raw, -1.0, 1.0), raw)


def _scale(space: gymnasium.spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half width of each coordinate's range, float32; 0 and 1 where there is no range."""
    bounded = has_range(space)
    low, high = (np.where(bounded, x.astype(np.float64), 0.0) for x in (space.low, space.high))
    middle, half = (high + low) / 2, np.where(bounded, (high - low) / 2, 1.0)
    return middle.astype(np.float32), half.astype(np.float32)


def has_range(space: gymnasium.spaces.Box) -> np.ndarray:
    """Returns True for coordinates bounded on both sides, and not to a point; bounds beyond a million count as none."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return (low > -_UNBOUNDED) & (high < _UNBOUNDED) & (low < high)


def require_actions(learner: str, env: Env, *kinds: type[gymnasium.Space]) -> None:
    """Raises ValueError unless the environment's actions are of one of the kinds, and of a shape that learners know."""
    space = env.action_space
    require_32_bits(space, "actions")
    if isinstance(space, gymnasium.spaces.Discrete):
        _require_few(space, "an action", "chosen among as many outputs of a network")
    names = " or ".join(kind.__name__ for kind in kinds)
    if not isinstance(space, kinds):
        raise ValueError(f"{learner} needs {names} actions, got {space}")
    if isinstance(space, gymnasium.spaces.Box):
        if len(space.shape) != 1 or space.shape[0] == 0:
            raise ValueError(f"{learner} needs a vector of actions, got {space}")
        whole = not np.issubdtype(space.dtype, np.floating)
        if whole and not np.all(has_range(space) | (space.low == space.high)):
            raise ValueError(
                f"{learner} needs whole-number actions within a million of 0, got {space}: "
                "give the Box narrower bounds, or a float dtype"
            )


def require_bounds(learner: str, env: Env) -> None:
    """Raises ValueError unless every coordinate of a Box of actions has a range: finite, and not a single point."""
    space = env.action_space
    if not isinstance(space, gymnasium.spaces.Box):
        return
    if not np.all(has_range(space)):
        raise ValueError(f"{learner} needs bounded actions, low < high, got {space}")
