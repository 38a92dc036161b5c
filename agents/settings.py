"""What every algorithm's settings can check of themselves."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of the dataclasses of settings. They raise ValueError, in one line, for impossible values."""

    def __post_init__(self):
        """The end of the chain: each class checks its own fields and hands on. Checked here is what holds for all:
        a Literal field has one of its values, and every number is finite."""
        for name, known in _choices(type(self)).items():
            value = getattr(self, name)
            names = " or ".join(f'"{x}"' if isinstance(x, str) else str(x) for x in known)
            require(value in known, f"{name} must be {names}, got {value!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                finite = not isinstance(number, numbers.Real) or math.isfinite(number)
                require(finite, f"{field.name} must be finite, got {value}")

    def require_at_least_one(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1, got {value}")

    def require_positive(self, *names: str) -> None:
        """None means "off", where the field allows it."""
        for name in names:
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be positive, got {value}")

    def require_share(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must be between 0 and 1, got {value}")

    def require_not_negative(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            require(value >= 0, f"{name} must not be negative, got {value}")


@dataclasses.dataclass(frozen=True)
class EntropySettings(Settings):
    """A bonus on the policy's entropy, that it may not settle too early."""

    entropy_coefficient: float = 0.0
    """weight of the entropy bonus, at first"""
    entropy_fraction: float | None = None
    """share of total_steps in which the entropy bonus falls to zero, in a line; None: it stays as it is"""

    def __post_init__(self):
        super().__post_init__()
        self.require_not_negative("entropy_coefficient")
        share = self.entropy_fraction
        require(
            share is None or 0 < share <= 1,
            f"entropy_fraction must be above 0 and at most 1, got {share}",
        )

    def entropy_weight(self, left: Float[Array, ""]) -> Float[Array, ""] | float:
        """The bonus's weight when the share `left` of the run is still to come."""
        if self.entropy_fraction is None:
            return self.entropy_coefficient
        return self.entropy_coefficient * jnp.maximum(
            1.0 - (1.0 - left) / self.entropy_fraction, 0.0
        )


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@functools.cache
def _choices(settings: type) -> dict[str, tuple[Any, ...]]:
    """The values that each Literal field may have; None is among them where the field may be None."""
    hints = typing.get_type_hints(settings)
    found = {field.name: _values(hints[field.name]) for field in dataclasses.fields(settings)}
    return {name: values for name, values in found.items() if values}


def _values(kind: Any) -> tuple[Any, ...]:
    """Of a Literal, or of one beside None; nothing for other types."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    members = typing.get_args(kind) if union else (kind,)
    if not all(x is types.NoneType or typing.get_origin(x) is Literal for x in members):
        return ()
    return sum((typing.get_args(x) or (None,) for x in members), ())
