"""What holds for the settings of all learners."""

import dataclasses
import math
from typing import Literal

import pytest

from agents import ALGORITHMS, TOKEN_ALGORITHMS
from agents.settings import Settings

CONFIGS = {
    f"{domain} {name}": algorithm.Config
    for domain, table in (("control", ALGORITHMS), ("tokens", TOKEN_ALGORITHMS))
    for name, algorithm in table.items()
}


@dataclasses.dataclass(frozen=True)
class Example(Settings):
    rate: float = 1.0
    rates: tuple[float, ...] = (1.0, 2.0)
    limit: float | None = None
    kind: Literal["a", "b"] = "a"
    perhaps: Literal["a", "b"] | None = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": math.inf}, "rate must be finite, got inf"),
        ({"rates": (1.0, math.nan)}, r"rates must be finite, got \(1.0, nan\)"),
        ({"limit": -math.inf}, "limit must be finite, got -inf"),
        ({"kind": "c"}, """kind must be "a" or "b", got 'c'"""),
        ({"kind": None}, """kind must be "a" or "b", got None"""),
        ({"perhaps": "c"}, """perhaps must be "a" or "b" or None, got 'c'"""),
    ],
)
def test_what_no_settings_may_be(change, message, unchecked):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Example(**change)


def test_whole_numbers_and_none_are_fine():
    Example(rate=1, rates=(), perhaps="b")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_every_learner_is_checked(name, unchecked):
    """Numbers for not being finite, choices for being known."""
    config = CONFIGS[name]()
    assert isinstance(config, Settings)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, str):
            with pytest.raises(ValueError, match=f"^{field.name} must be .* got 'some'$"):
                dataclasses.replace(config, **{field.name: "some"})
        elif not isinstance(value, bool):
            number = math.nan if not isinstance(value, tuple) else (math.nan,)
            with pytest.raises(ValueError, match=f"^{field.name} must be finite, got"):
                dataclasses.replace(config, **{field.name: number})
