"""The look that the studies' figures share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments import plots

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
    plots._style(ax)


def level(ax: Any, y: float, text: str, x: float, above: bool = True) -> None:
    """A horizontal line of reference, its name written at x (share of the width), right-aligned."""
    ax.axhline(y, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
    ax.annotate(
        text,
        (x, y),
        xycoords=ax.get_yaxis_transform(),
        xytext=(0, 3 if above else -3),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        fontsize=8.5,
        color=GREY,
    )


def save(figure: Any, path: Path) -> None:
    # Without the version of the library in it, equal numbers are equal files.
    figure.savefig(path, metadata={"Software": None})
