"""Scores of groups of seeds: rows of scores.csv.

A seed that diverged counts as worse than any; one that stopped short is not scored.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.analysis import statistics
from experiments.analysis.curve import Curve, Groups, best, ended, final
from experiments.figures.alignment import common_range


def scored(groups: Groups) -> Groups:
    """Returns the groups with those of their seeds that can be scored, without groups that have none."""
    whole = {at: ended(curves)[0] for at, curves in groups.items()}
    return {at: curves for at, curves in whole.items() if curves}


def scores(groups: Groups, threshold: float | None) -> list[tuple[Any, ...]]:
    """Returns rows of scores.csv: env, label, metric, IQM, mean, ends of the interval, seeds."""
    rows: list[tuple[Any, ...]] = []
    for (env, label), every in groups.items():
        curves, _ = ended(every)
        last = np.array([final(c) for c in curves])
        measured = {"final": last}
        if any(len(c.steps) > 1 for c in curves):  # not of scores alone
            measured |= {
                "best": np.array([best(c) for c in curves]),
                "auc": np.array(_areas(curves)),
            }
        lost = sum(c.diverged for c in curves)
        figures_of = {
            name: (*_figures(each), _count(len(each), len(every), lost if len(each) else 0))
            for name, each in measured.items()
        }
        if threshold is not None:
            known = [
                c for c in every if any(c is w for w in curves) or (c.value >= threshold).any()
            ]
            for x in ("steps", "seconds"):
                figures_of[f"{x}_to_threshold"] = _reached(axes_of(known, x), known, threshold)
            gaps = threshold - np.minimum(last, threshold)
            # Over environments, too, the gap is a mean.
            figures_of["optimality_gap"] = (
                "",
                *_figures(gaps, _mean)[1:],
                _count(len(gaps), len(every), lost),
            )
        rows += [(env, label, name, *figures) for name, figures in figures_of.items()]
    return rows


def _count(scored: int, there: int, diverged: int) -> str:
    """Returns the number of scored seeds, and of all where that is another."""
    count = str(scored) if scored == there else f"{scored} of {there}"
    return f"{count}, {diverged} diverged" if diverged else count


def _figures(each: np.ndarray, statistic: statistics.Statistic = statistics.iqm) -> tuple[str, ...]:
    """Returns the statistic, the mean, and the interval of the statistic as texts; "" where there is none."""
    if not len(each):
        return ("",) * 4
    found = statistics.interval([each], statistic)
    ends = [f"{float(v):.5g}" for v in found] if found else ["", ""]
    return (*(f"{float(v):.5g}" for v in (statistic(each), each.mean())), *ends)


def _mean(scores: np.ndarray) -> np.ndarray:
    return np.mean(scores, axis=0)


def _areas(curves: list[Curve]) -> list[float]:
    """Returns the area under each curve over the steps that all have, so that a longer one has no easier part; -inf for
    a seed that diverged, and nothing where the curves have no step in common."""
    going = [c for c in curves if not c.diverged]
    begin, end = common_range(axes_of(going, "steps"))
    if going and end < begin:
        return []
    return [
        -np.inf
        if c.diverged
        else statistics.area_under_curve(*statistics.clipped(c.steps, c.value, begin, end))
        for c in curves
    ]


def _reached(axes: list[np.ndarray], curves: list[Curve], goal: float) -> tuple[Any, ...]:
    """Returns when the threshold is reached, over the seeds whose clock is known. Seeds that do not reach it count as
    infinite: without them the worse learner, whose lucky seeds alone arrive, would look the faster."""
    each = np.array(
        [
            statistics.first_reached(axis, c.value, goal)
            for axis, c in zip(axes, curves, strict=True)
            if not np.isnan(axis).any()
        ]
    )
    return *_figures(each), f"{np.isfinite(each).sum()} of {len(each)}"


def axes_of(curves: list[Curve], x: str) -> list[np.ndarray]:
    """Returns the abscissa of each curve, in "steps" or "seconds"."""
    return [c.steps if x == "steps" else c.seconds for c in curves]
