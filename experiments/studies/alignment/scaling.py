"""The highest gold of best-of-n by a reward model, against the number of its pairs and its width."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pages.markdown import table
from experiments.studies import figures
from experiments.studies.alignment import curves
from experiments.studies.alignment.models import trained
from experiments.studies.alignment.overoptimisation import model_numbers
from experiments.studies.alignment.settings import BEST, MODELS, Sizes
from experiments.studies.study import Experiment, Figure, Say

SHARES = (64, 16, 4)  # of the pairs: one in so many
WIDTHS = (1, 1 / 4)  # of the policy's
_LARGE, _EPOCHS = 1024, 6  # passes over more pairs than these


def _cell(sizes: Sizes, say: Say, share: int, part: float) -> dict[str, Any]:
    pairs = max(sizes.step_pairs, sizes.pairs // share)
    width = max(int(sizes.width * part), 2 * sizes.heads)
    epochs = _EPOCHS if pairs > _LARGE else None
    found = trained(sizes, pairs, width=width, from_policy=False, epochs=epochs)
    say(f"{pairs} pairs, width {width}: agreement {np.mean(found.agreement):.3f}")
    numbers = model_numbers(found, sizes)
    return {**numbers, "pairs": pairs, "width": width, "epochs": found.model.config.num_epochs}


EXPERIMENT = Experiment(
    "scaling",
    {
        f"1/{share} of the pairs, {part:g} of the width": partial(_cell, share=share, part=part)
        for part in WIDTHS
        for share in SHARES
    },
    MODELS + BEST,
)


def draw(numbers: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws figure 2 at `path`."""
    figure = figures.empty(11, 4.4)
    left, right = figure.subplots(1, 2)
    by_width: dict[int, list[dict[str, Any]]] = {}
    for cell in numbers["scaling"].values():
        by_width.setdefault(cell["width"], []).append(cell)
    for (width, cells), colour in zip(sorted(by_width.items()), curves.COLOURS, strict=False):
        pairs, label = [cell["pairs"] for cell in cells], f"width {width}"
        best = [np.max(cell["best_of_n"]["gold"], axis=1) for cell in cells]
        agreement = [cell["agreement"] for cell in cells]
        curves.draw_seeds(left, pairs, np.stack(best, axis=1), colour, label, marker="o")
        curves.draw_seeds(right, pairs, np.stack(agreement, axis=1), colour, label, marker="o")
    figures.panel(left, "Highest gold over n", "pairs", "share of positions right")
    figures.panel(right, "Agreement with gold", "pairs", "share of new pairs")
    for ax in (left, right):
        ax.set_xscale("log", base=4)
        ax.set_xticks(sorted({cell["pairs"] for cell in numbers["scaling"].values()}))
        ax.minorticks_off()
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    left.legend(frameon=False, fontsize=8.5)
    figures.save(figure, path)


def words(numbers: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the lines below figure 2."""
    rows = []
    for cell in numbers["scaling"].values():
        best = cell["best_of_n"]
        at, first, highest, last = curves.peak(best["gold"])
        proxy = curves.mean(best["proxy"])
        gold = [f"{first:.2f}", f"{highest:.2f} (n = {best['n'][at]})", f"{last:.2f}"]
        agreement = curves.span(cell["agreement"])
        rows.append([cell["width"], cell["pairs"], agreement, *gold, f"{proxy[-1]:+.2f}"])
    last_n = best["n"][-1]
    head = [
        "width",
        "pairs",
        "agrees with gold",
        "n = 1",
        "highest",
        *(f"{x}n = {last_n}" for x in ("", "proxy, ")),
    ]
    return [
        "Reward models whose layers are random at first (not the policy's, whose width they do not share), and gold "
        f"of the best of n samples by them; {_passes(numbers)} passes over the pairs. The figure has each seed's own "
        "highest gold, the table that of the mean curve.",
        "",
        *table(head, rows, str),
    ]


def _passes(numbers: dict[str, dict[str, Any]]) -> str:
    epochs = sorted({cell["epochs"] for cell in numbers["scaling"].values()})
    return " to ".join(str(x) for x in dict.fromkeys((epochs[0], epochs[-1])))


FIGURE = Figure("2", "scaling", "2. Pairs and width", (EXPERIMENT,), draw, words)
