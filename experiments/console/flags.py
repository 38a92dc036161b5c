"""Parses a command line into a dataclass, and reports errors in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from agents.settings import shortened
from experiments.console.suggest import flag_suggestion, quoted

# A field cannot have a keyword's name.
_KEYWORDS = {"imports": "import"}
ImportFlag = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(name=_KEYWORDS["imports"], metavar="FILE.py"),
]


def split_words(argv: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yields the words of a command line with None, and the flags of these names (`--model`) with their values, ""
    where there is none. For flags that are taken off before the others are known."""
    words = iter(argv)
    for word in words:
        name, given, value = word.partition("=")
        if name in names:
            yield name, value if given else next(words, "")
        else:
            yield word, None


def parse_flags(arguments: Any, argv: Sequence[str], default: Any, description: str) -> Any:
    """Reads a command line with `tyro.cli`. Raises ValueError with one line in place of tyro's boxes; SystemExit(0) for
    `--help`."""
    errors = io.StringIO()
    program = Path(sys.argv[0])
    is_package = program.stem == "__main__"
    width = os.environ.get("COLUMNS")
    try:
        with contextlib.redirect_stderr(errors):
            if not {"-h", "--help"} & set(argv):
                os.environ["COLUMNS"] = "1000"  # an error in a box is not to be wrapped
            parsed, unknown = tyro.cli(
                arguments,
                args=list(argv),
                default=default,
                prog=f"python -m experiments.{program.parent.name if is_package else program.stem}",
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
                return_unknown_args=True,
            )
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise ValueError(_unboxed(errors.getvalue())) from None
    finally:
        os.environ.pop("COLUMNS", None) if width is None else os.environ.update(COLUMNS=width)
    if unknown:
        raise ValueError(_unknown(unknown[0].split("=")[0], arguments))
    return parsed


def dashed(name: str) -> str:
    """Returns the name of a field's flag, without its hyphens in front."""
    return _KEYWORDS.get(name, name.replace("_", "-"))


def _unknown(flag: str, arguments: type) -> str:
    if not flag.startswith("-"):
        return f"unexpected argument {quoted(flag)}"
    known = flag_suggestion(dashed(flag), _flag_names(arguments))
    return f"unknown flag {shortened(flag)}: {known}"


def _flag_names(arguments: type) -> list[str]:
    """Returns the flags of a dataclass, and of the dataclasses in it."""
    names, kinds = [], typing.get_type_hints(arguments)
    for name in (field.name for field in dataclasses.fields(arguments)):
        kind = kinds[name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            names += _flag_names(kind)
            continue
        flag = dashed(name)
        names += [f"--{flag}", f"--no-{flag}"] if kind is bool else [f"--{flag}"]
    return names


def _unboxed(text: str) -> str:
    """Returns the message in tyro's output: a box, or rules of hyphens where the terminal has no box to draw with."""
    sections: list[list[str]] = [[]]
    for line in text.splitlines():
        inside = line.strip().strip("│").strip()
        if line.startswith(("╭", "╰")) or set(inside) <= {"─", "-"}:
            sections.append([])
        else:
            sections[-1].append(inside)
    message = next((" ".join(lines) for lines in sections[1:] if lines), "")
    message = re.sub(r"^Error parsing (\w+: )?", "", re.sub(r"\[/?bold\]", "", message))
    for pattern, plain in _PLAINLY.items():
        message = re.sub(pattern, plain, message)
    return message or "the command line cannot be read"


def _not_whole(match: re.Match[str]) -> str:
    message = f"{shortened(match[1])} is not a whole number"
    try:
        value = float(match[1].strip("'"))
    except ValueError:
        return message
    is_short = value.is_integer() and abs(value) < 1e15
    return f"{message} in digits: write {value:.0f}" if is_short else message


# What Python says of a value that is none, and what that means.
_PLAINLY: dict[str, Any] = {
    r"invalid literal for int\(\) with base 10: ('.*')": _not_whole,
    r"Exceeds the limit \(\d+ digits\) for integer string conversion: value has (\d+) digits.*": (
        r"a number of \1 digits is beyond all bounds"
    ),
    r"could not convert string to float: ('.*')": lambda found: (
        f"{shortened(found[1])} is not a number"
    ),
    r"no type matching \{None\}\|\{(.*)\} could be instantiated from \[(.*)\]\.?": r"wanted None or \1, got \2",
    r"Could not find valid parse for arguments: \[(.*)\]": r"\1 is not what it takes; see --help",
}
