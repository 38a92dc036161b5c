"""Compares learning curves: python -m experiments.compare RUN_OR_FOLDER... [--by env,algo] [--x seconds] [--out DIR]

Run folders, folders of them, records.json, CSV (env, algo, seed, env_steps, value) and TensorBoard's event files (in
folders ENV/ALGO/SEED) can stand side by side. Statistics: `experiments/statistics.py`.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from experiments import outputs, plots, profiles, sources, statistics
from experiments.cli import run_main
from experiments.compare_page import HEADER, Groups, is_page, is_table, page
from experiments.console import Display
from experiments.curves import Curve, differing
from experiments.flags import parse_flags
from experiments.spec import short_name
from experiments.suggest import suggestion

_POINTS = 200  # at which curves are compared


@dataclasses.dataclass(frozen=True)
class CompareFlags:
    paths: tyro.conf.Positional[tuple[Path, ...]]
    """folders of runs, folders that hold some, records.json, CSV or event files"""
    by: str = "env,algo"
    """what tells curves apart: env, algo, and settings such as learning_rate, with commas"""
    envs: tuple[str, ...] = ()
    """only these environments of what is found"""
    algos: tuple[str, ...] = ()
    """only these algorithms"""
    metric: str = sources.METRIC
    """a column of metrics.jsonl, or a tag of event files"""
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
    outputs.check(flags.out, {"README.md": is_page, "scores.csv": is_table})
    ranges = profiles.read_ranges(flags.normalize) if flags.normalize else {}
    found = sources.read(flags.paths, flags.metric)
    by = flags.by.split(",")
    groups = grouped(chosen(found.curves, env=flags.envs, algo=flags.algos), by)
    together, left_out = profiles.together(groups, ranges, flags.metric)
    notes = [*found.notes, *mixed(groups, by), *unequal(groups), *disjoint(groups, flags.x)]
    notes += [*left_out, *profiles.unused(ranges, [env for env, _ in groups])]
    flags.out.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for env in dict.fromkeys(env for env, _ in groups):
        of_env = {label: curves for (e, label), curves in groups.items() if e == env}
        bands = {
            label: found_band
            for label, curves in of_env.items()
            if (found_band := band([smoothed(c, flags.smooth) for c in curves], flags.x))
        }
        if not bands:
            continue
        pictures[env] = f"curves-{short_name(env) or 'all'}"
        what = f"IQM and 95% bootstrap band, mean dashed; {_smoothing(flags.smooth)}"
        title = f"{short_name(env)}\n{what}"
        for suffix in ("png", "svg"):
            plots.interval_bands(
                bands, flags.out / f"{pictures[env]}.{suffix}", title, flags.x, flags.metric
            )
    rows = scores(groups, flags.threshold)
    if together:
        over_all = profiles.rows(together)
        rows += over_all
        drawn = profiles.draw(together, over_all, flags.out, flags.metric)
        pictures |= {f"over all: {name}": name for name in drawn}
    with (flags.out / "scores.csv").open("w", newline="") as f:
        csv.writer(f).writerows([HEADER, *rows])
    (flags.out / "README.md").write_text(
        page(rows, groups, pictures, notes, flags.metric, together)
    )
    display = Display()
    display.table(
        f"final {flags.metric}: IQM (95% interval)",
        [
            (f"{short_name(row[0])}, {row[1]}", f"{row[3]} ({row[5]} to {row[6]}), {row[7]} seeds")
            for row in rows
            if row[2] in ("final", "normalised_final")
        ],
    )
    for note in notes:
        display.warn(note)
    display.say(str(flags.out))
    return 0


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
    """Raises ValueError where environments would be mixed, or `by` names what no curve has."""
    names = [name.strip().replace("-", "_") for name in by]
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
        told = [
            str(curve.fields.get(n)) if n == "algo" else f"{n} {curve.fields.get(n)}"
            for n in names
            if n != "env"
        ]
        groups.setdefault((str(curve.fields["env"]), ", ".join(told) or "all"), []).append(curve)
    return groups


def band(curves: list[Curve], x: str) -> tuple[np.ndarray, ...] | None:
    """Abscissa, IQM, mean, and the ends of the interval, as far as all seeds go; None where that is nowhere."""
    axes = _axes(curves, x)
    if any(np.isnan(axis).any() for axis in axes):
        raise ValueError("--x seconds: not every curve knows its wall clock")
    begin, end = _common(axes)
    if end < begin:
        return None
    grid = np.linspace(begin, end, _POINTS)
    values = np.stack(
        [np.interp(grid, axis, c.value) for axis, c in zip(axes, curves, strict=True)]
    )
    low, high = statistics.bootstrap([values])
    return grid, statistics.iqm(values), values.mean(0), low, high


def _axes(curves: list[Curve], x: str) -> list[np.ndarray]:
    return [c.steps if x == "steps" else c.seconds for c in curves]


def _common(axes: list[np.ndarray]) -> tuple[float, float]:
    """Where the last begins and where the first ends; the other way round where they have no part in common."""
    return max(axis[0] for axis in axes), min(axis[-1] for axis in axes)


def smoothed(curve: Curve, n: int) -> Curve:
    """Each value the mean of the last `n` up to it, fewer at the beginning; 0 leaves the curve as it is."""
    if n < 2:
        return curve
    total, end = np.cumsum([0.0, *curve.value]), np.arange(1, len(curve.value) + 1)
    begin = np.maximum(end - n, 0)
    return dataclasses.replace(curve, value=(total[end] - total[begin]) / (end - begin))


def _smoothing(n: int) -> str:
    return f"moving average of {n} evaluations" if n > 1 else "not smoothed"


def scores(groups: Groups, threshold: float | None) -> list[tuple[Any, ...]]:
    """Rows of scores.csv."""
    rows: list[tuple[Any, ...]] = []
    for (env, label), curves in groups.items():
        final = np.array([c.value[-1] for c in curves])
        measured = {"final": final, "best": np.array([c.value.max() for c in curves])}
        measured["auc"] = np.array(_areas(curves))
        told = {name: (*_figures(each), len(each)) for name, each in measured.items()}
        if threshold is not None:
            for x in ("steps", "seconds"):
                told[f"{x}_to_threshold"] = _reached(_axes(curves, x), curves, threshold)
            gaps = threshold - np.minimum(final, threshold)
            # Over environments, too, the gap is a mean.
            told["optimality_gap"] = ("", *_figures(gaps, _mean)[1:], len(gaps))
        rows += [(env, label, name, *figures) for name, figures in told.items()]
    return rows


def _figures(each: np.ndarray, statistic: statistics.Statistic = statistics.iqm) -> tuple[str, ...]:
    """The statistic, the mean, and the statistic's interval; nothing of nothing."""
    if not len(each):
        return ("",) * 4
    low, high = statistics.bootstrap([each], statistic)
    return tuple(f"{float(v):.5g}" for v in (statistic(each), each.mean(), low, high))


