"""Escapes texts for Markdown pages and tables, so that any name is shown literally."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what spreadsheets take for one


def inert(text: object) -> str:
    """Returns the text on one line, without effect as table, link, picture, emphasis, code, formula or HTML."""
    line = " ".join(str(text).split())
    line = re.sub(r"[\\`*\[\]|~$]", r"\\\g<0>", line)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)  # between letters it is no emphasis
    # Bare addresses become links, too.
    line = re.sub(r":(?=//)|(?<=www)\.|@(?=[\w-]+\.)", r"\\\g<0>", line, flags=re.IGNORECASE)
    return "".join(_HTML.get(character, character) for character in line)


def item(text: object) -> str:
    """Returns a line of a list."""
    line = inert(text)
    return f"- \\{line}" if re.match(r"[#+\-=]|\d+[.)]\s", line) else f"- {line}"


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], cell: Callable[[object], str] = inert
) -> list[str]:
    """Returns the lines of a table. `cell`: how a value becomes a cell; `str` where values are Markdown already."""

    def line(values: Sequence[object]) -> str:
        return "| " + " | ".join(map(cell, values)) + " |"

    corner = line(head).replace("|  |", "| |", 1)  # a table of rows against columns has none
    return [corner, "|---" * len(head) + "|", *map(line, rows)]


def picture(name: str, file: str) -> str:
    """Returns a picture with its name. `file`: plain characters only, as from `outputs.file_names`."""
    return f"![{inert(name)}]({file})"


def code(lines: Iterable[str]) -> list[str]:
    """Returns a block of code, fenced by more backticks than the lines have."""
    lines = [" ".join(line.split()) for line in lines]
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *lines, fence]


def csv_cell(text: str) -> str:
    """Returns a name as a cell of CSV; an apostrophe quotes one that a spreadsheet would compute."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def millions(steps: int) -> str:
    """Returns a number of steps in millions, unless it has fewer than some hundredths of one."""
    return f"{steps / 1e6:.2f} M" if steps >= 1e4 else str(steps)


def thousands(speed: float) -> str:
    """Returns a speed in thousands, unless it has less than one."""
    return f"{speed / 1e3:.1f} k" if speed >= 1e3 else f"{speed:.0f}"
