"""Turns the project's docstrings, which are plain text, into reStructuredText for autodoc.

Docstrings here hold formulas, indented tables and names in single backticks, and no markup. Indented blocks and
tables become literal blocks, names in backticks become code, sections (Args, Returns, Raises) become lists, and what
reStructuredText would take for markup is escaped.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_SECTIONS = ("Args:", "Returns:", "Raises:")
_ENTRY = re.compile(r"  (\*{0,2}\w[\w, ]*): (.*)")  # of a section: a name and what it is


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", convert, priority=100)
    return {"parallel_read_safe": True}


def convert(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replaces the lines of a docstring by reStructuredText, in place."""
    lines[:] = to_rst(lines)


def to_rst(lines: list[str]) -> list[str]:
    """Plain text as reStructuredText."""
    result: list[str] = []
    section, literal = "", False
    for line in lines:
        if not line.strip():
            result.append("")
            continue
        if not line.startswith(" "):
            section = line.rstrip(":") if line.strip() in _SECTIONS else ""
            if section:
                result += ["", f"**{section}**", ""]
                literal = False
                continue
        if section:
            result += _entry(line)
            continue
        is_block = line.startswith((" ", "|", "@"))
        if is_block != literal:
            result += ["", "::", ""] if is_block else [""]
        literal = is_block
        result.append(f"    {line}" if is_block else _escape(line))
    return result


def _entry(line: str) -> list[str]:
    """A line of a section: the first of an entry, which has a name, or one that goes on."""
    found = _ENTRY.fullmatch(line)
    if found:
        return ["", f"- ``{found[1].strip()}``: {_escape(found[2])}"]
    return [f"  {_escape(line.strip())}"]


def _escape(line: str) -> str:
    """A line whose names in backticks are code, and in which nothing else is markup."""
    parts = re.split(r"(`[^`]+`)", line)
    text = ""
    for i, part in enumerate(parts):
        if i % 2:
            # Markup must not touch a word: "\\ " is a space that is not printed.
            glue = "\\ " if text[-1:].isalnum() else ""
            end = "\\ " if parts[i + 1][:1].isalnum() else ""
            text += f"{glue}``{part.strip('`')}``{end}"
        else:
            text += _escape_text(part)
    return text


def _escape_text(text: str) -> str:
    text = re.sub(r"([*|`\\])", r"\\\1", text)
    return re.sub(r"_(?=\W|$)", r"\\_", text)
