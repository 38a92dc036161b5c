"""Reads stride's own JSON files and validates every field.

    SUMMARY = Table({"seed": Whole(0), "gait": Maybe(GAIT)}, {"commit": Maybe(TEXT)})
    summary = schema.read(folder / "summary.json", SUMMARY)

`read` parses and checks a file; `require` checks a value that is in memory already. Both raise ValueError with one line
that names file and field: "DIR/summary.json: per_seed[1].seed must be a whole number of at least 0, got 'x'".

Kinds: `Text`, `Whole`, `Number`, `Flag`, `Either`, `Maybe` (null is allowed), `ListOf` (elements of one kind), `Row` (a
list with a kind for each place), `Table` (named fields, others are allowed) and `TableOf` (any names). `NAME`, `TEXT`
and `SETTINGS` (a table of anything) are predefined. A custom kind has `words`, a name for its values, and `fault`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

LARGEST = 1e100  # of numbers: sums and squares of them are finite
DEEPEST = 64  # levels of nesting; files of ours have fewer than ten
_SHOWN = 60  # characters of a wrong value


class Kind(Protocol):
    """A kind of JSON value."""

    @property
    def words(self) -> str:
        """Names the values of the kind, as in "must be a whole number"."""

    def fault(self, value: Any, at: str) -> str | None:
        """Says in one line what is wrong with the value, which stands at field `at`; None where it fits."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text of at least `least` characters, blanks at its ends apart."""

    least: int = 0  # characters

    @property
    def words(self) -> str:
        return "a name" if self.least else "a text"

    def fault(self, value: Any, at: str) -> str | None:
        fits = isinstance(value, str) and len(value.strip()) >= self.least
        return None if fits and _storable(value) else wrong(self, value, at)


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or false."""

    words: str = "true or false"

    def fault(self, value: Any, at: str) -> str | None:
        return None if isinstance(value, bool) else wrong(self, value, at)


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number within bounds."""

    least: int | None = None
    most: int = 2**63 - 1

    @property
    def words(self) -> str:
        return "a whole number" + ("" if self.least is None else f" of at least {self.least}")

    def fault(self, value: Any, at: str) -> str | None:
        least = -self.most if self.least is None else self.least
        # A bool is an int to Python, and not to JSON.
        fits = type(value) is int and least <= value
        if fits and value > self.most:
            return f"{at} is too large: at most {self.most}"
        return None if fits else wrong(self, value, at)


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number of at most LARGEST in size."""

    least: float | None = None

    @property
    def words(self) -> str:
        return "a finite number" + ("" if self.least is None else f" of at least {self.least:g}")

    def fault(self, value: Any, at: str) -> str | None:
        fits = type(value) in (int, float) and abs(value) <= LARGEST  # NaN compares so, too
        if fits and self.least is not None:
            fits = value >= self.least
        return None if fits else wrong(self, value, at)


@dataclasses.dataclass(frozen=True)
class Maybe:
    """A value of a kind, or null."""

    kind: Kind

    @property
    def words(self) -> str:
        return f"{self.kind.words} or null"

    def fault(self, value: Any, at: str) -> str | None:
        return None if value is None else self.kind.fault(value, at)


@dataclasses.dataclass(frozen=True)
class Either:
    """A value of one of some kinds."""

    kinds: tuple[Kind, ...]

    @property
    def words(self) -> str:
        return " or ".join(kind.words for kind in self.kinds)

    def fault(self, value: Any, at: str) -> str | None:
        fits = any(kind.fault(value, at) is None for kind in self.kinds)
        return None if fits else wrong(self, value, at)


@dataclasses.dataclass(frozen=True)
class ListOf:
    """A list whose items are all of a kind."""

    kind: Kind
    least: int = 0  # entries
    words: str = "a list"

    def fault(self, value: Any, at: str) -> str | None:
        if not isinstance(value, list):
            return wrong(self, value, at)
        if len(value) < self.least:
            return f"{at} has {len(value)} entries, at least {self.least} are wanted"
        faults = (self.kind.fault(entry, f"{at}[{i}]") for i, entry in enumerate(value))
        return next((fault for fault in faults if fault), None)


@dataclasses.dataclass(frozen=True)
class Row:
    """A list with a kind for each place."""

    kinds: tuple[Kind, ...]

    @property
    def words(self) -> str:
        return f"a list of {len(self.kinds)}"

    def fault(self, value: Any, at: str) -> str | None:
        if not isinstance(value, list | tuple) or len(value) != len(self.kinds):
            return wrong(self, value, at)
        pairs = zip(self.kinds, value, strict=True)
        faults = (kind.fault(entry, f"{at}[{i}]") for i, (kind, entry) in enumerate(pairs))
        return next((fault for fault in faults if fault), None)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with fields of known kinds, those of `needed` always there."""

    needed: Mapping[str, Kind]
    optional: Mapping[str, Kind] = dataclasses.field(default_factory=dict)
    others: Kind | None = None  # of fields that are not named; None: anything
    words: str = "a table"

    def fault(self, value: Any, at: str) -> str | None:
        if not isinstance(value, dict):
            return wrong(self, value, at)
        lacking = sorted(name for name in self.needed if name not in value)
        if lacking:
            return f"{at} lacks {', '.join(lacking)}".strip()
        known = {**self.needed, **self.optional}
        faults = (
            kind.fault(value[name], f"{at}.{name}" if at else name)
            for name, kind in known.items()
            if name in value
        )
        fault = next((fault for fault in faults if fault), None)
        if fault or self.others is None:
            return fault
        rest = {name: entry for name, entry in value.items() if name not in known}
        return TableOf(self.others).fault(rest, at)


