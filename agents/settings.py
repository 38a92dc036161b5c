"""What every algorithm's settings can check of themselves."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of the dataclasses of settings. They raise ValueError, in one line, for impossible values."""

    def __post_init__(self):
        """The end of the chain: each class checks its own fields and hands on."""

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

    def require_one_of(self, name: str, *choices: str) -> None:
        value = getattr(self, name)
        known = " or ".join(f'"{choice}"' for choice in choices)
        require(value in choices, f"{name} must be {known}, got {value!r}")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
