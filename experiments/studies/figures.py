"""Panels, lines of reference and small PNGs that the studies' figures share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.figures.canvas import GREY, canvas, style

DPI = 130


def empty(width: float, height: float) -> Any:
    """Returns an empty figure, width and height in inches."""
    return canvas(width, height, DPI)


def panel(ax: Any, title: str, x: str, y: str) -> None:
    """Gives axes a title, names of their axes and the common style."""
    ax.set_title(title, fontsize=11, fontweight="bold", loc="left")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    style(ax)


def level(ax: Any, y: float, text: str, right: float = 1.0) -> None:
    """Draws a horizontal line of reference, its name above it; the name ends at `right` (share of the width)."""
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
    """Writes a PNG with a palette of 128 colours: a quarter of the size, without a visible difference."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def known(x: float | None) -> float:
    """Returns infinity for the null by which JSON replaces it."""
    return math.inf if x is None else x
