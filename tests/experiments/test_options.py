import functools
import math
from typing import Any, Literal

import flax.struct
import jax
import pytest

import envs
from experiments.console import options


@flax.struct.dataclass
class Base:
    engine: Any = None
    backend: Literal["auto", "native"] = "auto"
    steps: int = 5  # of the base


@flax.struct.dataclass
class Mine(Base):
    """A robot.

    Attributes:
      reach: how far it gets
    """

    weight: Any = 1.0  # per metre
    reach: float = 2
    speed: "float | None" = None
    """m/s; None: any"""
    pair: tuple[float, float] = (0.5, 1.0)
    table: jax.Array | None = None
    callback: Any = print
    # metres,
    # or without end
    limit: float = math.inf
    count: int = None  # wrongly annotated


def table(factory):
    return {o.name: o for o in options.options(factory)}


def test_fields_become_options_with_their_types_and_what_is_said_of_them():
    found = table(Mine)
    assert list(found) == [
        "backend",
        "steps",
        "weight",
        "reach",
        "speed",
        "pair",
        "limit",
        "count",
    ]
    assert found["weight"].kind is float
    assert found["reach"].default == 2.0
    assert found["count"].kind == int | None
    helps = {name: o.help for name, o in found.items()}
    assert helps["steps"] == "of the base"
    assert helps["weight"] == "per metre"
    assert helps["speed"] == "m/s; None: any"
    assert helps["reach"] == "how far it gets"
    assert helps["limit"] == "metres, or without end"
    assert helps["backend"].startswith("physics engine")


def test_parameters_of_a_function_with_its_first_given():
    def make(name, size: int, *, tall: bool = False, **others):
        """Makes it.

        Args:
          size: in
            cells
        """

    found = table(functools.partial(make, "x"))
    assert [(o.name, o.kind, o.help) for o in found.values()] == [
        ("size", int, "in cells"),
        ("tall", bool, ""),
    ]
    assert found["tall"].default is False


def test_a_name_that_is_taken_gets_a_prefix():
    flags = options.flags(Mine, {"reach", "seed"}, {"steps": 7})
    assert flags.renamed == {"env_reach": "reach"}
    assert flags.default.steps == 7
    assert flags.kwargs(flags.type(env_reach=9.0))["reach"] == 9.0


def test_what_json_cannot_hold_is_left_out_or_refused():
    flags = options.flags(Mine, ())
    assert "limit" not in flags.kwargs(flags.default)
    with pytest.raises(ValueError, match="--reach must be finite, got inf"):
        flags.kwargs(flags.type(reach=math.inf))


@pytest.mark.parametrize("name", envs.names())
def test_every_environment_can_be_made_from_its_flags(name):
    flags = options.flags(envs.factory(name), ())
    envs.factory(name)(**flags.kwargs(flags.default))


def test_the_walkers_options_all_say_what_they_are():
    found = table(envs.factory("walker"))
    assert {"torque_weight", "torque_weight_ramp", "observation", "backend"} <= found.keys()
    assert all(o.help for o in found.values())
