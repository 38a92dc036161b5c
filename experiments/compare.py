"""Compares learning curves: python -m experiments.compare RUN_OR_FOLDER... [--by env,algo] [--x seconds] [--out DIR]

Run folders, folders of them, records.json, CSV (env, algo, seed, env_steps, value) and the logs of other libraries
(`experiments/analysis/layouts.py`, `experiments/analysis/others.py`) can stand side by side; two folders of equal
settings do as OLD=DIR NEW=DIR, or with --by env,algo,commit. Statistics: `experiments/analysis/statistics.py`.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments.analysis import profiles, sources
from experiments.analysis.groups import chosen, disjoint, grouped, mixed, short
from experiments.analysis.scores import scored, scores
from experiments.console import outputs
from experiments.console.display import Display
from experiments.console.exits import run_main
from experiments.console.flags import parse_flags
from experiments.pages.comparison import HEADER, draw, is_page, is_table, page
from experiments.pages.markdown import csv_cell
from experiments.run.names import short_names

SCORES = "scores.csv"


@dataclasses.dataclass(frozen=True)
class CompareFlags:
    """Flags of `python -m experiments.compare`."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """folders of runs, folders that hold some, records.json, CSV or other libraries' logs; NAME=PATH gives a name"""
    by: str = "env,algo"
    """fields by which curves are grouped, with commas: env, algo, commit, and settings such as learning_rate"""
    envs: tuple[str, ...] = ()
    """only these environments"""
    algos: tuple[str, ...] = ()
    """only these algorithms"""
    metric: str = sources.METRIC
    """a column of metrics.jsonl, or a tag of event files; eval/return also finds its names in other libraries"""
    x: Literal["steps", "seconds"] = "steps"
    """the horizontal axis: environment steps or wall clock"""
    threshold: float | None = None
    """value of the metric; adds the time at which each curve first reaches it, and the final shortfall"""
    smooth: int = 0
    """number of evaluations in the moving average of figures; 0: none. Scores are never averaged"""
    normalize: Path | None = None
    """CSV with env, low and high: the returns that count as 0 and as 1 in scores over all environments; missing
    environments count from random actions to the best published number"""
    out: Path = Path("comparison")
    """folder for figures, scores.csv and README.md"""


def main() -> None:
    run_main(lambda: compare(sys.argv[1:]))


def compare(argv: Sequence[str]) -> int:
    """Compares the runs that `argv` names and writes scores, figures and a page. Returns 0; raises ValueError for bad
    input."""
    flags = parse_flags(CompareFlags, argv, None, "Compares learning curves.")
    if not flags.paths:
        raise ValueError("which runs? give their folders")
    if flags.smooth < 0:
        raise ValueError(f"--smooth {flags.smooth}: a number of evaluations, or 0")
    if flags.threshold is not None and not math.isfinite(flags.threshold):
        raise ValueError(f"--threshold {flags.threshold}: a finite value is wanted")
    ours = {outputs.PAGE: is_page, SCORES: is_table}
    outputs.check(flags.out, ours)
    ranges = profiles.read_ranges(flags.normalize) if flags.normalize else {}
    by = [name.strip().replace("-", "_") for name in flags.by.split(",")]
    sources_read = sources.read(flags.paths, flags.metric, by)
    groups = grouped(chosen(sources_read.curves, env=flags.envs, algo=flags.algos), by)
    together, left_out = profiles.together(scored(groups), ranges, flags.metric)
    notes = [*sources_read.notes, *mixed(groups, by), *short(groups), *disjoint(groups, flags.x)]
    notes += [*left_out, *profiles.unused(ranges, [env for env, _ in groups])]
    called = short_names(env for env, _ in groups)
    rows = scores(groups, flags.threshold)
    with outputs.staged(flags.out, ours) as fresh:
        pictures = draw(groups, called, fresh, flags.metric, flags.x, flags.smooth)
        if together:
            over_all = profiles.rows(together)
            rows += over_all
            drawn = profiles.draw(together, over_all, fresh, flags.metric)
            pictures |= {f"over all: {name}": name for name in drawn}
        with (fresh / SCORES).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEADER, *map(_inert, rows)])
        text = page(rows, groups, called, pictures, notes, flags.metric, together)
        outputs.write(fresh / outputs.PAGE, text)
    _show(rows, called, notes, flags)
    return 0


def _inert(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns the row with names that no spreadsheet takes for formulas."""
    return (*map(csv_cell, row[:3]), *row[3:])


def _show(
    rows: list[tuple[Any, ...]], called: Mapping[str, str], notes: list[str], flags: CompareFlags
) -> None:
    display = Display()
    display.table(
        f"final {flags.metric}: IQM (nominal 95% interval)",
        [
            (f"{called.get(row[0], row[0])}, {row[1]}", _in_short(row))
            for row in rows
            if row[2] in ("final", "normalised_final")
        ],
    )
    for note in notes:
        display.warn(note)
    display.say(str(flags.out))


def _in_short(row: tuple[Any, ...]) -> str:
    interval = f"{row[5]} to {row[6]}" if row[5] else "no interval"
    count, _, diverged = str(row[7]).partition(",")
    return f"{row[3] or '-'} ({interval}), {count} seeds" + (f",{diverged}" if diverged else "")


if __name__ == "__main__":
    main()
