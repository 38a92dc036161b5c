"""One second of a run with actors: who acted, who waited, what travelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.figures.canvas import BLUE, GOLD, GREY, INK, RED, RULE, SKY, canvas, save

SECONDS = 1.0
_LOOKS = {
    "act": (BLUE, "acting"),
    "update": (RED, "learning"),
    "get": (GOLD, "rollouts come in"),
    "put": (SKY, "parameters go out"),
    "wait": (RULE, "waiting"),
}
_MEGA = 1e6

Bar = tuple[int, str, float, float, int]  # row (-1: the learner), what, began, ended, bytes


def window(events: Sequence[Bar], seconds: float = SECONDS) -> list[Bar]:
    """Returns the events of some seconds in the middle of a run, cut to these, in seconds from their beginning."""
    updates = sorted(e[3] for e in events if e[1] == "update")
    if not updates:
        return []
    begin = updates[len(updates) // 2] - seconds / 2
    inside = [e for e in events if e[3] > begin and e[2] < begin + seconds]
    return [
        (row, what, max(began - begin, 0.0), min(ended - begin, seconds), size)
        for row, what, began, ended, size in inside
    ]


def timeline(events: Sequence[Bar], path: Path, title: str, seconds: float = SECONDS) -> Path:
    """Draws a second in the middle of a run and returns `path`. Raises OSError where it cannot be written."""
    bars = window(events, seconds)
    actors = sorted({row for row, *_ in bars if row >= 0})
    figure = canvas(9.0, 2.4 + 0.35 * len(actors))
    axes, below = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [len(actors) + 1.5, 1.5]}
    )
    _draw_rows(axes, bars, actors, title)
    for what, label in (("get", "rollouts in"), ("put", "parameters out")):
        points = [
            (ended, size / _MEGA) for _, kind, _, ended, size in bars if kind == what and size
        ]
        if points:
            colour = _LOOKS[what][0]
            x, y = zip(*points, strict=True)
            below.vlines(x, 0.0, y, color=colour, linewidth=2)
            below.plot(x, y, "o", color=colour, markersize=3, label=label)
    below.set_ylabel("MB", color=INK)
    below.set_ylim(bottom=0.0)
    below.set_xlim(0.0, seconds)
    below.set_xlabel("seconds", color=INK)
    below.tick_params(colors=GREY)
    below.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


def _draw_rows(axes: Any, bars: Sequence[Bar], actors: Sequence[int], title: str) -> None:
    rows = [-1, *actors]
    for what, (colour, label) in _LOOKS.items():
        for i, row in enumerate(rows):
            spans = [(b, e - b) for r, kind, b, e, _ in bars if r == row and kind == what]
            axes.broken_barh(
                spans, (i - 0.35, 0.7), color=colour, label=label if i == 0 else None, linewidth=0
            )
    axes.set_yticks(range(len(rows)), ["learner", *(f"actor {row}" for row in actors)])
    axes.invert_yaxis()
    axes.tick_params(colors=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", color=INK, fontsize=10, pad=22)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=5, frameon=False, fontsize=8)
