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

import numpy as np
import tyro

from experiments.analysis import profiles, sources, statistics
from experiments.analysis.curve import NAME, Curve, Groups, differing, ended
from experiments.analysis.scores import axes_of, common, scored, scores
from experiments.console import outputs
from experiments.console.display import Display
from experiments.console.exits import run_main
from experiments.console.flags import parse_flags
from experiments.console.suggest import suggestion
from experiments.figures import plots
from experiments.pages.comparison import HEADER, is_page, is_table, page
from experiments.pages.markdown import csv_cell
from experiments.run.names import short_names

_POINTS = 200  # at which curves are compared
_NAMED = 3  # seeds in a note
SCORES = "scores.csv"


@dataclasses.dataclass(frozen=True)
class CompareFlags:
    paths: tyro.conf.Positional[tuple[Path, ...]]
    """folders of runs, folders that hold some, records.json, CSV or other libraries' logs; NAME=PATH gives a name"""
    by: str = "env,algo"
    """what tells curves apart: env, algo, commit, and settings such as learning_rate, with commas"""
    envs: tuple[str, ...] = ()
    """only these environments of what is found"""
    algos: tuple[str, ...] = ()
    """only these algorithms"""
    metric: str = sources.METRIC
    """a column of metrics.jsonl, or a tag of event files; eval/return also finds what others call it"""
    x: Literal["steps", "seconds"] = "steps"
    """against environment steps or wall clock"""
    threshold: float | None = None
    """adds the time at which it is first reached, and by how much runs fall short of it in the end"""
    smooth: int = 0
    """curves in figures are a moving average of so many evaluations; 0: as measured. Scores never are"""
    normalize: Path | None = None
    """CSV with env, low and high: returns that count as 0 and as 1 in what is over all environments; those that it
    lacks count from random actions to the best published number"""
    out: Path = Path("comparison")
    """folder of figures, scores.csv and README.md"""


def main() -> None:
    run_main(lambda: compare(sys.argv[1:]))


def compare(argv: Sequence[str]) -> int:
    """Raises ValueError for bad input."""
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
    found = sources.read(flags.paths, flags.metric, by)
    groups = grouped(chosen(found.curves, env=flags.envs, algo=flags.algos), by)
    together, left_out = profiles.together(scored(groups), ranges, flags.metric)
    notes = [*found.notes, *mixed(groups, by), *short(groups), *disjoint(groups, flags.x)]
    notes += [*left_out, *profiles.unused(ranges, [env for env, _ in groups])]
    called = short_names(env for env, _ in groups)
    rows = scores(groups, flags.threshold)
    with outputs.staged(flags.out, ours) as fresh:
        pictures = _draw(groups, called, flags, fresh)
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


def _draw(
    groups: Groups, called: Mapping[str, str], flags: CompareFlags, out: Path
) -> dict[str, str]:
    """Draws the curves of each environment. Returns the names of the figures, without suffix, by the environments'."""
    files = outputs.file_names(called.values())
    pictures = {}
    for env, name in called.items():
        of_env = {label: curves for (e, label), curves in groups.items() if e == env}
        bands = {
            f"{label} (n={len(curves)})": found_band
            for label, curves in of_env.items()
            if (found_band := band([smoothed(c, flags.smooth) for c in curves], flags.x))
        }
        if not bands:
            continue
        pictures[name] = f"curves-{files[name]}"
        what = f"IQM and nominal 95% bootstrap band, mean dashed; {_smoothing(flags.smooth)}"
        places = {f"{label} (n={len(curves)})": label for label, curves in of_env.items()}
        for suffix in ("png", "svg"):
            path = out / f"{pictures[name]}.{suffix}"
            plots.interval_bands(bands, path, f"{name}\n{what}", flags.x, flags.metric, places)
    return pictures


