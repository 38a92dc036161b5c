"""Progress of a suite on screen: one live line on a terminal, sparse plain lines anywhere else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from experiments.console.display import duration, si
from experiments.grids.grid import PlannedRun
from experiments.run import folders

PLAIN_SECONDS = 30.0  # between lines where there is no terminal
LOOK_SECONDS = 1.0  # between looks into the runs' folders
_TAIL_BYTES = 16_384  # holds a row of metrics with room to spare


class Board:
    """Shows the progress of many runs, in environment steps of all their seeds: `with Board(...)`, then `update`
    often."""

    def __init__(self, out: Path, planned: list[PlannedRun], console: Console | None = None):
        self.out = out
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.total = {run: total_steps(out, run) for run in planned}
        self.done = {run: done_steps(out, run) for run in planned}
        self.before = dict(self.done)  # taken before this session
        self.start = self.looked_at = self.printed_at = time.monotonic()
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Board:
        if self.console.is_terminal:
            columns = (TextColumn("{task.fields[runs]}"), BarColumn(bar_width=30))
            figures = TextColumn("{task.fields[figures]}")
            self._bar = Progress(*columns, figures, console=self.console)
            self._task = self._bar.add_task("", total=1, runs="", figures="")
            self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(text, markup=False)

    def update(self, active: list[PlannedRun]) -> None:
        """Shows the progress of the `active` runs, from their folders."""
        now = time.monotonic()
        if not active or now - self.looked_at < LOOK_SECONDS:
            return
        self.looked_at = now
        for run in active:
            self.total[run] = total_steps(self.out, run)
            self.done[run] = done_steps(self.out, run)
        if self._bar is not None:
            total, done = sum(self.total.values()), sum(self.done.values())
            self._bar.update(self._task, total=total, completed=done, **self._texts(active))
        elif now - self.printed_at > PLAIN_SECONDS:
            self.printed_at = now
            self.say("  ".join(self._texts(active).values()))

    def finished(self, run: PlannedRun) -> None:
        """Prints the result of a run that has finished."""
        self.done[run] = self.total[run] = total_steps(self.out, run)
        summary = json.loads((self.out / run.folder / folders.SUMMARY).read_text())
        figures = f"return {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f}"
        self.say(f"{run.folder}: {figures} in {duration(summary['wall_clock_s'])}")

    def dropped(self, run: PlannedRun, line: str) -> None:
        """Prints `line` and leaves out a run that will not go on."""
        for steps in (self.total, self.done, self.before):
            del steps[run]
        self.say(line)

    def time_left(self) -> float | None:
        """Returns the seconds left at the pace so far; None before the first step."""
        steps = (self.total, self.done, self.before)
        total, done, before = (sum(x.values()) for x in steps)
        if done <= before:
            return None
        return (time.monotonic() - self.start) * (total - done) / (done - before)

    def _texts(self, active: list[PlannedRun]) -> dict[str, Any]:
        finished_runs = sum(folders.is_finished(self.out / run.folder) for run in self.total)
        total, done, left = sum(self.total.values()), sum(self.done.values()), self.time_left()
        now = ", ".join(
            f"{run.cell.folder} {self.done[run] / self.total[run]:.0%}" for run in active
        )
        figures = f"{si(done)} of {si(total)} steps  {duration(time.monotonic() - self.start)}"
        figures += f", {duration(left)} left" if left is not None else ""
        return {
            "runs": f"{finished_runs} of {len(self.total)} runs",
            "figures": f"{figures}  {now}",
        }


def total_steps(out: Path, run: PlannedRun) -> int:
    """Returns the environment steps of all seeds of a run: the run's own number once it has begun."""
    try:
        each = folders.read_config(out / run.folder)["config"].get("total_steps")
    except ValueError:
        each = None
    return (each if type(each) is int and each > 0 else run.cell.steps()) * run.seeds


def done_steps(out: Path, run: PlannedRun) -> int:
    """Returns the environment steps done by all seeds, from the last row of metrics: seeds are in step."""
    folder = out / run.folder
    row = last_row(folders.metrics_file(folder, run.seeds, 0))
    return row["env_steps"] * run.seeds if row else 0


def last_row(path: Path) -> dict[str, Any]:
    """Returns the last whole row of a metrics.jsonl, reading only its end; {} where there is none."""
    try:
        with path.open("rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = f.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("env_steps")) is int:
            return row
    return {}
