"""Gold against KL for several weights of the KL to the first policy, taken off a learned reward."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pages.markdown import table
from experiments.studies import figures
from experiments.studies.alignment import curves, overoptimisation
from experiments.studies.alignment.models import trained
from experiments.studies.alignment.settings import LEARNT, MODELS, Sizes
from experiments.studies.alignment.training import learn_from
from experiments.studies.study import Experiment, Figure, Say

WEIGHTS = (0.1, 0.3, 1.0)


def _cell(sizes: Sizes, say: Say, weight: float) -> dict[str, Any]:
    found = trained(sizes, sizes.pairs)
    _, learnt = learn_from(found.model.score, found.params, sizes, say, kl_weight=weight)
    return {"learnt": learnt}


EXPERIMENT = Experiment(
    "penalties",
    {f"{weight:g}": partial(_cell, weight=weight) for weight in WEIGHTS},
    MODELS + LEARNT,
)


def by_weight(numbers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the curves by the weight of the KL, that of no penalty first."""
    free = {"0": numbers["overoptimisation"]["many"]["learnt"]}
    return free | {weight: cell["learnt"] for weight, cell in numbers["penalties"].items()}


def draw(numbers: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws figure 3 at `path`."""
    figure = figures.empty(11, 4.4)
    left, right = figure.subplots(1, 2)
    for (weight, learnt), colour in zip(by_weight(numbers).items(), curves.COLOURS, strict=False):
        label = f"weight {weight}"
        curves.draw_seeds(left, curves.distance(learnt["kl"]), learnt["gold"], colour, label)
        curves.draw_seeds(right, learnt["marks"], learnt["gold"], colour, label)
    figures.panel(
        left, "Gold against distance", "√KL to the first policy", "share of positions right"
    )
    figures.panel(right, "Gold against iterations", "iterations", "share of positions right")
    left.legend(frameon=False, fontsize=8.5)
    figures.save(figure, path)


def words(numbers: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the lines below figure 3."""
    rows = []
    for weight, learnt in by_weight(numbers).items():
        at, _, highest, _ = curves.peak(learnt["gold"])
        end = np.asarray(learnt["gold"])[:, -1]
        kl, proxy = (curves.mean(learnt[name]) for name in ("kl", "proxy"))
        rows.append(
            [
                weight,
                f"{highest:.2f}",
                f"{kl[at]:.1f}",
                curves.span(end),
                f"{kl[-1]:.1f}",
                f"{proxy[-1]:+.2f}",
            ]
        )
    head = [
        "weight of the KL",
        "highest gold",
        "its KL",
        "gold in the end",
        "KL in the end",
        "proxy in the end",
    ]
    ends = {weight: curves.mean(x["gold"])[-1] for weight, x in by_weight(numbers).items()}
    best = max(ends, key=lambda weight: ends[weight])
    return [
        "GRPO on the models of most pairs of figure 1, the KL to the first policy (k1) taken off the reward of each "
        f"token. In the end gold is {ends['0']:.2f} without a penalty, and highest, {ends[best]:.2f}, with weight "
        f"{best}. Means over seeds, of the last gold (lowest to highest).",
        "",
        *table(head, rows, str),
    ]


FIGURE = Figure(
    "3",
    "penalties",
    "3. The weight of the KL",
    (overoptimisation.EXPERIMENT, EXPERIMENT),
    draw,
    words,
)
