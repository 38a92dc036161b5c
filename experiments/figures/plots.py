"""Learning curves and statistics of runs as figures."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_COLOUR, _EVAL_COLOUR, _GREY = "#2f6f8f", "#c8573a", "#6b7280"
_PALETTE = (_COLOUR, _EVAL_COLOUR, "#4d8b57", "#8a5fa8", "#b58a2b", "#5b6470")
# As in `agents.ALGORITHMS`, which figures need not import. An algorithm looks the same in every one of them.
CONTROL = ("ppo", "trpo", "a2c", "reinforce", "grpo", "dqn", "pqn", "sac", "td3", "ddpg")
_MANY = 6  # curves in a picture, beyond which their names stand beside it
_UNEQUAL = 5  # longest run over shortest, beyond which the axis of steps is logarithmic
Rows = list[dict[str, Any]]
Curve = tuple[np.ndarray, np.ndarray]  # environment steps, value


def learning_curve(seeds: list[Rows], path: Path, title: str) -> Path:
    """Return and episode length against environment steps; `seeds` holds each seed's rows of metrics."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.02, ha="left")
    _panel(axes[0], seeds, "return", "return")
    _panel(axes[1], seeds, "length", "episode length")
    axes[1].set_xlabel("environment steps" + (" (per seed)" if len(seeds) > 1 else ""))
    axes[0].legend(frameon=False, fontsize=9)
    _save(figure, path)
    return path


def pass_curve(seeds: list[Rows], path: Path, title: str) -> Path:
    """pass@1 and pass@8 on held-out prompts, and the reward in training, against tokens written at most."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.02, ha="left")
    panels = (
        (axes[0], "eval/pass_at_1", _COLOUR, "pass@1"),
        (axes[0], "eval/pass_at_8", _EVAL_COLOUR, "pass@8"),
        (axes[1], "train/return", _COLOUR, "reward in training"),
    )
    for ax, name, color, label in panels:
        curves = [_series(rows, name) for rows in seeds]
        for curve in curves if len(seeds) > 1 else []:
            ax.plot(*curve, color=color, alpha=0.25, linewidth=0.8)
        ax.plot(*_mean(curves), color=color, linewidth=1.8, label=label)
    axes[0].set_ylabel("share of held-out prompts")
    axes[0].set_ylim(-0.02, 1.02)
    axes[1].set_ylabel("reward in training")
    axes[1].set_xlabel(
        "tokens, responses counted in full" + (" (per seed)" if len(seeds) > 1 else "")
    )
    axes[0].legend(frameon=False, fontsize=9)
    for ax in axes:
        style(ax)
    _save(figure, path)
    return path


def comparison(
    runs: dict[str, list[Rows]],
    path: Path,
    metric: str = "eval/return",
    label_y: str = "return, evaluated",
) -> Path:
    """A metric of several runs against environment steps: the mean over seeds, each seed faintly."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    colors = looks(runs)
    for label, seeds in runs.items():
        color, _ = colors[label]
        curves = [_series(rows, metric) for rows in seeds]
        for curve in curves if len(seeds) > 1 else []:
            ax.plot(*curve, color=color, alpha=0.25, linewidth=0.8)
        ax.plot(*_mean(curves), color=color, linewidth=1.8, marker="o", markersize=3, label=label)
    ax.set_xlabel("environment steps (per seed)")
    ax.set_ylabel(label_y)
    ax.legend(frameon=False, fontsize=9)
    style(ax)
    _save(figure, path)
    return path


