"""The check of options that the classic tasks share."""

from __future__ import annotations

import dataclasses
import math

from envs.base import Env


def check_options(env: Env) -> None:
    """Raises ValueError for a coefficient that is no finite number, or a time limit that is no positive integer.

    Coefficients that are arrays pass: while JAX takes an environment apart and puts it together again, its leaves are
    tracers and placeholders.
    """
    for field in dataclasses.fields(env):  # type: ignore[arg-type]
        value = getattr(env, field.name)
        not_finite = isinstance(value, float) and not math.isfinite(value)
        if field.metadata.get("pytree_node", True) and (not_finite or isinstance(value, str)):
            raise ValueError(f"{field.name} must be a finite number, got {value!r}")
    if not isinstance(env.max_episode_steps, int) or env.max_episode_steps < 1:
        raise ValueError(
            f"max_episode_steps must be an integer of at least 1, got {env.max_episode_steps!r}"
        )
