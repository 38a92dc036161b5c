"""Launching the runs of a grid, each in a process of its own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from experiments.console.exits import BAD_INPUT
from experiments.grids.board import Board
from experiments.grids.grid import PlannedRun
from experiments.run import records
from experiments.run.arguments import program
from experiments.run.folders import CONFIG, has_begun, is_finished

POLL_SECONDS = 0.2
# Files and folders that a run leaves in its folder.
_LEFT = re.compile(r"(config|summary|metrics|samples)\.jsonl?|\.lock|.*\.tmp|\..*|curve\.png")
_LEFT_FOLDERS = ("checkpoints", "tensorboard", "wandb")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Collects Ctrl-C and SIGTERM in `received` within `with Signals() as signals`."""

    def __enter__(self) -> Signals:
        self.received: list[int] = []
        self._before = {s: signal.signal(s, lambda n, _: self.received.append(n)) for s in _SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Launcher:
    """Runs the processes of a suite, `jobs` at a time: starts them, passes signals on, and reports how they end."""

    def __init__(self, out: Path, jobs: int, board: Board, signals: Signals, lock: IO):
        self.out, self.jobs, self.board, self.signals, self.lock = out, jobs, board, signals, lock
        self.active: dict[
            PlannedRun, tuple[Any, bool]
        ] = {}  # its process, and whether it was resumed
        self.forwarded = 0
        self.failed: list[str] = []

    def run(self, todo: list[PlannedRun]) -> list[str]:
        """Runs `todo` to its end, or until a signal arrives. Returns a line for each run that failed."""
        waiting = list(todo)
        while self.active or (waiting and not self.signals.received):
            for run, (process, resumed) in list(self.active.items()):
                if process.poll() is not None:
                    del self.active[run]
                    self._ended(run, process.poll(), resumed)
            while waiting and len(self.active) < self.jobs and not self.signals.received:
                self._start(waiting.pop(0))
            self._forward()
            self.board.update(list(self.active))
            if self.active:
                time.sleep(POLL_SECONDS)
        return self.failed

    def _start(self, run: PlannedRun) -> None:
        folder = self.out / run.folder
        resumed = has_begun(folder)
        if resumed:
            arguments = ["--resume", str(folder)]
        else:
            if foreign := clear(folder):
                line = f"{run.folder} was not begun: {foreign} is no file of a run, and stays"
                self.failed.append(line)
                self.board.dropped(run, line)
                return
            seeds = ["--seed", str(run.first), "--seeds", str(run.seeds)]
            arguments = [*run.cell.argv(), *seeds, "--out", str(folder)]
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            program(run.cell.domain),
            *arguments,
            "--no-video",
        ]
        with log_file(folder).open("a" if resumed else "w") as log:
            log.write(f"$ {shlex.join(command[1:])}\n")
            log.flush()
            self.active[run] = start_process(command, log, self.lock), resumed

    def _forward(self) -> None:
        """Passes each signal on once: a run saves and stops at the first, and stops at once at the second."""
        for number in self.signals.received[self.forwarded :]:
            if not self.forwarded:
                self.board.say("stopping: waiting for the runs to save; once more to stop at once")
            self.forwarded += 1
            for process, _ in self.active.values():
                if sys.platform == "win32":
                    number = signal.CTRL_BREAK_EVENT
                process.send_signal(number)

    def _ended(self, run: PlannedRun, code: int, resumed: bool) -> None:
        folder = self.out / run.folder
        if code == 0 and is_finished(folder):
            self.board.finished(run)
            records.refresh(self.out)
        elif self.signals.received:
            return
        elif code == BAD_INPUT and not resumed and not (folder / CONFIG).exists():
            self.board.dropped(run, f"{run.folder}: not applicable: {last_line(log_file(folder))}")
        else:
            how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            line = f"{run.folder} failed, {how}: {last_line(log_file(folder))}"
            self.failed.append(f"{line} ({log_file(folder)})")
            self.board.dropped(run, line)


def start_process(command: list[str], log: IO, lock: IO) -> subprocess.Popen:
    """Starts a run's process and returns it.

    The process has a process group of its own: a terminal would send Ctrl-C to it too, and a run stops without saving
    at its second signal. It inherits the lock, in case it outlives the suite (not on Windows, which hands on no lock).
    """
    apart: dict[str, Any] = {"process_group": 0, "pass_fds": (lock.fileno(),)}
    if sys.platform == "win32":
        apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        **apart,
    )


def log_file(folder: Path) -> Path:
    """Returns the file beside a run's folder that holds the output of its process."""
    return folder.with_name(f"{folder.name}.log")


def last_line(log: Path) -> str:
    """Returns the last line of a run's log, or its last error where there is one, from the last start in the log."""
    lines: list[str] = []
    for line in map(str.strip, log.read_text(errors="replace").splitlines()):
        lines = [] if line.startswith("$ ") else [*lines, line] if line else lines
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it printed nothing"])[-1]


def clear(folder: Path) -> Path | None:
    """Removes the files of a run that was killed before its first checkpoint, and returns None. Where a file lies there
    that no run leaves, removes nothing and returns that file."""
    files = sorted(folder.rglob("*"), reverse=True)
    for path in files:
        top = path.relative_to(folder).parts[0]
        if not (path.is_dir() or _LEFT.fullmatch(path.name) or top in _LEFT_FOLDERS):
            return path
    for path in files:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    if folder.is_dir():
        folder.rmdir()
    return None