def looks(labels: Iterable[str], second_line: str = "--") -> dict[str, tuple[str, str]]:
    """(colour, line style) of each label, by its place."""
    n = len(_PALETTE)
    return {x: (_PALETTE[i % n], ("-", second_line)[i // n % 2]) for x, i in places(labels).items()}


def places(labels: Iterable[str]) -> dict[str, int]:
    """A number for each label: an algorithm's own, or the first that no other has."""
    labels = list(labels)
    own = {label: CONTROL.index(label) for label in labels if label in CONTROL}
    free = (i for i in itertools.count() if i not in own.values())
    return {label: own[label] if label in own else next(free) for label in labels}


def interval_bands(
    curves: dict[str, tuple[np.ndarray, ...]],
    path: Path,
    title: str,
    x: str,
    y: str,
    names: Mapping[str, str] | None = None,
) -> Path:
    """Each of (abscissa, IQM, mean, low end, high end): a band, its middle, and the mean thin and dashed. A band whose
    ends are NaN is none. `names`: the labels by which curves have their colours; None: those of `curves`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
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
    _save(figure, path)
    return path


def profiles(curves: dict[str, tuple[np.ndarray, ...]], path: Path, title: str) -> Path:
    """Each of (normalised score, share of runs above it, low end, high end); marks where the score is 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    ax.axvline(1, color=_GREY, linewidth=0.8, linestyle=":")
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
    _save(figure, path)
    return path


def intervals(panels: dict[str, dict[str, tuple[float, ...]]], path: Path, title: str) -> Path:
    """A panel for each heading, in it a bar for each label: (middle, low end, high end), as far as they are finite."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = list(next(iter(panels.values())))
    colors = looks(labels)
    figure = Figure(figsize=(8, 1.6 + 0.4 * len(labels)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10, fontweight="bold", x=0.02, ha="left")
    for ax, (heading, of) in zip(
        figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True
    ):
        for i, label in enumerate(labels):
            middle, low, high = of[label]
            color, _ = colors[label]
            if np.isfinite([low, high]).all():
                ax.barh(i, high - low, 0.5, low, color=color, alpha=0.45)
            if np.isfinite(middle):
                ax.vlines(middle, i - 0.25, i + 0.25, color=color, linewidth=2.2)
        style(ax)
        ax.use_sticky_edges = False  # bars would end at the frame
        ax.margins(x=0.08)
        ax.set_yticks(range(len(labels)), labels)
        ax.set_ylim(len(labels) - 0.5, -0.5)  # the first on top
        ax.set_xlabel(heading)
    _save(figure, path)
    return path


def bands(curves: dict[str, list[Curve]], path: Path, title: str) -> Path:
    """Evaluated returns of algorithms, each with its seeds' curves: median and interquartile range over seeds.

    Where some run much longer than others, on a logarithmic axis: on a linear one the short ones are a wall.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
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
    _save(figure, path)
    return path


def quartiles(curves: list[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Steps [M], and there the quartiles [3, M] over curves, each interpolated; as far as all of them go."""
    x, values = _together(curves)
    return x, np.percentile(values, [25, 50, 75], axis=0)


def _together(curves: list[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Steps [M], and there the curves [N, M], each interpolated; as far as all of them go."""
    curves = [(x, y) for x, y in curves if len(x)]
    if not curves:
        return np.zeros(0), np.zeros((1, 0))
    begin, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    x = np.unique(np.concatenate([x for x, _ in curves]))
    x = x[(x >= begin) & (x <= end)]
    return x, np.stack([np.interp(x, *curve) for curve in curves])


def _panel(ax: Any, seeds: list[Rows], name: str, label: str) -> None:
    curves = [_series(rows, f"train/{name}") for rows in seeds]
    marks = [_series(rows, f"eval/{name}") for rows in seeds]
    if len(seeds) > 1:
        for x, y in curves:
            ax.plot(x, y, color=_COLOUR, alpha=0.3, linewidth=0.8)
    what = f"mean of {len(seeds)} seeds" if len(seeds) > 1 else "training episodes"
    ax.plot(*_mean(curves), color=_COLOUR, linewidth=1.8, label=what)
    ax.plot(
        *_mean(marks),
        color=_EVAL_COLOUR,
        linewidth=1.2,
        marker="o",
        markersize=4,
        markerfacecolor="white",
        label="evaluation, deterministic",
    )
    ax.set_ylabel(label)
    style(ax)


def style(ax: Any) -> None:
    ax.grid(color="#e5e7eb", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_GREY)
    ax.tick_params(colors=_GREY)
    ax.xaxis.set_major_formatter(lambda x, _: _steps(x))


def _save(figure: Any, path: Path) -> None:
    """An SVG's date and its random names are left out: the same curves are the same file."""
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar in a name is no formula
    with matplotlib.rc_context({"svg.hashsalt": "stride"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a name in another script
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _series(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["env_steps"], row[name]) for row in rows if row.get(name) is not None]
    x, y = np.array(points, float).reshape(-1, 2).T
    return x, y


def _mean(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Over seeds, at the steps where any has a value, as far as all of them go; in between a seed is interpolated."""
    x, values = _together(curves)
    return x, np.mean(values, axis=0)


def _steps(x: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(x) >= unit:
            return f"{x / unit:g} {name}"
    return f"{x:g}"
