"""Python's types as kinds of JSON: what a field of config.json must hold, from the annotation of the setting."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from experiments.console import options
from experiments.run import schema
from experiments.run.schema import Anything, Either, Flag, Kind, ListOf, Maybe, Number, Row, Whole

_SIMPLE: dict[Any, Kind] = {bool: Flag(), int: Whole(), float: Number(), str: schema.TEXT}


@dataclasses.dataclass(frozen=True)
class Choice:
    """A kind of schema: one of a few values."""

    values: tuple[Any, ...]

    @property
    def words(self) -> str:
        return " or ".join(repr(x) for x in self.values)

    def fault(self, value: Any, at: str) -> str | None:
        fits = any(type(value) is type(x) and value == x for x in self.values)
        return None if fits else schema.wrong(self, value, at)


def kind_of(annotation: Any) -> Kind:
    """Returns the kind of JSON that holds a value of a type; Anything for types that JSON has no name for."""
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return Choice(parts)
    if origin is tuple:
        if parts[-1:] == (Ellipsis,):
            return ListOf(kind_of(parts[0]))
        return Row(tuple(map(kind_of, parts)))
    if origin in (typing.Union, types.UnionType):
        kinds = tuple(kind_of(x) for x in parts if x is not type(None))
        kind = kinds[0] if len(kinds) == 1 else Either(kinds)
        return Maybe(kind) if type(None) in parts else kind
    return Anything()


def require_settings(config: dict[str, Any], config_type: type, file: Path) -> None:
    """Checks the table `config` of a config.json: every setting is there, and of its kind.

    Raises ValueError with one line that names file and field.
    """
    hints = typing.get_type_hints(config_type)
    kinds = {field.name: kind_of(hints[field.name]) for field in dataclasses.fields(config_type)}
    for name in config:
        if name not in kinds:
            raise ValueError(f"{file}: config.{name} is no setting of this version")
    for field in dataclasses.fields(config_type):
        if field.name not in config:
            raise ValueError(f"{file} lacks config.{field.name}{_default_is(field.default)}")
    schema.require({"config": config}, schema.Table({"config": schema.Table(kinds)}), file)


def require_options(kwargs: dict[str, Any], factory: Callable[..., Any], file: Path) -> list[str]:
    """Checks the table `env_kwargs` of a config.json against what the environment's factory takes, likewise.

    Returns a remark on each option that the file does not name: the environment's own default holds.
    """
    known = options.options(factory)
    kinds = {option.name: kind_of(option.kind) for option in known if option.name in kwargs}
    schema.require({"env_kwargs": kwargs}, schema.Table({"env_kwargs": schema.Table(kinds)}), file)
    return [
        f"{file} lacks env_kwargs.{option.name}{_default_is(option.default)}"
        for option in known
        # JSON has no infinities: such defaults are never named.
        if option.name not in kwargs and options.lasting(option.default)
    ]


def _default_is(default: Any) -> str:
    """Returns a hint for files of an older version, which had no such setting."""
    given = default is None or isinstance(default, bool | int | float | str | tuple)
    return f": what this version does without it is {default!r}" if given else ""
