"""The page of a comparison, in Markdown: figures, scores, probabilities of improvement, and notes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis import profiles, statistics
from experiments.analysis.curve import Groups, ended, final
from experiments.analysis.groups import band, smoothed
from experiments.console import outputs
from experiments.figures import comparison
from experiments.pages.markdown import inert, item, picture, table

HEADER = ("env", "algo", "metric", "iqm", "mean", "ci_low", "ci_high", "seeds")
_BEGIN = "# Comparison of "
_EXPLAINED = {  # what a row is, where it needs saying
    "best": "the highest value of each seed: a maximum over noisy evaluations lies too high, and its interval with it.",
    "normalised_best": "as best: a maximum lies too high, and its interval with it.",
    "auc": "mean height of the curve over the steps that all seeds of the row have.",
    "steps_to_threshold": "a seed that never reaches the threshold counts as infinite; `seeds` says how many reach it. "
    "So the mean is inf where any does not, and the IQM where those that do not are more than the quarter left out.",
    "seconds_to_threshold": "as steps_to_threshold, of seeds whose wall clock is known.",
    "optimality_gap": "by how much final values fall short of the threshold, on average; the interval is the mean's.",
}


def is_page(text: str) -> bool:
    """Tells that `page` wrote a text."""
    return text.startswith(_BEGIN)


def is_table(text: str) -> bool:
    """Tells that a text is a scores.csv."""
    return text.startswith(",".join(HEADER))


def page(
    rows: list[tuple[Any, ...]],
    groups: Groups,
    called: Mapping[str, str],
    pictures: dict[str, str],
    notes: list[str],
    metric: str,
    together: profiles.Together | None = None,
) -> str:
    """Returns the text. `called`: how environments are called; `pictures`: subjects of the figures, with their names
    without suffix."""
    lines = [f"{_BEGIN}{inert(metric)}", ""]
    lines += [f"{picture(shown, f'{name}.png')}\n" for shown, name in pictures.items()]
    lines += table(HEADER, rows)
    lines += [
        "",
        "IQM: mean without the lowest and highest quarter of the seeds (with three or fewer, the mean). "
        f"{statistics.coverage_note()}",
        "",
    ]
    if any("diverged" in str(row[-1]) for row in rows):
        lines += ["A seed that diverged counts as worse than any: -inf.", ""]
    if any(" of " in str(row[-1]) for row in rows if row[2] == "final"):
        lines += ["A seed that stopped short is not scored, but drawn as far as it went.", ""]
    there = {row[2] for row in rows}
    lines += [f"- {name}: {what}" for name, what in _EXPLAINED.items() if name in there]
    lines += [""]
    if together:
        lines += [_together(together, called), ""]
    better = _improvements(groups, called)
    if together:
        better += _square("all", list(together.curves), profiles.improvements(together))
    if better:
        lines += [
            "Probability that a run of the row ends higher than one of the column:",
            "",
            *better,
        ]
    if notes:
        lines += ["Left out, or to be kept in mind:", "", *map(item, notes), ""]
    return "\n".join(lines)


def draw(
    groups: Groups, called: Mapping[str, str], out: Path, metric: str, x: str, smooth: int
) -> dict[str, str]:
    """Draws the curves of each environment, as PNG and SVG in `out`. Returns the figures' names, without suffix, by the
    environments' names; an environment without a curve has none.

    Args:
      called: how environments are called.
      metric: the name of the ordinate; x: "steps" or "seconds".
      smooth: evaluations of the moving average, 0 for none.
    """
    files = outputs.file_names(called.values())
    pictures = {}
    for env, name in called.items():
        of_env = {label: curves for (e, label), curves in groups.items() if e == env}
        bands = {
            f"{label} (n={len(curves)})": found_band
            for label, curves in of_env.items()
            if (found_band := band([smoothed(c, smooth) for c in curves], x))
            and len(found_band[0]) > 1  # a point alone is no curve
        }
        if not bands:
            continue
        pictures[name] = f"curves-{files[name]}"
        what = f"IQM and nominal 95% bootstrap band, mean dashed; {_smoothing(smooth)}"
        labels = {f"{label} (n={len(curves)})": label for label, curves in of_env.items()}
        for suffix in ("png", "svg"):
            path = out / f"{pictures[name]}.{suffix}"
            comparison.interval_bands(bands, path, f"{name}\n{what}", x, metric, labels)
    return pictures


def _smoothing(n: int) -> str:
    return f"moving average of {n} evaluations" if n > 1 else "not smoothed"


def _together(together: profiles.Together, called: Mapping[str, str]) -> str:
    ranges = ", ".join(
        f"{inert(called[env])} {low:g} to {high:g}" for env, (low, high) in together.ranges.items()
    )
    return (
        "env all: every environment weighs the same, however many seeds it has. Normalised scores are 0 to 1 from the "
        f"low to the high end of each environment's range ({ranges}); unless given with --normalize, that is from "
        "random actions to the best published number of any algorithm. "
        f"{profiles.GAP}: by how much final scores fall short of 1, on average."
    )


def _improvements(groups: Groups, called: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for env in dict.fromkeys(env for env, _ in groups):
        ends = {
            label: np.array([final(c) for c in ended(curves)[0]])
            for (e, label), curves in groups.items()
            if e == env
        }
        ends = {label: scores for label, scores in ends.items() if len(scores)}
        chances = {
            (a, b): statistics.probability_of_improvement(x, y)
            for a, x in ends.items()
            for b, y in ends.items()
        }
        lines += _square(called[env], list(ends), chances)
    return lines


def _square(corner: str, labels: list[str], chances: dict[tuple[str, str], float]) -> list[str]:
    """Returns a table of rows against columns; nothing for a single label."""
    if len(labels) < 2:
        return []
    rows = [[a, *("" if a == b else f"{chances[a, b]:.2f}" for b in labels)] for a in labels]
    return [*table([corner, *labels], rows), ""]