@dataclasses.dataclass(frozen=True)
class TableOf:
    """A table with any names, whose values are all of a kind."""

    kind: Kind
    words: str = "a table"

    def fault(self, value: Any, at: str) -> str | None:
        if not isinstance(value, dict):
            return wrong(self, value, at)
        for name, entry in value.items():
            shown = name if re.fullmatch(r"[\w/.-]{1,60}", name) else repr(name)[:_SHOWN]
            if fault := self.kind.fault(entry, f"{at}.{shown}" if at else shown):
                return fault
        return None


@dataclasses.dataclass(frozen=True)
class Anything:
    """Any value of JSON that can be written again."""

    words: str = "any value"

    def fault(self, value: Any, at: str) -> str | None:
        return None


NAME, TEXT = Text(1), Text()
SETTINGS = TableOf(Anything(), "a table of settings")


def read(path: Path, kind: Kind) -> Any:
    """Returns the content of a JSON file of a kind. Raises FileNotFoundError where there is no file, so that the caller
    can explain it; ValueError with one line, which names the file, for everything else."""
    value = parse(path)
    require(value, kind, path)
    return value


def require(value: Any, kind: Kind, where: Path | str) -> None:
    """Raises ValueError with one line that names `where` the value is from, and the field."""
    fault = kind.fault(value, "")
    if fault is not None:
        # A fault of the whole file goes on in the same sentence.
        raise ValueError(
            f"{where} {fault}" if fault[:6] in ("lacks ", "must b") else f"{where}: {fault}"
        )


def parse(path: Path) -> Any:
    """Returns the content of any JSON file. Raises as `read` does; also for endless nesting, numbers of thousands of
    digits, and texts that cannot be written again."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except UnicodeDecodeError:
        raise ValueError(f"{path} cannot be read: it is not text in UTF-8") from None
    except RecursionError:
        raise ValueError(f"{path} cannot be read: it is nested too deeply") from None
    except (OSError, ValueError) as error:  # no JSON, or a number of thousands of digits
        raise ValueError(f"{path} cannot be read: {error}") from None
    if fault := _unfit(value):
        raise ValueError(f"{path} cannot be read: {fault}")
    return value


def wrong(kind: Kind, value: Any, at: str) -> str:
    """Says that `value`, at field `at`, is not of the kind."""
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return f"{at} must be {kind.words}, got {shown}".strip()


def _unfit(value: Any) -> str | None:
    """Returns the reason why a value could not be written again, or None; its levels are walked without recursion."""
    level = [value]
    for _ in range(DEEPEST):
        names = [name for x in level if isinstance(x, dict) for name in x]
        if not all(_storable(x) for x in (*names, *level) if isinstance(x, str)):
            return "it holds half of a character"
        level = [
            entry
            for x in level
            if isinstance(x, dict | list)
            for entry in (x.values() if isinstance(x, dict) else x)
        ]
        if not level:
            return None
    return "it is nested too deeply"


def _storable(text: str) -> bool:
    """Tells that UTF-8 can hold the text: JSON can name halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
