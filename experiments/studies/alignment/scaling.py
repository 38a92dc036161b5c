"""The highest gold that a reward model leads to, against the number of its pairs and its width."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pages.markdown import table
from experiments.studies import figures
from experiments.studies.alignment import curves
from experiments.studies.alignment.cells import Experiment, Figure, Say
from experiments.studies.alignment.models import trained
from experiments.studies.alignment.overoptimisation import model_numbers
from experiments.studies.alignment.settings import Sizes
from experiments.studies.alignment.training import learn_from

SHARES = (16, 4, 1)  # of the pairs: one in so many
WIDTHS = (1 / 4, 1 / 2, 1)  # of the policy's
_MARKS = 9  # the first so many: peaks come early


def _cell(sizes: Sizes, say: Say, share: int, part: float) -> dict[str, Any]:
    pairs, width = max(sizes.step_pairs, sizes.pairs // share), int(sizes.width * part)
    width = max(width, 2 * sizes.heads)
    found = trained(sizes, pairs, width=width, from_policy=False)
    numbers = model_numbers(found, sizes)
    short = dataclasses.replace(sizes, marks=sizes.marks[:_MARKS])
    _, learnt = learn_from(found.model.score, found.params, short, say)
    return numbers | {"pairs": pairs, "width": width, "learnt": learnt}


EXPERIMENT = Experiment(
    "scaling",
    {
        f"1/{share} of the pairs, {part:g} of the width": partial(_cell, share=share, part=part)
        for part in WIDTHS[::-1]
        for share in SHARES
    },
)


def draw(numbers: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws figure 2 at `path`."""
    figure = figures.empty(11, 4.4)
    axes = figure.subplots(1, 2, sharey=True)
    titles = {"best_of_n": "Best of n", "learnt": "Reinforcement"}
    by_width: dict[int, list[dict[str, Any]]] = {}
    for cell in numbers["scaling"].values():
        by_width.setdefault(cell["width"], []).append(cell)
    for ax, (way, title) in zip(axes, titles.items(), strict=True):
        for (width, cells), colour in zip(sorted(by_width.items()), curves.COLOURS, strict=False):
            highest = np.stack([np.max(cell[way]["gold"], axis=1) for cell in cells], axis=1)
            pairs = [cell["pairs"] for cell in cells]
            curves.draw_seeds(ax, pairs, highest, colour, f"width {width}", marker="o")
        label = "highest share of positions right" if ax is axes[0] else ""
        figures.panel(ax, f"{title}: highest gold", "pairs", label)
        ax.set_xscale("log", base=4)
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes[0].legend(frameon=False, fontsize=8.5)
    figures.save(figure, path)


def words(numbers: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the lines below figure 2."""
    rows = []
    for cell in numbers["scaling"].values():
        best, learnt = cell["best_of_n"], cell["learnt"]
        at, _, highest, last = curves.peak(best["gold"])
        (learnt_at, _, learnt_highest, _) = curves.peak(learnt["gold"])
        rows.append(
            [
                cell["width"],
                cell["pairs"],
                curves.span(cell["agreement"]),
                f"{highest:.2f} (n = {best['n'][at]})",
                f"{last:.2f}",
                f"{learnt_highest:.2f} (iteration {learnt['marks'][learnt_at]})",
                f"{curves.mean(learnt['gold'])[-1]:.2f} (iteration {learnt['marks'][-1]})",
            ]
        )
    head = [
        "width",
        "pairs",
        "agrees with gold",
        "best of n: highest",
        "last n",
        "GRPO: highest",
        "GRPO: last",
    ]
    return [
        "Reward models whose layers are random at first (not the policy's, whose width they do not share), each with "
        "the same number of gradient steps; gold by best-of-n and by GRPO without a KL penalty. The figure has each "
        "seed's own highest gold, the table that of the mean curve.",
        "",
        *table(head, rows, str),
    ]


FIGURE = Figure("2", "scaling", "2. Pairs and width", (EXPERIMENT,), draw, words)
