"""A study of many parts: cells that are computed and kept apart, figures of them, and one page.

    STUDY = Study("alignment", ...)
    run(STUDY, ["1", "6"], folder, quick=False, fresh=False, say=print)

One file holds the numbers of all cells, and each names its command, commit and machine. A run that was stopped goes on
where it was.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.console import outputs
from experiments.console.suggest import suggestion
from experiments.pages import markdown
from experiments.run import folders, schema
from experiments.run.provenance import provenance, short_commit
from experiments.studies.numbers import compact, rounded

FILE = "numbers.json"
Say = Callable[[str], None]
Cell = Callable[[Any, Say], dict[str, Any]]  # (sizes, say) to the cell's numbers
Records = dict[str, dict[str, Any]]  # "experiment/cell": what `_CELL` says
# Experiment, cell: its numbers as read back from JSON, and "sizes", those of the study that it depends on.
Numbers = dict[str, dict[str, Any]]
_CELL = schema.Table(
    {
        "command": schema.TEXT,
        "sizes": schema.SETTINGS,
        "seconds": schema.Number(0.0),
        "commit": schema.Maybe(schema.TEXT),
        "machine": schema.SETTINGS,
        "numbers": schema.SETTINGS,
    }
)
_FILE = schema.Table({"study": schema.TEXT, "cells": schema.TableOf(_CELL)})


class Experiment(NamedTuple):
    """Cells by name, in the order in which they are computed."""

    name: str
    cells: Mapping[str, Cell]
    sizes: tuple[str, ...]
    """fields of the study's sizes, beside the common ones, whose change makes the numbers obsolete"""


class Figure(NamedTuple):
    """A section of the page."""

    name: str
    """on the command line: a number, or a word"""
    file: str
    """of the picture, without suffix"""
    title: str
    experiments: tuple[Experiment, ...]
    """those whose numbers it shows"""
    draw: Callable[[Numbers, Path], None] | None
    """draws the picture; None: there is none"""
    words: Callable[[Numbers], list[str]]
    """the lines below the picture"""


@dataclasses.dataclass(frozen=True)
class Study:
    """A study as a value."""

    name: str
    """on the command line"""
    title: str
    """first line of the page"""
    figures: tuple[Figure, ...]
    """in the order of the page"""
    order: tuple[str, ...]
    """names of the figures in the order in which they are computed: what shows most comes first"""
    full: Any
    """a frozen dataclass: the sizes"""
    quick: Any
    """the same, tiny"""
    common: tuple[str, ...]
    """fields of the sizes that every cell depends on"""
    introduction: Callable[[Mapping[str, Any]], list[str]]
    """the sizes of a cell to the first lines of the page"""

    @property
    def command(self) -> str:
        """The command that computes everything."""
        return f"python -m experiments.studies {self.name}"

    @property
    def beginning(self) -> str:
        """The first lines of the file of numbers."""
        return f'{{\n "study": "{self.name}"'

    @property
    def own(self) -> dict[str, Callable[[str], bool]]:
        """The texts that the study writes, with what knows them again."""

        def is_page(text: str) -> bool:
            return text.startswith(f"# {self.title}\n") and self.command in text

        return {outputs.PAGE: is_page, FILE: lambda text: text.startswith(self.beginning)}


def chosen(study: Study, names: Sequence[str]) -> list[Figure]:
    """Returns the figures of these names, or all, in the order in which they are computed.

    Raises ValueError with one line for a name that is none.
    """
    known = {figure.name: figure for figure in study.figures}
    for name in names:
        if name not in known:
            raise ValueError(f"--figures {name} is none: {suggestion(name, known)}")
    return [known[name] for name in study.order if not names or name in names]


def run(
    study: Study, names: Sequence[str], out: Path, *, quick: bool, fresh: bool, say: Say
) -> None:
    """Computes the cells that some figures need and `out` lacks, then draws all figures and writes the page.

    After each figure everything that is there is written. Raises ValueError in one line for bad input, and where `out`
    has files of somebody else.
    """
    wanted = chosen(study, names)
    sizes = study.quick if quick else study.full
    pictures = [f"{figure.file}.png" for figure in study.figures if figure.draw is not None]
    outputs.check(out, {**study.own, **outputs.figures(out, pictures)})
    stored(out)
    done: set[str] = set()
    for figure in wanted:
        changed: set[str] = set()
        for experiment in figure.experiments:
            if experiment.name in done:
                continue
            done.add(experiment.name)
            command = f"{study.command} --figures {figure.name}" + (" --quick" if quick else "")
            if compute(study, experiment, sizes, out, say, command=command, fresh=fresh):
                changed.add(experiment.name)
        drawn = [
            x for x in study.figures if x is figure or changed & {e.name for e in x.experiments}
        ]
        publish(study, out, drawn)
        say(f"figure {figure.name} is in {out}")


