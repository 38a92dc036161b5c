"""The style of every figure: palette, axes, and file output."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

INK, GREY, RULE = "#374151", "#6b7280", "#e5e7eb"
# These five differ in lightness too: for readers who do not see the hues, and in print.
BLUE, RED, GOLD, BLACK, SKY = "#2f6f8f", "#c8573a", "#d9a520", "#1f2933", "#7fb8d4"
PALETTE = (BLUE, RED, "#4d8b57", "#8a5fa8", "#b58a2b", "#5b6470")  # of algorithms
# As in `agents.ALGORITHMS`, which figures need not import. An algorithm looks the same in every figure.
CONTROL = ("ppo", "trpo", "a2c", "reinforce", "grpo", "dqn", "pqn", "sac", "td3", "ddpg")


def canvas(width: float, height: float, dpi: int = 150) -> Any:
    """Returns an empty Matplotlib figure; width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style(ax: Any) -> None:
    """Gives axes the common grid, frame and short numbers of steps ("1.5 M")."""
    ax.grid(color=RULE, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(colors=GREY)
    ax.xaxis.set_major_formatter(lambda x, _: _steps(x))


def save(figure: Any, path: Path) -> Path:
    """Writes a figure and returns `path`. Equal curves give equal bytes: an SVG's date and its random names are left
    out."""
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar in a name is no formula
    with matplotlib.rc_context({"svg.hashsalt": "stride"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a name in another script
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def looks(labels: Iterable[str], second_line: str = "--") -> dict[str, tuple[str, str]]:
    """Returns (colour, line style) of each label; `second_line` is the style once the palette is used up."""
    n = len(PALETTE)
    return {x: (PALETTE[i % n], ("-", second_line)[i // n % 2]) for x, i in places(labels).items()}


def places(labels: Iterable[str]) -> dict[str, int]:
    """Returns a number for each label: an algorithm's own, or the first that no other has."""
    labels = list(labels)
    own = {label: CONTROL.index(label) for label in labels if label in CONTROL}
    free = (i for i in itertools.count() if i not in own.values())
    return {label: own[label] if label in own else next(free) for label in labels}


def _steps(x: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(x) >= unit:
            return f"{x / unit:g} {name}"
    return f"{x:g}"