def _inert(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row with names that no spreadsheet takes for formulas."""
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


def chosen(curves: list[Curve], **wanted: Sequence[str]) -> list[Curve]:
    """Those of the environments and algorithms that are named; of all where none is. Raises ValueError where there is
    no such curve."""
    for name, values in wanted.items():
        there = {str(c.fields[name]) for c in curves}
        for value in values:
            if value not in there:
                raise ValueError(f"no curve of {name} {value!r}: {suggestion(value, there)}")
        curves = [c for c in curves if not values or str(c.fields[name]) in values]
    return curves


def grouped(curves: list[Curve], by: Sequence[str]) -> Groups:
    """Curves by environment and by a label of the rest of `by`; names that were given to sources are a part of it.

    Raises ValueError where environments would be mixed, or `by` names what no curve has.
    """
    names = [name.strip().replace("-", "_") for name in by]
    if any(NAME in c.fields for c in curves):
        names.append(NAME)
    unknown = [name for name in names if not any(name in c.fields for c in curves)]
    if unknown:
        raise ValueError(f"--by {unknown[0]}: no run has that; env, algo or a setting is wanted")
    envs = {str(c.fields["env"]) for c in curves}
    if "env" not in names and len(envs) > 1:
        raise ValueError(
            f"these are runs of {len(envs)} environments ({', '.join(sorted(envs))}), whose values cannot be averaged: "
            "add env to --by"
        )
    groups: Groups = {}
    for curve in curves:
        told = [_told(curve, name) for name in names if name != "env"]
        label = ", ".join(text for text in told if text) or "all"
        groups.setdefault((str(curve.fields["env"]), label), []).append(curve)
    return groups


def _told(curve: Curve, name: str) -> str:
    value = curve.fields.get(name)
    return str(value) if name in ("algo", NAME) else f"{name} {value}"


def band(curves: list[Curve], x: str) -> tuple[np.ndarray, ...] | None:
    """Abscissa, IQM, mean, and the ends of the interval, as far as all seeds go; None where that is nowhere or at a
    single point. The ends are NaN where there is a single seed, which tells nothing of the spread."""
    curves = [c for c in curves if len(c.steps)]
    axes = axes_of(curves, x)
    if any(np.isnan(axis).any() for axis in axes):
        raise ValueError("--x seconds: not every curve knows its wall clock")
    begin, end = common(axes)
    if end <= begin:
        return None
    grid = np.linspace(begin, end, _POINTS)
    values = np.stack(
        [np.interp(grid, axis, c.value) for axis, c in zip(axes, curves, strict=True)]
    )
    nothing = np.full(len(grid), np.nan)
    low, high = statistics.interval([values]) or (nothing, nothing)
    return grid, statistics.iqm(values), values.mean(0), low, high


def smoothed(curve: Curve, n: int) -> Curve:
    """Each value the mean of the last `n` up to it, fewer at the beginning; 0 leaves the curve as it is."""
    if n < 2:
        return curve
    total, end = np.cumsum([0.0, *curve.value]), np.arange(1, len(curve.value) + 1)
    begin = np.maximum(end - n, 0)
    return dataclasses.replace(curve, value=(total[end] - total[begin]) / (end - begin))


def _smoothing(n: int) -> str:
    return f"moving average of {n} evaluations" if n > 1 else "not smoothed"


def mixed(groups: Groups, by: Sequence[str]) -> list[str]:
    """Which groups are of more than seeds. Different lengths are another note's."""
    notes = []
    for (env, label), curves in groups.items():
        found = {n: values for n, values in differing(curves).items() if n != "total_steps"}
        if "algo" in found:  # which differ in dozens of settings that say nothing more
            found = {"algo": found["algo"]}
        if found:
            what = "; ".join(f"{name} {', '.join(values)}" for name, values in found.items())
            notes.append(
                f"{env}, {label}: its {len(curves)} curves differ in more than their seeds ({what}); "
                f"--by {','.join([*by, *found])} tells them apart"
            )
    return notes


def short(groups: Groups) -> list[str]:
    """Notes on seeds of unequal length: which of them stopped short, and how far bands go."""
    notes = []
    for (env, label), curves in groups.items():
        _, early = ended(curves)
        if early:
            seeds = ", ".join(
                f"{c.fields['seed']} (at step {c.steps[-1]:.0f})" for c in early[:_NAMED]
            )
            more = f" and {len(early) - _NAMED} more" if len(early) > _NAMED else ""
            notes.append(f"{env}, {label}: stopped short, and not scored: seed {seeds}{more}")
        ends = {c.steps[-1] for c in curves if len(c.steps)}
        begin, end = common(axes_of(curves, "steps"))
        if len(ends) > 1 and begin <= end:  # otherwise `disjoint` tells
            notes.append(
                f"{env}, {label}: curves of {len(curves)} seeds end between {min(ends):.0f} and {max(ends):.0f} steps; "
                "the band and auc end with the first"
            )
    return notes


def disjoint(groups: Groups, x: str) -> list[str]:
    notes = []
    for (env, label), curves in groups.items():
        begin, end = common(axes_of(curves, x))
        if end < begin and any(len(c.steps) for c in curves):
            notes.append(f"{env}, {label}: no band, as its curves have no {x} in common")
    return notes


if __name__ == "__main__":
    main()
