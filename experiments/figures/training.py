"""Figures of one run: its learning curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.figures.alignment import Line, align
from experiments.figures.canvas import BLUE, RED, canvas, save, style

Rows = list[dict[str, Any]]  # of metrics.jsonl


def learning_curve(
    seeds: list[Rows], path: Path, title: str, unit: str = "environment steps"
) -> Path:
    """Draws return and episode length, in training and evaluated, against steps, and returns `path`.

    Args:
      seeds: each seed's rows of metrics.
      unit: what the steps are.
    """
    figure, axes = _two_panels(title)
    _panel(axes[0], seeds, "return", "return")
    _panel(axes[1], seeds, "length", "episode length")
    axes[1].set_xlabel(unit + _of_each(seeds))
    axes[0].legend(frameon=False, fontsize=9)
    return save(figure, path)


def pass_curve(seeds: list[Rows], path: Path, title: str) -> Path:
    """Draws pass@1 and pass@8 on held-out prompts, and the reward in training, against tokens written at most, and
    returns `path`. `seeds`: each seed's rows of metrics."""
    figure, axes = _two_panels(title)
    panels = (
        (axes[0], "eval/pass_at_1", BLUE, "pass@1"),
        (axes[0], "eval/pass_at_8", RED, "pass@8"),
        (axes[1], "train/return", BLUE, "reward in training"),
    )
    for ax, name, color, label in panels:
        curves = [column(rows, name) for rows in seeds]
        for curve in curves if len(seeds) > 1 else []:
            ax.plot(*curve, color=color, alpha=0.25, linewidth=0.8)
        ax.plot(*mean_curve(curves), color=color, linewidth=1.8, label=label)
    axes[0].set_ylabel("share of held-out prompts")
    axes[0].set_ylim(-0.02, 1.02)
    axes[1].set_ylabel("reward in training")
    axes[1].set_xlabel("tokens, responses counted in full" + _of_each(seeds))
    axes[0].legend(frameon=False, fontsize=9)
    for ax in axes:
        style(ax)
    return save(figure, path)


def column(rows: Rows, name: str) -> Line:
    """Returns environment steps and values of one metric, without the rows that lack it."""
    points = [(row["env_steps"], row[name]) for row in rows if row.get(name) is not None]
    x, y = np.array(points, float).reshape(-1, 2).T
    return x, y


def mean_curve(curves: list[Line]) -> Line:
    """Returns the mean over seeds at every step at which any seed has a value, as far as all seeds go."""
    x, values = align(curves)
    return x, np.mean(values, axis=0)


def _two_panels(title: str) -> tuple[Any, Any]:
    figure = canvas(8, 6)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.02, ha="left")
    return figure, axes


def _of_each(seeds: list[Rows]) -> str:
    return " (per seed)" if len(seeds) > 1 else ""


def _panel(ax: Any, seeds: list[Rows], name: str, label: str) -> None:
    curves = [column(rows, f"train/{name}") for rows in seeds]
    marks = [column(rows, f"eval/{name}") for rows in seeds]
    if len(seeds) > 1:
        for x, y in curves:
            ax.plot(x, y, color=BLUE, alpha=0.3, linewidth=0.8)
    what = f"mean of {len(seeds)} seeds" if len(seeds) > 1 else "training episodes"
    ax.plot(*mean_curve(curves), color=BLUE, linewidth=1.8, label=what)
    ax.plot(
        *mean_curve(marks),
        color=RED,
        linewidth=1.2,
        marker="o",
        markersize=4,
        markerfacecolor="white",
        label="evaluation, deterministic",
    )
    ax.set_ylabel(label)
    style(ax)
