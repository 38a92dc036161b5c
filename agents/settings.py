"""Base classes of settings, which check themselves, and the checks."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

COUNT_LIMIT = 2**31  # what counts, on any device, has 32 bits
MOST_LAYERS = 100  # each layer is compiled apart: a thousand of them take an hour
# Of single precision, in which everything is computed.
_LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
_SHOWN = 80  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base class of settings. Raises ValueError, in one line, for impossible values."""

    def __post_init__(self):
        """The end of the chain: each class checks its own fields and hands on. Checked here is what holds for all:
        a Literal field has one of its values, every number is finite, every integer fits into 32 bits, and every
        other number into single precision."""
        for name, known in _choices(type(self)).items():
            value = getattr(self, name)
            names = " or ".join(f'"{x}"' if isinstance(x, str) else str(x) for x in known)
            require(value in known, f"{name} must be {names}, got {shortened(repr(value))}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                wrong = number_fault(number)
                require(wrong is None, f"{field.name} must be {wrong}, got {shown(value)}")

    def require_at_least_one(self, *names: str) -> None:
        """Raises ValueError where a field is below 1."""
        for name in names:
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1, got {shown(value)}")

    def require_positive(self, *names: str) -> None:
        """Raises ValueError where a field is not above 0; None means "off", where the field allows it."""
        for name in names:
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be positive, got {shown(value)}")

    def require_share(self, *names: str) -> None:
        """Raises ValueError where a field is outside [0, 1]."""
        for name in names:
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must be between 0 and 1, got {shown(value)}")

    def require_not_negative(self, *names: str) -> None:
        """Raises ValueError where a field is below 0."""
        for name in names:
            value = getattr(self, name)
            require(value >= 0, f"{name} must not be negative, got {shown(value)}")

    def require_count(self, what: str, count: int) -> None:
        """Raises ValueError unless the product of settings `count`, a number of `what`, fits into 32 bits."""
        require(
            count < COUNT_LIMIT,
            f"{what} must be below {COUNT_LIMIT}, got {shown(count)}",
        )

    def require_hidden_sizes(self, sizes: tuple[int, ...]) -> None:
        """Raises ValueError for sizes below 1, or too many layers."""
        require(
            all(size >= 1 for size in sizes), f"hidden_sizes must be positive, got {shown(sizes)}"
        )
        require(
            len(sizes) <= MOST_LAYERS,
            f"hidden_sizes must be of at most {MOST_LAYERS} layers, got {len(sizes)}",
        )


@dataclasses.dataclass(frozen=True)
class EntropySettings(Settings):
    """Settings of an entropy bonus against premature convergence."""

    entropy_coefficient: float = 0.0
    """initial weight of the entropy bonus"""
    entropy_fraction: float | None = None
    """share of total_steps over which the entropy bonus falls linearly to zero; None: it is constant"""

    def __post_init__(self):
        super().__post_init__()
        self.require_not_negative("entropy_coefficient")
        share = self.entropy_fraction
        require(
            share is None or 0 < share <= 1,
            f"entropy_fraction must be above 0 and at most 1, got {share}",
        )

    def entropy_weight(self, remaining: Float[Array, ""]) -> Float[Array, ""] | float:
        """Returns the bonus's weight when the share `remaining` of the run is still to come."""
        if self.entropy_fraction is None:
            return self.entropy_coefficient
        return self.entropy_coefficient * jnp.maximum(
            1.0 - (1.0 - remaining) / self.entropy_fraction, 0.0
        )


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message where the condition is False."""
    if not condition:
        raise ValueError(message)


def require_clip_range(name: str, low: float, high: float) -> None:
    """Raises ValueError, in one line, for a `clip_high` below the lower range, which is called `name`."""
    require(high >= low, f"clip_high must be at least {name} = {low:g}, got {high:g}")


def require_dual_clip(dual_clip: float | None, name: str, clip_high: float) -> None:
    """Raises ValueError, in one line, for a dual clip within the clip range, whose upper setting is called `name`."""
    require(
        dual_clip is None or dual_clip > 1 + clip_high,
        f"dual_clip must be more than 1 + {name} = {1 + clip_high:g}, what the clip leaves; got {dual_clip}",
    )


def number_fault(number: Any) -> str | None:
    """Returns the end of "must be ..." for a number that no program can hold; None for any other value.

    Integers have 32 bits, other numbers those of single precision, in which the smallest ones would become 0.
    """
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        return None
    if isinstance(number, numbers.Integral):
        if abs(int(number)) < COUNT_LIMIT:
            return None
        return f"below {COUNT_LIMIT}" if int(number) > 0 else f"above -{COUNT_LIMIT}"
    size = abs(float(number))
    if not math.isfinite(size):
        return "finite"
    if size > _LARGEST:
        return f"at most {_LARGEST:.1e} in size, the largest number of single precision"
    if 0 < size < _SMALLEST:
        return f"0 or at least {_SMALLEST:.1e} in size, the smallest number of single precision"
    return None


def shown(value: Any) -> str:
    """A value for a message, shortened where it is very long."""
    if isinstance(value, int) and value.bit_length() > 4 * _SHOWN:
        return f"a number of some {int(value.bit_length() * math.log10(2)) + 1} digits"
    if isinstance(value, tuple):
        parts = [shown(x) for x in value[: _SHOWN // 4]]
        if len(parts) == len(value):
            return shortened(f"({', '.join(parts)}{',' * (len(parts) == 1)})")
        return f"({shortened(', '.join(parts[:3]))}, ... {len(value)} values)"
    return shortened(str(value))


def shortened(text: str, limit: int = _SHOWN) -> str:
    """Text without its middle, and its length in place of that, where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}... ({len(text)} characters) ...{text[-limit // 4 :]}"


@functools.cache
def _choices(settings: type) -> dict[str, tuple[Any, ...]]:
    """The values that each Literal field may have; None is among them where the field may be None."""
    hints = typing.get_type_hints(settings)
    values_by_name = {
        field.name: _values(hints[field.name]) for field in dataclasses.fields(settings)
    }
    return {name: values for name, values in values_by_name.items() if values}


def _values(kind: Any) -> tuple[Any, ...]:
    """Returns the values of a Literal, or of one beside None; nothing for other types."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    members = typing.get_args(kind) if union else (kind,)
    if not all(x is types.NoneType or typing.get_origin(x) is Literal for x in members):
        return ()
    return sum((typing.get_args(x) or (None,) for x in members), ())
