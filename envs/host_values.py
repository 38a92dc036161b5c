"""Values that cross from a Gymnasium environment to JAX, in the types that JAX has: spaces, observations, rewards."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.base import require_32_bits


def jax_space(space: gymnasium.Space, what: str, gymnasium_id: str) -> Box | Discrete:
    """`space` in the types that JAX has.

    Raises ValueError, about the `what` ("actions") of an environment, for a space that is neither Box nor Discrete, or
    holds integers of more than 32 bits.
    """
    if not isinstance(space, Box | Discrete):
        raise ValueError(
            f"the {what} of {gymnasium_id} are {type(space).__name__}: only Box and Discrete spaces "
            "can be used; wrap it (see gymnasium.wrappers) and register the result"
        )
    require_32_bits(space, f"the {what} of {gymnasium_id}")
    if isinstance(space, Discrete):
        return space
    dtype: Any = np.float32 if np.issubdtype(space.dtype, np.floating) else space.dtype
    if np.issubdtype(dtype, np.integer) and dtype.itemsize > 4:
        dtype = np.dtype(np.int32)
    with np.errstate(over="ignore"):  # beyond float32: no bound
        return Box(space.low.astype(dtype), space.high.astype(dtype), dtype=dtype)


class Observations:
    """Checks of one environment's observations. `space` is the environment's own, `seen` its `jax_space`."""

    def __init__(self, space: gymnasium.Space, seen: Box | Discrete):
        dtype = jax.dtypes.canonicalize_dtype(seen.dtype)
        self.shape_and_dtype = jax.ShapeDtypeStruct(seen.shape, dtype)
        self._shape = seen.shape
        rounded = isinstance(space, Discrete) or np.issubdtype(space.dtype, np.floating)
        self._range = (
            (int(space.start), int(space.start + space.n)) if isinstance(space, Discrete) else None
        )
        self._usual = (dtype, space.dtype) if rounded else (dtype,)  # which need no closer look

    def checked(self, obs: Any) -> np.ndarray:
        """`obs` as an array that can be assigned to one of the JAX dtype. Raises ValueError where its shape is wrong,
        where the assignment would change a value (floats apart, which are rounded), or where it is not in a Discrete
        space."""
        obs = np.asarray(obs)
        if obs.shape != self._shape:
            raise ValueError(
                f"its observation has shape {obs.shape}, but the space says {self._shape}"
            )
        if obs.dtype not in self._usual and not _holds(self.shape_and_dtype.dtype, obs):
            raise ValueError(
                f"its observation {' '.join(str(obs).split())} ({obs.dtype}) is not {self.shape_and_dtype.dtype}"
            )
        if self._range and not self._range[0] <= int(obs) < self._range[1]:
            first, end = self._range
            raise ValueError(
                f"its observation is {int(obs)}, but its Discrete space goes from {first} to {end - 1}"
            )
        return obs

    def first(self, obs: Any) -> np.ndarray:
        """An episode's first observation, `checked`. As no other can replace it, raises ValueError also where it is not
        finite in the JAX dtype."""
        obs = self.checked(obs)
        if not all_finite(obs.astype(self.shape_and_dtype.dtype)):
            raise ValueError(
                f"an episode's first observation is not finite: {' '.join(str(obs).split())}"
            )
        return obs


def all_finite(values: np.ndarray | np.generic) -> bool:
    """True if every number is finite; integers always are."""
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _holds(dtype: np.dtype, values: np.ndarray) -> bool:
    """True if the type can hold these values."""
    if not np.issubdtype(dtype, np.integer):
        return np.can_cast(values.dtype, dtype, "same_kind")
    bounds = np.iinfo(dtype)
    whole = values.dtype == bool or np.issubdtype(values.dtype, np.integer)
    return whole and bool(((bounds.min <= values) & (values <= bounds.max)).all())


def reset_observation(result: Any) -> Any:
    """The observation in the result of `reset`. Raises TypeError for a result that is not (observation, info)."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
        return result[0]
    raise TypeError(
        f"its reset returned {_outline(result)}, where Gymnasium wants (observation, info)"
        + ("" if isinstance(result, tuple) else ": the observation alone is Gym's way before 0.26")
    )


def step_values(result: Any) -> tuple:
    """The result of `step` itself. Raises TypeError if it is not (observation, reward, terminated, truncated, info)."""
    if isinstance(result, tuple) and len(result) == 5:
        return result
    old = isinstance(result, tuple) and len(result) == 4
    raise TypeError(
        f"its step returned {_outline(result)}, where Gymnasium wants (observation, reward, terminated, truncated, "
        "info)" + (": four values with one `done` are Gym's way before 0.26" if old else "")
    )


def _outline(result: Any) -> str:
    if isinstance(result, tuple):
        return f"{len(result)} values"
    return f"one value of type {type(result).__name__}"


def reward_number(reward: Any) -> float:
    """The reward as a float. Raises TypeError if it is no number."""
    try:
        return float(reward)
    except (TypeError, ValueError):
        raise TypeError(f"its reward is {reward!r}, not a number") from None
