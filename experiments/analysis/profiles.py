"""Several environments together, by normalised scores: IQM, optimality gap, performance profiles and probability of
improvement. Agarwal et al. 2021, https://arxiv.org/abs/2108.13264. An environment is a stratum of the bootstrap, and
weighs as much as any other, however many seeds it has.

A normalised score is 0 at the low and 1 at the high end of its environment's range: by default random actions and the
best published number, see `experiments/analysis/literature.py`.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.analysis import literature, statistics
from experiments.analysis.curve import Curve, best, final
from experiments.figures import comparison
from experiments.run.spec import short_name

Row = tuple[str, ...]  # of scores.csv
Range = tuple[float, float]  # what counts as 0 and as 1
RETURNS = ("eval/return", "train/return")  # metrics for which ranges are published
COLUMNS = ("env", "low", "high")
MEASURES: dict[str, Callable[[Curve], float]] = {
    "normalised_final": final,
    "normalised_best": best,
}
GAP = "normalised_optimality_gap"
_POINTS = 201  # of a profile


@dataclasses.dataclass(frozen=True)
class Together:
    """The groups that are compared over all environments of `ranges`, in the same order."""

    ranges: dict[str, Range]
    curves: dict[str, list[list[Curve]]]  # label to seeds of each environment


def together(
    groups: Mapping[tuple[str, str], list[Curve]], own: Mapping[str, Range], metric: str
) -> tuple[Together | None, list[str]]:
    """Returns the part of `groups`, (environment, label) to seeds, that can be compared over environments, and notes on
    what is left out. `own` ranges come before the published ones.

    Only labels that all have the same environments can be compared over them: of the common environments of any two
    labels those are taken that keep the most groups. None where fewer than two environments are left.
    """
    envs = list(dict.fromkeys(env for env, _ in groups))
    if len(envs) < 2:
        return None, []
    found = {env: own.get(env) or _published(env, metric) for env in envs}
    known = {env: r for env, r in found.items() if r}
    unknown = [env for env in envs if env not in known]
    notes = []
    if unknown:
        notes.append(
            f"not in what is over all environments: {', '.join(unknown)}; there is no reference range of {metric}, "
            "which --normalize can give"
        )
    of = {
        label: frozenset(e for e, l in groups if l == label and e in known) for _, label in groups
    }
    shared = {a & b for a in of.values() for b in of.values() if len(a & b) > 1}
    if not shared:
        return None, notes
    kept = max(shared, key=lambda s: (len(s) * sum(s <= o for o in of.values()), len(s), sorted(s)))
    labels = [label for label, o in of.items() if kept <= o]
    ranges = {env: known[env] for env in envs if env in kept}
    if len(labels) < len(of) or len(kept) < len(known):
        notes.append(
            f"over all environments: {', '.join(map(short_name, ranges))} with {', '.join(labels)}; what has no run on "
            "one of these is left out"
        )
    curves = {label: [groups[env, label] for env in ranges] for label in labels}
    return Together(ranges, curves), notes


def unused(own: Mapping[str, Range], envs: Iterable[str]) -> list[str]:
    """Returns a note on ranges of environments that are not compared: a misspelt one would silently count for
    nothing."""
    envs = sorted(set(envs))
    rest = [env for env in own if env not in envs]
    return (
        [f"--normalize has {', '.join(rest)}, but there are only {', '.join(envs)}"] if rest else []
    )


def read_ranges(path: Path) -> dict[str, Range]:
    """Reads ranges from a CSV with the columns env, low, high. Raises ValueError with one line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f)
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"--normalize {path} cannot be read: {error}") from None
    missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{path} lacks the column {missing[0]}; wanted: {', '.join(COLUMNS)}")
    ranges = {}
    for number, row in enumerate(lines, 2):
        try:
            low, high = float(row["low"]), float(row["high"])
        except (TypeError, ValueError):
            raise ValueError(f"{path}, line {number}: not a number") from None
        if not (np.isfinite([low, high]).all() and low < high):
            raise ValueError(f"{path}, line {number}: low must be below high, and both finite")
        ranges[row["env"]] = (low, high)
    return ranges


