"""Numbers on disk: one file for the whole study, in which each cell names its command, commit and machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.console import outputs
from experiments.run import folders, schema
from experiments.run.provenance import provenance
from experiments.studies.alignment.cells import Experiment
from experiments.studies.alignment.settings import COMMON, Sizes
from experiments.studies.numbers import compact, rounded

FILE = "numbers.json"
COMMAND = "python -m experiments.studies alignment"
_BEGIN = '{\n "study": "alignment"'
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
_STUDY = schema.Table({"study": schema.TEXT, "cells": schema.TableOf(_CELL)})

Records = dict[str, dict[str, Any]]  # "experiment/cell": what `_CELL` says


def is_numbers(text: str) -> bool:
    """Tells that `save` wrote a text."""
    return text.startswith(_BEGIN)


def stored(out: Path) -> Records:
    """Returns the cells whose numbers are in `out`. Raises ValueError with one line where the file is damaged."""
    try:
        return schema.read(out / FILE, _STUDY)["cells"]
    except FileNotFoundError:
        return {}


def save(out: Path, records: Records) -> None:
    """Writes all cells, sorted by name; never half a file. Raises OSError where that fails."""
    out.mkdir(parents=True, exist_ok=True)
    content = {"study": "alignment", "cells": dict(sorted(records.items()))}
    with folders.naming(out / FILE):
        outputs.write(out / FILE, compact(content))


def compute(
    experiment: Experiment,
    sizes: Sizes,
    out: Path,
    say: Callable[[str], None],
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
    names = (*COMMON, *experiment.sizes)
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
            "numbers": numbers,
        }
        save(out, {**stored(out), key: folders.plain(rounded_numbers(record))})
        changed = True
    return changed


def _same(old: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    return all(name in old and old[name] == x for name, x in settings.items())


def rounded_numbers(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record whose numbers have a few significant digits."""
    return {**record, "numbers": rounded(record["numbers"])}


def numbers_of(records: Records, experiment: Experiment) -> dict[str, Any] | None:
    """Returns the numbers of an experiment's cells; None where one is missing."""
    keys = {name: f"{experiment.name}/{name}" for name in experiment.cells}
    if any(key not in records for key in keys.values()):
        return None
    return {name: records[key]["numbers"] for name, key in keys.items()}


def origins(records: Records, experiment: Experiment) -> list[Mapping[str, Any]]:
    """Returns the records of an experiment's cells."""
    return [records[f"{experiment.name}/{name}"] for name in experiment.cells]
