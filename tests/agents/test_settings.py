"""What holds for the settings of all learners."""

import dataclasses
import math
from typing import Literal

import pytest

from agents import ALGORITHMS, TOKEN_ALGORITHMS
from agents.off_policy_settings import OffPolicyConfig
from agents.on_policy import OnPolicyConfig
from agents.settings import MOST_LAYERS, Settings, shortened, shown
from agents.tokens.settings import TokenConfig

CONFIGS = {
    f"{domain} {name}": algorithm.Config
    for domain, table in (("control", ALGORITHMS), ("tokens", TOKEN_ALGORITHMS))
    for name, algorithm in table.items()
}


@dataclasses.dataclass(frozen=True)
class Example(Settings):
    rate: float = 1.0
    count: int = 1
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
        ({"rate": 1e39}, r"rate must be at most 3.4e\+38 in size, .*, got 1e\+39"),
        ({"rate": -1e300}, "rate must be at most .*, got -1e.300"),
        ({"rate": 1e-60}, "rate must be 0 or at least 1.2e-38 in size, .*, got 1e-60"),
        ({"rates": (1e300,)}, r"rates must be at most .*, got \(1e\+300,\)"),
        ({"count": 2**31}, "count must be below 2147483648, got 2147483648"),
        ({"count": -(10**20)}, "count must be above -2147483648, got -100000000000000000000"),
        (
            {"count": 1 << 16_000},
            "count must be below 2147483648, got a number of some 4817 digits",
        ),
        ({"kind": "c" * 500}, "kind must be .*, got 'ccc.{36}... .502 characters. ...c{19}'"),
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


IMPOSSIBLE = {
    "2^31": 2**31,
    "2^63": 2**63,
    "10^20": 10**20,
    "10^5000": 10**5000,
    "1e300": 1e300,
    "-1e300": -1e300,
    "1e-300": 1e-300,
}


@pytest.mark.parametrize("value", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
@pytest.mark.parametrize("name", CONFIGS)
def test_what_no_program_can_hold_is_refused_by_every_setting(name, value, unchecked):
    config = CONFIGS[name]()
    for field in dataclasses.fields(config):
        default = getattr(config, field.name)
        if isinstance(default, bool | str):
            continue
        number = (value,) if isinstance(default, tuple) else value
        with pytest.raises(ValueError, match=f"^{field.name} must be ") as refused:
            dataclasses.replace(config, **{field.name: number})
        message = str(refused.value)
        assert "got " in message
        assert len(message) < 200
        assert "\n" not in message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: OnPolicyConfig(num_envs=2**20, num_steps=2**12),
            "num_envs x num_steps must be below 2147483648, got 4294967296",
        ),
        (
            lambda: OffPolicyConfig(num_envs=2**20, num_steps=2**12),
            "num_envs x num_steps must be below",
        ),
        (lambda: OffPolicyConfig(batch_size=2**20, n_step=2**12), "batch_size x n_step must be"),
        (
            lambda: OffPolicyConfig(update_ratio=1e30),
            "update_ratio x total_steps, the gradient steps, must be below 2147483648",
        ),
        (lambda: OffPolicyConfig(update_ratio=4096.0), "update_ratio x total_steps"),
        (lambda: TokenConfig(layers=1_000_000), "layers must be at most 100, got 1000000"),
        (
            lambda: OnPolicyConfig(hidden_sizes=(8,) * 1000),
            "hidden_sizes must be of at most 100 layers, got 1000",
        ),
        (
            lambda: OffPolicyConfig(hidden_sizes=(-1,) * 1000),
            r"hidden_sizes must be positive, got \(-1, -1, -1, ... 1000 values\)",
        ),
    ],
)
def test_sizes_that_cannot_be(make, message, unchecked):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_many_layers_are_not_too_many():
    OnPolicyConfig(hidden_sizes=(8,) * MOST_LAYERS)


def test_long_values_are_shortened():
    assert shortened("x" * 80) == "x" * 80
    assert len(shortened("x" * 10**6)) < 110
    assert shown(10**10_000) == "a number of some 10001 digits"
    assert shown((1, 2)) == "(1, 2)"