def _mean(scores: np.ndarray) -> np.ndarray:
    return np.mean(scores, axis=0)


def _areas(curves: list[Curve]) -> list[float]:
    """Of each curve over the steps that all have, so that a longer one has no easier part; of none where they have no
    step in common."""
    begin, end = _common(_axes(curves, "steps"))
    if end < begin:
        return []
    parts = [statistics.clipped(c.steps, c.value, begin, end) for c in curves]
    return [statistics.area_under_curve(*part) for part in parts]


def _reached(axes: list[np.ndarray], curves: list[Curve], goal: float) -> tuple[Any, ...]:
    """When the threshold is reached, by how many of those whose clock is known. Seeds that do not reach it count as
    infinite: without them the worse learner, of which only lucky seeds arrive, would look the faster."""
    each = np.array(
        [
            statistics.first_reached(axis, c.value, goal)
            for axis, c in zip(axes, curves, strict=True)
            if not np.isnan(axis).any()
        ]
    )
    return *_figures(each), f"{np.isfinite(each).sum()} of {len(each)}"


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


def unequal(groups: Groups) -> list[str]:
    notes = []
    for (env, label), curves in groups.items():
        ends = {c.steps[-1] for c in curves}
        begin, end = _common(_axes(curves, "steps"))
        if len(ends) > 1 and begin <= end:  # otherwise `disjoint` tells
            notes.append(
                f"{env}, {label}: curves of {len(curves)} seeds end between {min(ends):.0f} and {max(ends):.0f} steps; "
                "the band and auc end with the first, final values are those at each one's end"
            )
    return notes


def disjoint(groups: Groups, x: str) -> list[str]:
    notes = []
    for (env, label), curves in groups.items():
        begin, end = _common(_axes(curves, x))
        if end < begin:
            notes.append(f"{env}, {label}: no band, as its curves have no {x} in common")
    return notes


def label_runs(configs: list[dict[str, Any]]) -> list[str]:
    """What tells the runs apart: environment, algorithm, seeds, and the settings in which they differ."""
    flat = [
        {"env": c["env"], "algo": c["algo"], **c["env_kwargs"], **c["config"], "seed": c["seed"]}
        for c in configs
    ]
    names = dict.fromkeys(name for c in flat for name in c)
    differing = [n for n in names if len({str(c.get(n)) for c in flat}) > 1]
    if len({(c["env"], c["algo"]) for c in flat}) == len(flat):
        # Learners of different kinds differ in dozens of settings that say nothing more.
        differing = [n for n in differing if n in ("env", "algo")]
    labels: list[str] = []
    for c in flat:
        told = [f"{n} {c[n]}" if n not in ("env", "algo") else c[n] for n in differing if n in c]
        label = ", ".join(told) or f"{c['env']}, {c['algo']}"
        same = sum(known.split(" #")[0] == label for known in labels)
        labels.append(f"{label} #{same + 1}" if same else label)
    return labels


if __name__ == "__main__":
    main()
