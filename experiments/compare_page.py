"""The page of a comparison, in Markdown: figures, scores, probabilities of improvement, and notes."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import profiles, statistics
from experiments.curves import Curve
from experiments.spec import short_name

Groups = dict[tuple[str, str], list[Curve]]  # (environment, what is compared) to seeds
HEADER = ("env", "algo", "metric", "iqm", "mean", "ci_low", "ci_high", "seeds")
_BEGIN = "# Comparison of "
_EXPLAINED = {  # what a row is, where it needs saying
    "auc": "mean height of the curve over the steps that all seeds of the row have.",
    "steps_to_threshold": "a seed that never reaches the threshold counts as infinite; `seeds` says how many reach it. "
    "So the mean is inf where any does not, and the IQM where those that do not are more than the quarter left out.",
    "seconds_to_threshold": "as steps_to_threshold, of seeds whose wall clock is known.",
    "optimality_gap": "by how much final values fall short of the threshold, on average; the interval is the mean's.",
}


def is_page(text: str) -> bool:
    return text.startswith(_BEGIN)


def is_table(text: str) -> bool:
    return text.startswith(",".join(HEADER))


def page(
    rows: list[tuple[Any, ...]],
    groups: Groups,
    pictures: dict[str, str],
    notes: list[str],
    metric: str,
    together: profiles.Together | None = None,
) -> str:
    lines = [f"{_BEGIN}{metric}", ""]
    lines += [f"![{env}]({name}.png)\n" for env, name in pictures.items()]
    lines += ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    lines += [
        "",
        "IQM: mean without the lowest and highest quarter of the seeds (with three or fewer, the mean). "
        "The interval of one seed is its value: it tells nothing of the spread.",
        "",
    ]
    there = {row[2] for row in rows}
    lines += [f"- {name}: {what}" for name, what in _EXPLAINED.items() if name in there]
    lines += [""]
    if together:
        lines += [_together(together), ""]
    better = _improvements(groups)
    if together:
        better += _square("all", list(together.curves), profiles.improvements(together))
    if better:
        lines += [
            "Probability that a run of the row ends higher than one of the column:",
            "",
            *better,
        ]
    if notes:
        lines += ["Left out, or to be kept in mind:", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def _together(together: profiles.Together) -> str:
    ranges = ", ".join(
        f"{short_name(env)} {low:g} to {high:g}" for env, (low, high) in together.ranges.items()
    )
    return (
        f"env all: normalised scores, 0 to 1 from the low to the high end of each environment's range ({ranges}); "
        "unless given with --normalize, that is from random actions to the best published number of any algorithm. "
        f"{profiles.GAP}: by how much final scores fall short of 1, on average."
    )


def _improvements(groups: Groups) -> list[str]:
    lines: list[str] = []
    for env in dict.fromkeys(env for env, _ in groups):
        final = {
            label: np.array([c.value[-1] for c in curves])
            for (e, label), curves in groups.items()
            if e == env
        }
        chances = {
            (a, b): statistics.probability_of_improvement(x, y)
            for a, x in final.items()
            for b, y in final.items()
        }
        lines += _square(short_name(env), list(final), chances)
    return lines


def _square(corner: str, labels: list[str], chances: dict[tuple[str, str], float]) -> list[str]:
    """A table of rows against columns; none of a single label."""
    if len(labels) < 2:
        return []
    lines = [f"| {corner} | " + " | ".join(labels) + " |", "|---" * (len(labels) + 1) + "|"]
    for a in labels:
        cells = ["" if a == b else f"{chances[a, b]:.2f}" for b in labels]
        lines.append(f"| {a} | " + " | ".join(cells) + " |")
    return [*lines, ""]