def normalised(
    together: Together, measure: Callable[[Curve], float]
) -> dict[str, list[np.ndarray]]:
    """Scores [seeds] of each environment, for each label."""
    return {
        label: [
            (np.array([measure(c) for c in seeds]) - low) / (high - low)
            for seeds, (low, high) in zip(of_label, together.ranges.values(), strict=True)
        ]
        for label, of_label in together.curves.items()
    }


def rows(together: Together) -> list[Row]:
    """Returns rows of scores.csv for env "all", in which each environment weighs the same. The optimality gap is of
    final scores below 1, and a mean. There is no interval where an environment has a single seed."""
    table: list[Row] = []
    for name, measure in MEASURES.items():
        for label, strata in normalised(together, measure).items():
            pooled = statistics.pooled(strata)
            middle = (_text(statistics.iqm(pooled)), _text(pooled.mean()))
            ends = _ends(statistics.interval(strata))
            table.append(("all", label, name, *middle, *ends, _count(together, label)))
    for label, strata in normalised(together, MEASURES["normalised_final"]).items():
        gap = _text(_gap(statistics.pooled(strata)))
        ends = _ends(statistics.interval(strata, _gap))
        table.append(("all", label, GAP, "", gap, *ends, _count(together, label)))
    return table


def _ends(interval: tuple[np.ndarray, np.ndarray] | None) -> tuple[str, str]:
    return (_text(interval[0]), _text(interval[1])) if interval else ("", "")


def _count(together: Together, label: str) -> str:
    curves = [curve for seeds in together.curves[label] for curve in seeds]
    lost = sum(curve.diverged for curve in curves)
    return f"{len(curves)}, {lost} diverged" if lost else str(len(curves))


def improvements(together: Together) -> dict[tuple[str, str], float]:
    """Returns P(a run of the first label ends higher than one of the second), the mean over environments."""
    scores = normalised(together, MEASURES["normalised_final"])

    def chance(a: str, b: str) -> float:
        pairs = zip(scores[a], scores[b], strict=True)
        return float(np.mean([statistics.probability_of_improvement(x, y) for x, y in pairs]))

    return {(a, b): chance(a, b) for a in scores for b in scores if a != b}


def draw(together: Together, over_all: Sequence[Row], out: Path, metric: str) -> list[str]:
    """Writes the figures, PNG and SVG, and returns their names without suffix. `over_all`: the rows of scores.csv."""
    scores = normalised(together, MEASURES["normalised_final"])
    top = max(1.0, *(float(s.max()) for strata in scores.values() for s in strata))
    thresholds = np.linspace(0, 1.05 * top, _POINTS)
    nothing = np.full(_POINTS, np.nan)
    curves: dict[str, tuple[np.ndarray, ...]] = {
        label: (
            thresholds,
            statistics.performance_profile(statistics.pooled(strata), thresholds),
            *(
                statistics.interval(strata, lambda s: statistics.performance_profile(s, thresholds))
                or (nothing, nothing)
            ),
        )
        for label, strata in scores.items()
    }
    by_name = {(row[1], row[2]): row for row in over_all}
    panels: dict[str, dict[str, tuple[float, ...]]] = {
        heading: {
            label: tuple(float(by_name[label, name][i] or "nan") for i in (column, 5, 6))
            for label in scores
        }
        for heading, name, column in (
            ("IQM (higher is better)", "normalised_final", 3),
            ("optimality gap (lower is better)", GAP, 4),
        )
    }
    over = f"final {metric}, {len(together.ranges)} environments, nominal 95% bootstrap"
    for suffix in ("png", "svg"):
        comparison.profiles(
            curves, out / f"profiles.{suffix}", f"Performance profiles: {over} band"
        )
        comparison.intervals(
            panels, out / f"aggregates.{suffix}", f"Normalised scores: {over} intervals"
        )
    return ["profiles", "aggregates"]


def _published(env: str, metric: str) -> Range | None:
    return literature.reference(env) if metric in RETURNS else None


def _gap(scores: np.ndarray) -> np.ndarray:
    return statistics.optimality_gap(scores, 1.0)


def _text(x: np.ndarray | float) -> str:
    return f"{float(x):.5g}"
