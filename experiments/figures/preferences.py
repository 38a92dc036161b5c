"""The figure of runs that learn their reward from preferences: the true return beside what the learner sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.figures.alignment import Line, align
from experiments.figures.canvas import BLUE, GOLD, RED, canvas, save, style

# Metrics of a row, by the panel below that of the true return: (name, colour, label).
PANELS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "learned reward\nof a step": (("preferences/reward", RED, "mean over the rollout"),),
    "learned against true": (
        ("preferences/correlation", RED, "correlation over a rollout's steps"),
        ("preferences/validation_accuracy", GOLD, "held-out pairs answered alike"),
    ),
    "pairs compared": (("preferences/pairs", BLUE, ""),),
}
METRICS = tuple(name for lines in PANELS.values() for name, *_ in lines)


def preference_panels(
    returns: Sequence[Line], metrics: Sequence[Mapping[str, Line]], path: Path, title: str
) -> Path:
    """Draws the mean over seeds, and each seed faintly, against environment steps, and returns `path`.

    Args:
      returns: evaluated true returns, of each seed.
      metrics: of each seed, the curves of `METRICS`.
    """
    figure = canvas(8, 8)
    top, *below = figure.subplots(1 + len(PANELS), 1, sharex=True, height_ratios=[2, 1, 1, 0.7])
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.02, ha="left")
    _draw(top, returns, BLUE, "not seen by the learner")
    top.set_ylabel("true return, evaluated")
    for ax, (heading, lines) in zip(below, PANELS.items(), strict=True):
        for name, color, label in lines:
            _draw(ax, [seed[name] for seed in metrics], color, label)
        ax.set_ylabel(heading)
    below[-1].set_xlabel("environment steps (per seed)")
    for ax in (top, *below):
        style(ax)
        if any(ax.get_legend_handles_labels()[1]):
            ax.legend(frameon=False, fontsize=9)
    return save(figure, path)


def _draw(ax: Any, curves: Sequence[Line], color: str, label: str) -> None:
    for curve in curves if len(curves) > 1 else []:
        ax.plot(*curve, color=color, alpha=0.3, linewidth=0.8)
    x, values = align(curves)
    ax.plot(x, np.mean(values, axis=0), color=color, linewidth=1.8, label=label)
