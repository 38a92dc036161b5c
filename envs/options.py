"""Checks of options that tasks share."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

from envs.base import Env

_COUNT_LIMIT = 2**31  # what counts has 32 bits


def require_count(name: str, value: Any) -> None:
    """Raises ValueError unless the value is an integer of at least 1 that fits into 32 bits."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if int(value) >= _COUNT_LIMIT:
        raise ValueError(f"{name} must be below {_COUNT_LIMIT}, got {value}")


def check_options(env: Env) -> None:
    """Raises ValueError for a coefficient that is no finite number, a range (low, high) with an end that is no number,
    or a time limit that is no positive integer.

    Coefficients that are arrays pass: while JAX takes an environment apart and puts it together again, its leaves are
    tracers and placeholders.
    """
    for field in dataclasses.fields(env):  # type: ignore[arg-type]
        value = getattr(env, field.name)
        if not field.metadata.get("pytree_node", True):
            continue
        if isinstance(value, str) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{field.name} must be a finite number, got {value!r}")
        if isinstance(value, tuple) and any(isinstance(x, float) and math.isnan(x) for x in value):
            raise ValueError(f"{field.name} must be numbers, got {value!r}")
    require_count("max_episode_steps", env.max_episode_steps)