def publish(study: Study, out: Path, drawn: Sequence[Figure] | None = None) -> None:
    """Writes the page of all numbers in `out`, and draws figures: those of `drawn` (None: all), and those without a
    picture."""
    records = stored(out)
    with outputs.staged(out, study.own) as fresh:
        outputs.write(fresh / outputs.PAGE, page(study, records))
        for figure in study.figures:
            numbers = ready(figure, records)
            if numbers is None or figure.draw is None:
                continue
            picture = f"{figure.file}.png"
            if drawn is None or figure in drawn or not (out / picture).exists():
                figure.draw(numbers, fresh / picture)


def stored(out: Path) -> Records:
    """Returns the cells whose numbers are in `out`. Raises ValueError with one line where the file is damaged."""
    try:
        return schema.read(out / FILE, _FILE)["cells"]
    except FileNotFoundError:
        return {}


def save(study: Study, out: Path, records: Records) -> None:
    """Writes all cells, sorted by name; never half a file. Raises OSError where that fails."""
    out.mkdir(parents=True, exist_ok=True)
    content = {"study": study.name, "cells": dict(sorted(records.items()))}
    with folders.naming(out / FILE):
        outputs.write(out / FILE, compact(content))


def compute(
    study: Study,
    experiment: Experiment,
    sizes: Any,
    out: Path,
    say: Say,
    *,
    command: str,
    fresh: bool = False,
) -> bool:
    """Computes the cells of an experiment that are not in `out` yet, and writes each as soon as it is there.

    Returns True where there was one to compute.

    Args:
      fresh: also those that are there; without it those of other sizes are computed anew.
    """
    changed = False
    names = (*study.common, *experiment.sizes)
    settings = folders.plain({name: getattr(sizes, name) for name in names})
    for name, cell in experiment.cells.items():
        key = f"{experiment.name}/{name}"
        old = stored(out).get(key)
        if old is not None and _same(old["sizes"], settings) and not fresh:
            say(f"{key}: kept, of commit {old['commit']}")
            continue
        say(f"{key}: begins")
        begun = time.monotonic()
        numbers = cell(sizes, lambda text, key=key: say(f"{key}: {text}"))  # type: ignore[misc]
        record = {
            "command": command,
            "seconds": time.monotonic() - begun,
            **provenance(),
            "sizes": settings,
            "numbers": rounded(numbers),
        }
        save(study, out, {**stored(out), key: folders.plain(record)})
        changed = True
    return changed


def ready(figure: Figure, records: Records) -> Numbers | None:
    """Returns the numbers that a figure shows; None where some are missing."""
    found = {x.name: _numbers_of(records, x) for x in figure.experiments}
    return None if None in found.values() else found  # type: ignore[return-value]


def page(study: Study, records: Records) -> str:
    """Returns the page with every figure whose numbers are there."""
    lines = [f"# {study.title}", ""]
    if records:
        lines += study.introduction(next(iter(records.values()))["sizes"])
    for figure in study.figures:
        numbers = ready(figure, records)
        if numbers is None:
            continue
        lines += ["", f"## {figure.title}", ""]
        if figure.draw is not None:
            lines += [f"![{figure.title}]({figure.file}.png)", ""]
        lines += figure.words(numbers)
        lines += ["", *_origin(study, figure, records)]
    return "\n".join(lines) + "\n"


def _same(old: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    return all(name in old and old[name] == x for name, x in settings.items())


def _numbers_of(records: Records, experiment: Experiment) -> dict[str, Any] | None:
    keys = {name: f"{experiment.name}/{name}" for name in experiment.cells}
    if any(key not in records for key in keys.values()):
        return None
    # With the sizes that they were computed with, which may be other ones today.
    return {
        name: {**records[key]["numbers"], "sizes": records[key]["sizes"]}
        for name, key in keys.items()
    }


def _origin(study: Study, figure: Figure, records: Records) -> list[str]:
    found = [records[f"{x.name}/{name}"] for x in figure.experiments for name in x.cells]
    commits = list(dict.fromkeys(short_commit(r["commit"]) for r in found))
    machines = list(dict.fromkeys(_machine(r["machine"]) for r in found))
    minutes = sum(r["seconds"] for r in found) / 60
    return [
        *markdown.code([f"{study.command} --figures {figure.name}"]),
        "",
        f"Commit {', '.join(commits)}; {'; '.join(machines)}; {minutes:.0f} minutes in all.",
    ]


def _machine(machine: Mapping[str, Any]) -> str:
    cores = f"{machine['cores']} core" + ("s" if machine["cores"] > 1 else "")
    return f"{machine['cpu']}, {cores}, device {machine['device']}"
