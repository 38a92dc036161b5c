"""Figures that compare runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.figures.alignment import Line, quartiles
from experiments.figures.canvas import GREY, canvas, looks, save, style
from experiments.figures.training import Rows, column, mean_curve

_MANY = 6  # curves in a figure; with more, the legend is beside it
_UNEQUAL = 5  # longest run over shortest, beyond which the axis of steps is logarithmic


def mean_curves(
    runs: dict[str, list[Rows]],
    path: Path,
    metric: str = "eval/return",
    label_y: str = "return, evaluated",
) -> Path:
    """Draws a metric of several runs against environment steps, the mean over seeds and each seed faintly, and returns
    `path`. `runs`: label to each seed's rows of metrics."""
    figure = canvas(8, 5)
    ax = figure.subplots()
    colors = looks(runs)
    for label, seeds in runs.items():
        color, line = colors[label]
        curves = [column(rows, metric) for rows in seeds]
        for curve in curves if len(seeds) > 1 else []:
            ax.plot(*curve, color=color, alpha=0.25, linewidth=0.8)
        middle = mean_curve(curves)
        ax.plot(*middle, line, color=color, linewidth=1.8, marker="o", markersize=3, label=label)
    ax.set_xlabel("environment steps (per seed)")
    ax.set_ylabel(label_y)
    ax.legend(frameon=False, fontsize=9)
    style(ax)
    return save(figure, path)


def interval_bands(
    curves: dict[str, tuple[np.ndarray, ...]],
    path: Path,
    title: str,
    x: str,
    y: str,
    names: Mapping[str, str] | None = None,
) -> Path:
    """Draws a band, its middle, and the mean thin and dashed for each curve, and returns `path`.

    Args:
      curves: label to (abscissa, IQM, mean, low end, high end), each [points]; ends of NaN draw no band.
      x: "steps" or "seconds"; y: the name of the metric.
      names: the labels by which curves have their colours; None: those of `curves`.
    """
    figure = canvas(8, 5)
    ax = figure.subplots()
    names = names or {label: label for label in curves}
    colors = looks(names.values(), second_line=":")  # dashes are the mean's
    for label, (grid, middle, mean, low, high) in curves.items():
        color, line = colors[names[label]]
        ax.fill_between(grid, low, high, color=color, alpha=0.18, linewidth=0)
        ax.plot(grid, middle, line, color=color, linewidth=1.8, label=label)
        ax.plot(grid, mean, "--", color=color, linewidth=0.7)
    ax.set_title(title, fontsize=11, fontweight="bold", loc="left")
    ax.set_xlabel("environment steps (per seed)" if x == "steps" else "wall clock, seconds")
    ax.set_ylabel(y)
    ax.legend(frameon=False, fontsize=9)
    style(ax)
    return save(figure, path)


def profiles(curves: dict[str, tuple[np.ndarray, ...]], path: Path, title: str) -> Path:
    """Draws performance profiles, with a mark where the score is 1, and returns `path`. `curves`: label to (normalised
    score, share of runs above it, low end, high end), each [points]."""
    figure = canvas(8, 5)
    ax = figure.subplots()
    ax.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    colors = looks(curves)
    for label, (scores, share, low, high) in curves.items():
        color, line = colors[label]
        ax.fill_between(scores, low, high, color=color, alpha=0.18, linewidth=0, step="post")
        ax.plot(
            scores, share, line, color=color, linewidth=1.8, label=label, drawstyle="steps-post"
        )
    ax.set_title(title, fontsize=10, fontweight="bold", loc="left")
    ax.set_xlabel("normalised score")
    ax.set_ylabel("share of runs above it")
    ax.set_ylim(-0.02, 1.02)
    ax.legend(frameon=False, fontsize=9)
    style(ax)
    return save(figure, path)


def intervals(panels: dict[str, dict[str, tuple[float, ...]]], path: Path, title: str) -> Path:
    """Draws a panel for each heading, in it a bar for each label, and returns `path`. `panels`: heading to label to
    (middle, low end, high end); what is not finite is not drawn."""
    labels = list(next(iter(panels.values())))
    colors = looks(labels)
    figure = canvas(8, 1.6 + 0.4 * len(labels))
    figure.suptitle(title, fontsize=10, fontweight="bold", x=0.02, ha="left")
    for ax, (heading, of) in zip(
        figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True
    ):
        for i, label in enumerate(labels):
            _bar(ax, i, of[label], colors[label][0])
        style(ax)
        ax.use_sticky_edges = False  # bars would end at the frame
        ax.margins(x=0.08)
        ax.set_yticks(range(len(labels)), labels)
        ax.set_ylim(len(labels) - 0.5, -0.5)  # the first on top
        ax.set_xlabel(heading)
    return save(figure, path)


def _bar(ax: Any, i: int, interval: tuple[float, ...], color: str) -> None:
    middle, low, high = interval
    if np.isfinite([low, high]).all():
        ax.barh(i, high - low, 0.5, low, color=color, alpha=0.45)
    if np.isfinite(middle):
        ax.vlines(middle, i - 0.25, i + 0.25, color=color, linewidth=2.2)


def quartile_bands(curves: dict[str, list[Line]], path: Path, title: str) -> Path:
    """Draws evaluated returns of algorithms, the median and the interquartile range over seeds, and returns `path`.
    `curves`: algorithm to each seed's (environment steps, return).

    Where some run much longer than others, the axis is logarithmic: on a linear one the short runs are a wall.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    figure = canvas(8, 5)
    ax = figure.subplots()
    colors = looks(curves)
    for label, seeds in curves.items():
        color, line = colors[label]
        x, (low, middle, high) = quartiles(seeds)
        ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        ax.plot(x, middle, line, color=color, linewidth=1.8, label=label)
    ax.set_title(title, fontsize=12, fontweight="bold", loc="left")
    lengths = [x[-1] for seeds in curves.values() for x, _ in seeds if len(x)]
    unequal = bool(lengths) and max(lengths) > _UNEQUAL * min(lengths)
    if unequal:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("environment steps (per seed)" + (", logarithmic" if unequal else ""))
    ax.set_ylabel("return, evaluated")
    if len(curves) > _MANY:
        figure.legend(loc="outside right center", frameon=False, fontsize=9)
    else:
        ax.legend(frameon=False, fontsize=9)
    style(ax)
    return save(figure, path)
