"""Runs one study and writes its numbers, its figure and the results page.

    python -m experiments.studies cliff
    python -m experiments.studies bandit --out DIR
    python -m experiments.studies variance --quick
    python -m experiments.studies kl
    python -m experiments.studies alignment --figures 1 6
    python -m experiments.studies faults
    python -m experiments.studies text

The page shows every study whose numbers are in the folder. Alignment, faults and text have folders and pages of their
own, and are computed part by part: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

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
from experiments.studies import study as long_study
from experiments.studies.alignment.page import STUDY as ALIGNMENT
from experiments.studies.faults import command as faults
from experiments.studies.numbers import compact, rounded
from experiments.studies.text.page import STUDY as TEXT

STUDIES: dict[str, ModuleType] = {"cliff": cliff, "bandit": bandit, "variance": variance, "kl": kl}
OUT, QUICK_OUT = Path("results/studies"), folders.RUNS / "studies-quick"
# Studies of many parts, each with a folder and a page of its own.
LONG = {"alignment": ALIGNMENT, "text": TEXT}
LONG_OUT = {"alignment": Path("results/alignment"), "text": Path("results/text-tasks")}
FAULTS = "faults"
FAULTS_OUT, FAULTS_QUICK_OUT = Path("results/actors"), folders.RUNS / "faults-quick"
_BEGIN, _COMMAND = "# Studies\n", "python -m experiments.studies"
_RECORD = schema.Table({"command": schema.TEXT, "numbers": schema.Table({})})


@dataclasses.dataclass(frozen=True)
class StudyFlags:
    """Flags of `python -m experiments.studies`."""

    name: tyro.conf.Positional[str | None] = None
    """the study: cliff, bandit, variance, kl, alignment, faults or text"""
    out: Path | None = None
    """folder for figures, numbers and page; None: results/studies, or results/runs/studies-quick; for alignment
    results/alignment, or results/runs/alignment-quick; for faults results/actors, or results/runs/faults-quick; for
    text results/text-tasks, or results/runs/text-quick"""
    quick: bool = False
    """a much smaller version, to test that the study runs; its numbers are not meaningful"""
    figures: tuple[str, ...] = ()
    """figures of alignment, 1 to 9, or of text; none given: all"""
    fresh: bool = False
    """recompute numbers of alignment, faults or text that exist already"""


def main() -> None:
    run_main(lambda: studies(sys.argv[1:]))


def studies(argv: Sequence[str]) -> int:
    """Raises ValueError for bad input."""
    flags = parse_flags(StudyFlags, argv, StudyFlags(), "Runs one study.")
    if flags.name in LONG:
        quick_out = folders.RUNS / f"{flags.name}-quick"
        folder = flags.out or (quick_out if flags.quick else LONG_OUT[flags.name])
        study, say = LONG[flags.name], Display().say
        long_study.run(study, flags.figures, folder, quick=flags.quick, fresh=flags.fresh, say=say)
        return 0
    if flags.name == FAULTS and not flags.figures:
        folder = flags.out or (FAULTS_QUICK_OUT if flags.quick else FAULTS_OUT)
        faults.run(folder, quick=flags.quick, fresh=flags.fresh, say=Display().say)
        return 0
    if flags.name == FAULTS:
        raise ValueError(f"--figures belongs to {' and '.join(LONG)}, and the study is {FAULTS}")
    module = _study(flags.name)
    if flags.figures or flags.fresh:
        raise ValueError(
            f"--figures and --fresh belong to {' and '.join(LONG)}, and the study is {flags.name}"
        )
    out = flags.out or (QUICK_OUT if flags.quick else OUT)
    figure, json_file = f"{flags.name}.png", f"{flags.name}.json"
    ours = {outputs.PAGE: is_page, json_file: _is_numbers}
    outputs.check(
        out, {**ours, **outputs.figures(out, [figure])}
    )  # better now than in some minutes
    stored(out)
    say = Display().say
    numbers = folders.plain(rounded(module.run(flags.quick, say)))
    command = f"{_COMMAND} {flags.name}" + (" --quick" if flags.quick else "")
    record = {"command": command, **provenance(), "numbers": numbers}
    with outputs.staged(out, ours) as fresh:
        outputs.write(fresh / json_file, compact(record))
        module.draw(numbers, fresh / figure)
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


def _study(name: str | None) -> ModuleType:
    known = [*STUDIES, *LONG, FAULTS]
    if name is None:
        raise ValueError(f"which study? choose from {', '.join(known)}")
    if name not in STUDIES:
        raise ValueError(f"unknown study {name!r}: {suggestion(name, known)}")
    return STUDIES[name]


if __name__ == "__main__":
    main()
