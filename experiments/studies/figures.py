"""The look that the studies' figures share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.figures import plots

INK, GREY = "#374151", "#6b7280"
# Told apart by lightness, too: by those who do not see the hues, and in print.
BLUE, RED, GOLD, BLACK, SKY = "#2f6f8f", "#c8573a", "#d9a520", "#1f2933", "#7fb8d4"


def canvas(width: float, height: float) -> Any:
    """An empty figure, width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel(ax: Any, title: str, x: str, y: str) -> None:
    ax.set_title(title, fontsize=11, fontweight="bold", loc="left")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    plots.style(ax)


def level(ax: Any, y: float, text: str, right: float = 1.0) -> None:
    """A horizontal line of reference, with its name above it that ends at `right` (share of the width)."""
    ax.axhline(y, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
    ax.annotate(
        text,
        (right, y),
        xycoords=ax.get_yaxis_transform(),
        xytext=(0, 6),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8.5,
        color=GREY,
    )


def save(figure: Any, path: Path) -> None:
    """As PNG with a palette: a quarter of the size, and no difference to be seen."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def known(x: float | None) -> float:
    """What JSON lacks comes back from it as null: here infinity."""
    return math.inf if x is None else x
