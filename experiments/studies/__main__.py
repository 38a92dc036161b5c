"""Runs one study and writes its numbers, its figure and the results page.

    python -m experiments.studies cliff
    python -m experiments.studies bandit --out DIR
    python -m experiments.studies variance --quick
    python -m experiments.studies kl

The page shows every study whose numbers are in the folder.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tyro

from experiments.console import outputs
from experiments.console.display import Display
from experiments.console.exits import run_main
from experiments.console.flags import parse_flags
from experiments.console.suggest import suggestion
from experiments.pages import markdown
from experiments.run import folders, schema
from experiments.run.provenance import provenance
from experiments.studies import bandit, cliff, kl, variance

STUDIES: dict[str, ModuleType] = {"cliff": cliff, "bandit": bandit, "variance": variance, "kl": kl}
OUT, QUICK_OUT = Path("results/studies"), folders.RUNS / "studies-quick"
_BEGIN, _COMMAND = "# Studies\n", "python -m experiments.studies"
_RECORD = schema.Table({"command": schema.TEXT, "numbers": schema.Table({})})
_DIGITS = 4  # of the numbers on disk: more than a picture shows


@dataclasses.dataclass(frozen=True)
class StudyFlags:
    """Flags of `python -m experiments.studies`."""

    name: tyro.conf.Positional[str | None] = None
    """the study: cliff, bandit, variance or kl"""
    out: Path | None = None
    """folder for figure, numbers and page; None: results/studies, or results/runs/studies-quick"""
    quick: bool = False
    """a much smaller version, to test that the study runs; its numbers are not meaningful"""


def main() -> None:
    run_main(lambda: studies(sys.argv[1:]))


def studies(argv: Sequence[str]) -> int:
    """Raises ValueError for bad input."""
    flags = parse_flags(StudyFlags, argv, StudyFlags(), "Runs one study.")
    study = _study(flags.name)
    out = flags.out or (QUICK_OUT if flags.quick else OUT)
    figure, json_file = f"{flags.name}.png", f"{flags.name}.json"
    ours = {outputs.PAGE: is_page, json_file: _is_numbers}
    outputs.check(
        out, {**ours, **outputs.figures(out, [figure])}
    )  # better now than in some minutes
    stored(out)
    say = Display().say
    numbers = folders.plain(rounded(study.run(flags.quick, say)))
    command = f"{_COMMAND} {flags.name}" + (" --quick" if flags.quick else "")
    record = {"command": command, **provenance(), "numbers": numbers}
    with outputs.staged(out, ours) as fresh:
        outputs.write(fresh / json_file, compact(record))
        study.draw(numbers, fresh / figure)
        outputs.write(fresh / outputs.PAGE, page({**stored(out), flags.name: record}))
    say(str(out / figure))
    return 0


def stored(out: Path) -> dict[str, dict[str, Any]]:
    """Returns the records of the studies whose numbers are in `out`. Raises ValueError with one line where one is
    damaged."""
    records = {}
    for name, study in STUDIES.items():
        file = out / f"{name}.json"
        try:
            records[name] = schema.read(file, _RECORD)
            study.words(records[name]["numbers"])
        except FileNotFoundError:
            continue
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"{file} lacks numbers of this study: {error!r}") from None
    return records


def page(records: Mapping[str, dict[str, Any]]) -> str:
    """Returns the page with figures and words of studies, by their names."""
    lines = [_BEGIN.rstrip(), ""]
    for name, study in STUDIES.items():
        if name not in records:
            continue
        record = records[name]
        lines += [f"## {study.TITLE}", "", f"![{study.TITLE}]({name}.png)", ""]
        lines += [*study.words(record["numbers"]), "", *markdown.code([record["command"]]), ""]
        lines += [f"The numbers, and what made them: {name}.json", ""]
    return "\n".join(lines)


def is_page(text: str) -> bool:
    """Tells that `page` wrote a text."""
    return text.startswith(_BEGIN) and _COMMAND in text


def _is_numbers(text: str) -> bool:
    return text.startswith(f'{{\n "command": "{_COMMAND}')


def compact(record: dict[str, Any]) -> str:
    """Returns JSON with a line for each list of numbers."""
    return _json(record, 0) + "\n"


def rounded(x: Any) -> Any:
    """Arrays as lists, and floats to a few significant digits."""
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    x = x if isinstance(x, list) else np.asarray(x).tolist()
    if isinstance(x, list):
        return [rounded(v) for v in x]
    return float(f"{x:.{_DIGITS}g}") if isinstance(x, float) else x


def _json(x: Any, depth: int) -> str:
    if not isinstance(x, dict):
        return json.dumps(x)
    margin = " " * depth
    lines = [f"{margin} {json.dumps(k)}: {_json(v, depth + 1)}" for k, v in x.items()]
    return "{\n" + ",\n".join(lines) + f"\n{margin}}}"


def _study(name: str | None) -> ModuleType:
    known = ", ".join(STUDIES)
    if name is None:
        raise ValueError(f"which study? choose from {known}")
    if name not in STUDIES:
        raise ValueError(f"unknown study {name!r}: {suggestion(name, STUDIES)}")
    return STUDIES[name]


if __name__ == "__main__":
    main()
