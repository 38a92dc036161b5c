"""Checks of spaces: their kinds, whether observations stay within theirs, and what the bounds of actions say."""

from __future__ import annotations

import gymnasium
import numpy as np

from agents.spaces import has_range
from envs.base import Env
from experiments.user_envs.check_tools import Note, Problem, Run

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


def run_within_bounds(env: Env, run: Run) -> None:
    """Raises Problem where an observation of the random run lies outside its space."""
    seen = run()["low"], run()["high"]
    slack = 1e-5 * np.issubdtype(seen[0].dtype, np.floating)  # a cosine may come out above 1
    # In double precision, NumPy's: the ends of single precision have no room for the slack.
    low, high, lowest, highest = (
        np.asarray(x, np.float64) for x in (*seen, *_ends_of(env.observation_space))
    )
    outside = (low < lowest - slack * (1 + abs(lowest))) | (
        high > highest + slack * (1 + abs(highest))
    )
    if outside.any():
        index = tuple(int(i) for i in np.argwhere(outside)[0])
        at = f"[{', '.join(map(str, index))}]" if index else ""
        raise Problem(
            f"observation{at} goes from {low[index]:.4g} to {high[index]:.4g} under random actions, but the space "
            f"ends at {lowest[index]:.4g} and {highest[index]:.4g}"
        )


def _ends_of(space: gymnasium.Space) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest observation of a Box, or a Discrete one."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.asarray(space.start), np.asarray(space.start + space.n - 1)
    assert isinstance(space, gymnasium.spaces.Box)
    return space.low, space.high


def _first(wrong: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    at = f" at [{', '.join(map(str, index))}]" if index else ""
    return f"bounds {low[index]:.6g} and {high[index]:.6g}{at}"
