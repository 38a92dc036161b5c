"""Checks of spaces: their kinds, and the bounds of actions."""

from __future__ import annotations

import gymnasium
import numpy as np

from agents.spaces import has_range
from envs.base import Env
from experiments.user_envs.check_tools import Note, Problem

_NARROWEST = 1e-6  # a range below this share of its distance from 0 is lost in float32


def spaces(env: Env) -> None:
    """Raises Problem for spaces that no learner here knows."""
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name), gymnasium.spaces.Space):
            kind = type(getattr(env, name)).__name__
            raise Problem(f"{name} is a {kind}: give a space from gymnasium.spaces")
    if not isinstance(env.observation_space, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
        kind = type(env.observation_space).__name__
        raise Problem(
            f"observation_space is {kind}: learners here know Box and Discrete; make it one array"
        )
    action = env.action_space
    if not isinstance(action, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
        raise Problem(f"action_space is {type(action).__name__}: algorithms know Box and Discrete")
    if isinstance(action, gymnasium.spaces.Box) and action.dtype == np.float64:
        raise Problem("action_space has dtype float64: make it float32")


def action_bounds(env: Env) -> None:
    """Raises Problem where no action lies within the bounds, Note where they say little of which are worth trying."""
    space = env.action_space
    if not isinstance(space, gymnasium.spaces.Box):
        return
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    far = np.maximum(np.abs(low), np.abs(high))
    unbounded = ~has_range(space) & (low != high)
    narrow = ~unbounded & (high - low < _NARROWEST * np.maximum(far, _NARROWEST))
    if np.any(~(low <= high)):  # also of NaN
        raise Problem(
            f"action_space has {_first(~(low <= high), low, high)}: low must not be above high"
        )
    if np.any(unbounded):
        raise Note(
            f"action_space has {_first(unbounded, low, high)}: no range to scale actions to. Learners that can do "
            "without one try numbers of about 1 in size; sac, td3 and ddpg refuse it"
        )
    if np.any(narrow):
        raise Note(
            f"action_space has {_first(narrow, low, high)}: all but a single value, there is nothing to choose"
        )


def _first(wrong: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    at = f" at [{', '.join(map(str, index))}]" if index else ""
    return f"bounds {low[index]:.6g} and {high[index]:.6g}{at}"
