"""Progress of a run on screen: a live line on a terminal, sparse plain lines anywhere else."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PLAIN_SECONDS = 10.0  # between lines where there is no terminal


class Display:
    """Shows the progress of a run: `start`, then `update` after each chunk, then `close`."""

    def __init__(self, quiet: bool = False):
        self.console = Console(
            quiet=quiet, highlight=False, soft_wrap=True, markup=False, emoji=False
        )
        self._bar: Progress | None = None
        self._task: Any = None
        self._total = 0
        self._printed_at = -math.inf

    def start(self, total_steps: int, env_steps: int) -> None:
        """Begins the live line, where there is a terminal. `env_steps`: steps done so far, of each seed."""
        self._total = total_steps
        if not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.fields[steps]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            expand=True,
        )
        self._task = self._bar.add_task(
            "", total=total_steps, completed=env_steps, steps=si(env_steps), figures="compiling"
        )
        self._bar.start()

    def update(self, env_steps: int, speed: float, live: list[dict[str, float | None]]) -> None:
        """Shows the progress and the means over seeds of `live`, each seed's latest figures. `speed`: steps per
        second."""
        figures = f"{si(speed)} steps/s  return {_mean(live, 'train/return')}"
        figures += f"  length {_mean(live, 'train/length', 0)}"
        if self._bar is not None:
            self._bar.update(self._task, completed=env_steps, steps=si(env_steps), figures=figures)
        elif time.monotonic() - self._printed_at > PLAIN_SECONDS or env_steps >= self._total:
            self._printed_at = time.monotonic()
            self.console.print(f"{si(env_steps)} of {si(self._total)} steps  {figures}")

    def note(self, text: str) -> None:
        """Shows `text` beside the bar while something else than training is under way."""
        if self._bar is not None:
            self._bar.update(self._task, figures=text)

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Prints a warning on stderr."""
        print(f"warning: {text}", file=sys.stderr)

    def close(self) -> None:
        """Ends the live line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def table(self, title: str, rows: list[tuple[str, str]]) -> None:
        """Prints a table of (name, value)."""
        table = Table(title=title, title_justify="left", show_header=False)
        for row in rows:
            table.add_row(*row)
        self.console.print(table)


def si(x: float) -> str:
    """Returns a number with three digits and an SI prefix: 1234567 as 1.23 M."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(x) >= unit:
            return f"{x / unit:.3g}{name}"
    return f"{x:.3g}"


def duration(seconds: float) -> str:
    """Returns seconds as text: 75 as 1 min 15 s, 3700 as 1 h 02 min."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _mean(live: list[dict[str, float | None]], name: str, digits: int = 1) -> str:
    values = [value for row in live if (value := row.get(name)) is not None]
    return f"{sum(values) / len(values):.{digits}f}" if values else "-"
