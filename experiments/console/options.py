"""Flags for the options of an environment: the parameters of its factory, a function or a dataclass.

A parameter's annotation is the type of the flag. Its help text is the string or the comment beside the field, or its
line under `Args:` in the docstring.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import math
import textwrap
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import docstring_parser
import tyro

from envs.options import RenamedOptions
from envs.tokens import TokenFactory, make_tokens

_SIMPLE = (bool, int, float, str)
_SKIPPED = ("engine",)  # objects that are built, not given
# What these say in an environment that says nothing of them.
_KNOWN = {
    "backend": "physics engine: auto, native (C threads) or mjx (JAX, for GPUs)",
    "max_episode_steps": "steps after which an episode is cut off",
}


@dataclasses.dataclass(frozen=True)
class Option:
    """A parameter of an environment's factory that a command line can give."""

    name: str  # of the parameter
    kind: Any  # a type that tyro can read from a command line
    default: Any  # tyro.MISSING: has to be given
    help: str


@dataclasses.dataclass(frozen=True)
class Flags:
    """An environment's options as a dataclass for tyro, and back."""

    type: type  # a dataclass with a field for each option
    names: dict[
        str, str
    ]  # field: parameter; they differ where another flag has the parameter's name
    default: Any  # an instance of `type`

    def kwargs(self, given: Any) -> dict[str, Any]:
        """Returns the factory's keyword arguments, from an instance of `type`. Defaults are among them, for the record;
        but JSON has no infinities. Raises ValueError for one that was given."""
        kept = {}
        for field, name in self.names.items():
            value = getattr(given, field)
            if not lasting(value):
                if value == getattr(self.default, field):
                    continue
                raise ValueError(f"--{field.replace('_', '-')} must be finite, got {value}")
            kept[name] = value
        return kept

    @property
    def renamed(self) -> dict[str, str]:
        """Flags that differ from their option's name: field to option."""
        return {field: name for field, name in self.names.items() if field != name}


def flags(factory: Callable, taken: Iterable[str], stored: dict[str, Any] | None = None) -> Flags:
    """Returns the options of `factory` as flags. An option whose name is `taken` gets the prefix `env_`. `stored`
    values, of a run to be resumed, come before the factory's own defaults."""
    taken, stored = set(taken), stored or {}
    names, fields, defaults = {}, [], {}
    for option in options(factory):
        field = free_name(option.name, taken)
        taken.add(field)
        names[field] = option.name
        defaults[field] = stored.get(option.name, option.default)
        kind = Annotated[option.kind, tyro.conf.arg(help=option.help)]
        fields.append((field, kind, dataclasses.field(default=defaults[field])))
    made = dataclasses.make_dataclass("EnvFlags", fields, frozen=True)
    return Flags(made, names, made(**defaults))


def free_name(name: str, taken: Iterable[str]) -> str:
    """Returns the name of an option's flag: its own, with `env_` in front where that is `taken`."""
    while name in taken:
        name = f"env_{name}"
    return name


def options(factory: Callable) -> list[Option]:
    """Returns the parameters of `factory` that a command line can give."""
    if isinstance(factory, TokenFactory):
        return _of_tokens(factory)
    if isinstance(factory, RenamedOptions):
        return [
            dataclasses.replace(option, name=factory.names.get(option.name, option.name))
            for option in options(factory.environment)
        ]
    parameters = inspect.signature(factory).parameters.values()
    while isinstance(factory, functools.partial):
        factory = factory.func
    annotations, helps = _annotations(factory), _helps(factory)
    found = []
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY) or p.name in _SKIPPED:
            continue
        default = tyro.MISSING if p.default is p.empty else p.default
        kind = _kind(annotations.get(p.name, Any), default)
        if kind is not None:
            text = helps.get(p.name) or _KNOWN.get(p.name, "")
            default = float(default) if kind is float and type(default) is int else default
            found.append(Option(p.name, kind, default, text))
    return found


def _of_tokens(factory: TokenFactory) -> list[Option]:
    """Returns the options of the task, with those that its name implies as defaults, then those of its environment."""
    own = [
        dataclasses.replace(option, default=factory.fixed.get(option.name, option.default))
        for option in options(factory.task)
    ]
    taken = {"task"} | {option.name for option in own}
    return own + [option for option in options(make_tokens) if option.name not in taken]


def _kind(annotation: Any, default: Any) -> Any:
    """Returns the type of the flag; None where there can be none."""
    if not _flaggable(annotation):
        return type(default) if type(default) in _SIMPLE else None
    if default is None and not _accepts_none(annotation):
        return annotation | None
    if default is not tyro.MISSING and default is not None and not _holds(annotation, default):
        return type(default) if type(default) in _SIMPLE else None
    return annotation


def _flaggable(kind: Any) -> bool:
    if kind in _SIMPLE:
        return True
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return all(type(x) in _SIMPLE for x in parts)
    if origin is tuple:
        return bool(parts) and all(x is Ellipsis or x in _SIMPLE for x in parts)
    if origin in (typing.Union, types.UnionType):
        return all(x is type(None) or _flaggable(x) for x in parts)
    return False


def _accepts_none(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


def _holds(kind: Any, default: Any) -> bool:
    """Tells that a default is of the annotated type; an integer is a float."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return default in parts
    if origin is tuple:
        return type(default) is tuple
    if origin in (typing.Union, types.UnionType):
        return any(_holds(x, default) for x in parts)
    return type(default) is kind or (kind is float and type(default) is int)


def _annotations(factory: Callable) -> dict[str, Any]:
    """Returns annotations by name; those that cannot be resolved are left out."""
    owners = factory.__mro__[::-1] if isinstance(factory, type) else (factory,)
    annotations: dict[str, Any] = {}
    for owner in owners:
        scope = getattr(inspect.getmodule(owner), "__dict__", {})
        for name, annotation in getattr(owner, "__annotations__", {}).items():
            try:
                annotations[name] = (
                    eval(annotation, scope) if type(annotation) is str else annotation
                )
            except Exception:
                annotations.pop(name, None)
    return annotations


def _helps(factory: Callable) -> dict[str, str]:
    """Returns the source's help for each parameter, in one line."""
    owners = factory.__mro__[::-1] if isinstance(factory, type) else (factory,)
    helps: dict[str, str] = {}
    for owner in owners:
        for parameter in docstring_parser.parse(inspect.getdoc(owner) or "").params:
            helps[parameter.arg_name] = " ".join((parameter.description or "").split())
        if isinstance(owner, type) and dataclasses.is_dataclass(owner):
            helps |= _beside_fields(owner)
    return helps


def _beside_fields(owner: type) -> dict[str, str]:
    """Returns the string after each field, or the comment beside it, or above it."""
    try:
        source = textwrap.dedent(inspect.getsource(owner))
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    except (OSError, TypeError, SyntaxError):
        return {}
    lines, helps = source.splitlines(), {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above = itertools.takewhile(_is_comment, reversed(lines[: node.lineno - 1]))
        rest = lines[(node.end_lineno or 1) - 1].encode()[node.end_col_offset :].decode().strip()
        comments = [rest] if _is_comment(rest) else reversed(list(above))
        text = " ".join(comment.strip().strip("# ") for comment in comments)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
        if text:
            helps[node.target.id] = text
    return helps


def _is_comment(line: str) -> bool:
    return line.strip().startswith("#")


def lasting(value: Any) -> bool:
    """Tells that JSON can keep a value."""
    values = value if isinstance(value, tuple) else (value,)
    return all(not isinstance(x, float) or math.isfinite(x) for x in values)
