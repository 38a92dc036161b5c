"""Selects, labels and averages groups of curves for a comparison, with warnings about their differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.analysis import statistics
from experiments.analysis.curve import NAME, Curve, Groups, differing, ended
from experiments.analysis.scores import axes_of
from experiments.console.suggest import suggestion
from experiments.figures.alignment import common_range, interpolate

POINTS = 200  # at which curves are compared
_NAMED = 3  # seeds in a note


def chosen(curves: list[Curve], **wanted: Sequence[str]) -> list[Curve]:
    """Returns the curves of the named environments and algorithms; a field without names chooses all. Raises ValueError
    where a name has no curve."""
    for name, values in wanted.items():
        there = {str(c.fields[name]) for c in curves}
        for value in values:
            if value not in there:
                raise ValueError(f"no curve of {name} {value!r}: {suggestion(value, there)}")
        curves = [c for c in curves if not values or str(c.fields[name]) in values]
    return curves


def grouped(curves: list[Curve], by: Sequence[str]) -> Groups:
    """Groups curves by environment and by a label made of the other fields of `by`; names given to sources are part of
    the label.

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
        parts = [_told(curve, name) for name in names if name != "env"]
        label = ", ".join(text for text in parts if text) or "all"
        groups.setdefault((str(curve.fields["env"]), label), []).append(curve)
    return groups


def _told(curve: Curve, name: str) -> str:
    value = curve.fields.get(name)
    return str(value) if name in ("algo", NAME) else f"{name} {value}"


def band(curves: list[Curve], x: str) -> tuple[np.ndarray, ...] | None:
    """Returns abscissa, IQM, mean and the ends of the interval over seeds, each [points], as far as all seeds go.

    [1] where all seeds go is a single point; None where the seeds have no part of the axis in common, and of scores
    without steps. The ends are NaN where there is a single seed, which tells nothing of the spread.

    Args:
      x: "steps" or "seconds". Raises ValueError for "seconds" where not every curve knows its wall clock.
    """
    curves = [c for c in curves if len(c.steps)]
    axes = axes_of(curves, x)
    if any(np.isnan(axis).any() for axis in axes):
        raise ValueError("--x seconds: not every curve knows its wall clock")
    begin, end = common_range(axes)
    if end < begin or any(c.alone for c in curves):
        return None
    grid = np.linspace(begin, end, POINTS if end > begin else 1)
    values = interpolate([(axis, c.value) for axis, c in zip(axes, curves, strict=True)], grid)
    nothing = np.full(len(grid), np.nan)
    low, high = statistics.interval([values]) or (nothing, nothing)
    return grid, statistics.iqm(values), values.mean(0), low, high


def smoothed(curve: Curve, n: int) -> Curve:
    """Returns the curve as a moving average: each value the mean of the last `n` up to it, of fewer at the beginning.
    `n` below 2 leaves the curve as it is."""
    if n < 2:
        return curve
    total, end = np.cumsum([0.0, *curve.value]), np.arange(1, len(curve.value) + 1)
    begin = np.maximum(end - n, 0)
    return dataclasses.replace(curve, value=(total[end] - total[begin]) / (end - begin))


def mixed(groups: Groups, by: Sequence[str]) -> list[str]:
    """Returns a note for each group whose curves differ in more than their seeds. Different lengths are the subject of
    `short`."""
    notes = []
    for (env, label), curves in groups.items():
        differences = {n: values for n, values in differing(curves).items() if n != "total_steps"}
        if "algo" in differences:  # which differ in dozens of settings that say nothing more
            differences = {"algo": differences["algo"]}
        if differences:
            what = "; ".join(f"{name} {', '.join(values)}" for name, values in differences.items())
            notes.append(
                f"{env}, {label}: its {len(curves)} curves differ in more than their seeds ({what}); "
                f"--by {','.join([*by, *differences])} tells them apart"
            )
    return notes


def short(groups: Groups) -> list[str]:
    """Returns notes on seeds of unequal length: which seeds stopped short, and how far bands go."""
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
        begin, end = common_range(axes_of(curves, "steps"))
        if len(ends) > 1 and begin <= end:  # otherwise `disjoint` tells
            notes.append(
                f"{env}, {label}: curves of {len(curves)} seeds end between {min(ends):.0f} and {max(ends):.0f} steps; "
                "the band and auc end with the first"
            )
    return notes


def disjoint(groups: Groups, x: str) -> list[str]:
    """Returns a note for each group whose curves have no part of the axis `x` ("steps" or "seconds") in common."""
    notes = []
    for (env, label), curves in groups.items():
        begin, end = common_range(axes_of(curves, x))
        if end < begin and any(len(c.steps) for c in curves):
            notes.append(f"{env}, {label}: no band, as its curves have no {x} in common")
    return notes
