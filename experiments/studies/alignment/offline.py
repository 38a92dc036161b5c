"""RLHF against DPO on the same pairs: gold against KL, and against time."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pages.markdown import table
from experiments.studies import figures
from experiments.studies.alignment import curves, overoptimisation, pair_losses, penalties
from experiments.studies.alignment.models import pairs_of
from experiments.studies.alignment.settings import Sizes
from experiments.studies.alignment.training import train
from experiments.studies.study import Experiment, Figure, Say

BETAS = (0.1, 0.5)
SHOWN = ("0", "0.3")  # weights of the KL in RLHF


def _cell(sizes: Sizes, say: Say, beta: float) -> dict[str, Any]:
    steps = sizes.model_steps // 2
    marks = sorted({round(steps * share) for share in (0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1)})
    _, learnt = train(
        lambda own: pair_losses.dpo(sizes, own, steps, beta=beta),
        pairs_of(sizes, sizes.pairs),
        sizes,
        marks,
        say,
        start=pair_losses.begin_pairs,
        measured=pair_losses.measure_pairs,
    )
    return {"learnt": learnt}


EXPERIMENT = Experiment(
    "offline",
    {f"{beta:g}": partial(_cell, beta=beta) for beta in BETAS},
    ("pairs", "model_steps"),
)


def _lines(numbers: dict[str, dict[str, Any]]) -> dict[str, tuple[dict[str, Any], float]]:
    """Curves by name, and the seconds that pass before their training begins."""
    model = numbers["overoptimisation"]["many"]["model_seconds"]
    weights = penalties.by_weight(numbers)
    lines = {f"RLHF, KL weight {w}": (weights[w], model) for w in SHOWN}
    for beta, cell in numbers["offline"].items():
        lines[f"DPO, β = {beta}"] = cell["learnt"], 0.0
    return lines


def draw(numbers: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws figure 7 at `path`."""
    figure = figures.empty(11, 4.4)
    left, right = figure.subplots(1, 2)
    for (name, (learnt, before)), colour in zip(
        _lines(numbers).items(), curves.COLOURS, strict=False
    ):
        style = "--" if name.startswith("DPO") else "-"
        curves.draw_seeds(
            left, curves.distance(learnt["kl"]), learnt["gold"], colour, name, linestyle=style
        )
        seconds = np.asarray(learnt["seconds"]) + before
        curves.draw_seeds(right, seconds, learnt["gold"], colour, name, linestyle=style)
    figures.panel(
        left, "Gold against distance", "√KL to the first policy", "share of positions right"
    )
    figures.panel(
        right, "Gold against time", "seconds of training, one core", "share of positions right"
    )
    left.legend(frameon=False, fontsize=8.5)
    figures.save(figure, path)


def words(numbers: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the lines below figure 7."""
    rows = []
    for name, (learnt, before) in _lines(numbers).items():
        at, _, highest, _ = curves.peak(learnt["gold"])
        end = np.asarray(learnt["gold"])[:, -1]
        kl = curves.mean(learnt["kl"])
        seconds = np.asarray(learnt["seconds"]) + before
        rows.append(
            [
                name,
                f"{highest:.2f}",
                f"{kl[at]:.1f}",
                f"{seconds[at]:.0f} s",
                curves.span(end),
                f"{kl[-1]:.1f}",
                f"{seconds[-1]:.0f} s",
            ]
        )
    pairs = numbers["overoptimisation"]["many"]["pairs"]
    head = [
        "learner",
        "highest gold",
        "its KL",
        "its time",
        "gold in the end",
        "its KL",
        "its time",
    ]
    return [
        f"The same {pairs} pairs: RLHF trains a reward model of them, then GRPO on that; DPO trains on them, half as "
        "many steps as the reward model. Time is that of one seed's training on one core, without compilation and "
        "evaluation. Other work shared the machine: of GRPO and DPO it is the number of steps times the least time "
        "of a step, of the reward model the time that passed, an upper bound.",
        "",
        *table(head, rows, str),
    ]


FIGURE = Figure(
    "7",
    "offline",
    "7. RLHF and DPO",
    (overoptimisation.EXPERIMENT, penalties.EXPERIMENT, EXPERIMENT),
    draw,
    words,
)
