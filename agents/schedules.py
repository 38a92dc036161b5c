"""Schedules of settings over the course of training. Steps are environment steps unless a docstring says otherwise."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Shape = Literal["linear", "constant"]


def remaining_fraction(env_steps: Array, total_steps: int) -> Float[Array, ""]:
    """Returns the share of the run that is still to come, from 1 to 0."""
    return 1.0 - jnp.minimum(env_steps / total_steps, 1.0)


def decayed(value: float, shape: Shape, env_steps: Array, total_steps: int) -> Float[Array, ""]:
    """Returns `value` as it stands after `env_steps`: constant, or falling to 0 at `total_steps` in a line."""
    if shape == "constant":
        return jnp.asarray(value)
    return value * remaining_fraction(env_steps, total_steps)


def linear(begin: float, end: float, span: float | int, now: Any) -> Float[Array, ""]:
    """Returns a number that goes from `begin` at 0 to `end` at `span`, in a line, and stays there."""
    progress = jnp.clip(now / max(span, 1.0), 0.0, 1.0)
    return begin + progress * (end - begin)
