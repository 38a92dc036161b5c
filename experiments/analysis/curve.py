"""A cleaned learning curve, and the differences between two curves."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.run.schema import LARGEST

NAME = "NAME"  # field of a curve: the name given to its source; in capitals, unlike settings
NEAR = 0.95  # of the steps of the longest seed, with which another counts as having ended, too


@dataclasses.dataclass(frozen=True)
class Curve:
    """The learning curve of one seed."""

    fields: dict[str, Any]  # env, algo, seed; settings and the environment's options where known
    steps: np.ndarray  # [n] environment steps, ascending
    seconds: np.ndarray  # [n] wall clock; NaN where it is not known
    value: np.ndarray  # [n]
    finished: bool
    source: Path = Path()
    diverged: bool = False  # what came after the last value here was not finite
    planned: float | None = None  # steps of the whole run; None: not known
    alone: bool = False  # a score without steps

    @property
    def settings(self) -> dict[str, Any]:
        """All fields but the seed."""
        return {name: value for name, value in self.fields.items() if name != "seed"}

    @property
    def name(self) -> str:
        """Environment, algorithm and seed, for messages."""
        return "{env}, {algo}, seed {seed}".format(**self.fields)

    @property
    def brief(self) -> bool:
        """True for a curve from a record, which lacks settings at their defaults."""
        return self.source.suffix == ".json" and not self.alone


Groups = dict[tuple[str, str], list[Curve]]  # (environment, label) to seeds


def measured(
    fields: dict[str, Any], points: Sequence[tuple[float, ...]], finished: bool, source: Path
) -> Curve:
    """Returns the curve of `points`, (steps, seconds, value) each, in the order in which they were written."""
    steps, seconds, value = np.array(points, float).reshape(-1, 3).T
    return Curve(fields, steps, seconds, value, finished, source)


def cleaned(curve: Curve) -> tuple[Curve | None, list[str]]:
    """Returns the curve in the order of steps, each step once and with finite values, and notes on what was dropped.
    The curve is None where no point is left and none was lost to a value that is not finite; it has diverged where such
    a value is the last."""
    finite_value = np.abs(curve.value) <= LARGEST  # NaN is not
    finite = np.flatnonzero(np.isfinite(curve.steps) & finite_value)
    order = finite[np.argsort(curve.steps[finite], kind="stable")]
    kept = order[np.diff(curve.steps[order], append=np.inf) > 0]
    where, notes = f"{curve.source}, {curve.name}", []
    lost = curve.steps[np.isfinite(curve.steps) & ~finite_value]
    end = curve.steps[order[-1]] if len(order) else -np.inf
    diverged = curve.diverged or bool(len(lost) and lost.max() >= end)
    if len(finite) < len(curve.steps):
        left = len(curve.steps) - len(finite)
        notes.append(f"{where}: {left} of {len(curve.steps)} points are not finite and left out")
    if len(kept) < len(order):
        notes.append(
            f"{where}: {len(order) - len(kept)} points are at the steps of later ones, which count"
        )
    if diverged:
        at = f"after step {end:.0f}" if len(order) else "from the beginning"
        notes.append(f"{where}: it diverged {at}, and counts as worse than any other")
    if not len(kept) and not diverged:
        return None, notes
    seconds = np.where(np.isfinite(curve.seconds), curve.seconds, np.nan)[kept]
    steps, value = curve.steps[kept], curve.value[kept]
    return (
        dataclasses.replace(curve, steps=steps, seconds=seconds, value=value, diverged=diverged),
        notes,
    )


def ended(curves: Sequence[Curve]) -> tuple[list[Curve], list[Curve]]:
    """Returns the seeds of a group that can be scored, and the seeds that stopped short.

    A seed stopped short where its run is not finished or, where nothing is known of that, where it has less than NEAR
    of the steps that the longest of the group has. A seed that diverged can be scored: as worse than any.
    """
    longest = max((c.steps[-1] for c in curves if len(c.steps)), default=0.0)
    whole = [c for c in curves if c.diverged or _is_whole(c, longest)]
    return whole, [c for c in curves if not any(c is w for w in whole)]


def _is_whole(curve: Curve, longest: float) -> bool:
    if not curve.finished:
        return False
    return curve.planned is not None or curve.steps[-1] >= NEAR * longest


def final(curve: Curve) -> float:
    """Returns the last value; -inf for a seed that diverged."""
    return -np.inf if curve.diverged else float(curve.value[-1])


def best(curve: Curve) -> float:
    """Returns the highest value; -inf for a seed that diverged."""
    return -np.inf if curve.diverged else float(curve.value.max())


def same_run(a: Curve, b: Curve) -> bool:
    """Tells that two curves have equal seeds and no known setting in which they differ."""
    return str(a.fields["seed"]) == str(b.fields["seed"]) and not _apart(a, b)


def same_values(a: Curve, b: Curve) -> bool:
    """Tells that two curves agree to the five digits that records keep."""
    return len(a.steps) == len(b.steps) and np.allclose(
        [a.steps, a.value], [b.steps, b.value], rtol=1e-4, atol=0
    )


def differing(curves: Sequence[Curve]) -> dict[str, list[str]]:
    """Returns the settings in which curves are known to differ, each with its values as texts."""
    unlike: list[Curve] = []
    for curve in curves:
        if not any((curve.settings, curve.brief) == (c.settings, c.brief) for c in unlike):
            unlike.append(curve)
    apart = sorted(set().union(*(_apart(a, b) for a, b in itertools.combinations(unlike, 2))))
    values = {
        name: [c.settings.get(name, "the default") for c in unlike if c.brief or name in c.settings]
        for name in apart
    }
    return {name: list(dict.fromkeys(map(str, each))) for name, each in values.items()}


def _apart(a: Curve, b: Curve) -> set[str]:
    """Settings in which the two are known to differ: of two records also what only one of them has."""
    mine, yours = a.settings, b.settings
    names = mine.keys() | yours.keys() if a.brief and b.brief else mine.keys() & yours.keys()
    return {name for name in names if mine.get(name) != yours.get(name)}
