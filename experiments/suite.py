"""Trains a grid of environments, algorithms and seeds, each pair in a process of its own.

    python -m experiments.suite --envs CartPole-v1 Acrobot-v1 --algos ppo dqn --seeds 5
    python -m experiments.suite classic
    python -m experiments.suite my_grid.toml --jobs 2

A run lies in OUT/<env>/<algo>/seeds_<first>-<last>, what its process said beside it in seeds_<first>-<last>.log, and
the compact records of all finished runs in OUT/records.json. Called again, the command does what is left to do:
finished runs stay, stopped ones go on, and of more seeds only the new ones are trained.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import jax
import tyro

from experiments.console import outputs
from experiments.console.exits import BAD_INPUT, run_main
from experiments.console.flags import ImportFlag, parse_flags
from experiments.console.locks import alone
from experiments.grids import grid
from experiments.grids.board import Board
from experiments.grids.grid import Cell, Run
from experiments.run import folders, records, schema
from experiments.run.arguments import program
from experiments.run.spec import algorithm_name, execute, full_name
from experiments.user_envs.load import path_of

SMOKE_STEPS, SMOKE_SEEDS = 5_000, 2
POLL_SECONDS = 0.2
_SETTINGS = schema.TableOf(schema.ListOf(schema.TEXT))  # suite.json
# What a run leaves in its folder.
_LEFT = re.compile(r"(config|summary|metrics|samples)\.jsonl?|\.lock|.*\.tmp|\..*|curve\.png")
_LEFT_FOLDERS = ("checkpoints", "tensorboard", "wandb")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ANOTHER = "another suite, or a run that one left behind,"


@dataclasses.dataclass(frozen=True)
class SuiteFlags:
    grid: tyro.conf.Positional[str | None] = None
    """a shipped grid (classic, mujoco, walker, tokens) or a .toml file; None: --envs times --algos"""
    envs: tuple[str, ...] = ()
    """environments; beside a grid: only these of it"""
    algos: tuple[str, ...] = ()
    """algorithms; beside a grid: only these of it"""
    seeds: int | None = None
    """seeds of each pair; None: as the grid says, or 5"""
    first_seed: int | None = None
    """the first of them; None: as the grid says, or 0"""
    total_steps: int | None = None
    """environment steps of each seed; None: as the grid says, or what suits environment and algorithm"""
    seeds_per_run: int | None = None
    """at most so many seeds side by side in one process; None: all"""
    jobs: int = 1
    """processes at a time"""
    out: Path | None = None
    """the suite's folder; None: results/runs/suite, or named after the grid"""
    imports: ImportFlag = ()
    """a Python file that each run executes first, and registers environments; may be given several times"""
    smoke: bool = False
    """try everything out with two seeds and a few iterations each, in a folder of its own"""


def main() -> None:
    # Only names are looked up here: the accelerator belongs to the runs.
    jax.config.update("jax_platforms", "cpu")
    run_main(lambda: suite(sys.argv[1:]))


def suite(argv: Sequence[str]) -> int:
    """Runs what is left of the grid. Returns 0; 1 where a run failed; 128 + the signal's number when stopped.

    Raises ValueError for bad input, before anything has run.
    """
    flags = parse_flags(
        SuiteFlags, argv, SuiteFlags(), "Trains a grid of environments and algorithms."
    )
    cells = _cells(flags)
    out = _folder(flags)
    outputs.check(out, {"suite.json": _is_settings, "records.json": records.is_ours})
    plan, damaged = _plan(cells, out, flags.seeds_per_run)
    old = [run for there, _ in plan for run in there]
    done = [run for run in old if grid.finished(out / run.folder)]
    todo = [r for there, new in plan for r in (*there, *new) if not grid.finished(out / r.folder)]
    settings = _settings(out, [*done, *todo])
    board = Board(out, [*done, *todo])
    with alone(out, _ANOTHER) as lock, _Signals() as signals, board:
        board.say(f"{len(done)} runs finished already, {len(todo)} to do, in {out}")
        outputs.write(out / "suite.json", json.dumps(settings, indent=2) + "\n")
        records.refresh(out)
        failed = _Suite(out, flags.jobs, board, signals, lock).run(todo)
        failed += [f"left out: {line}" for line in dict.fromkeys([*damaged, *records.refresh(out)])]
    for line in failed:
        board.say(line)
    if signals.received:
        board.say(f"stopped; to go on: {_command(argv)}")
        return 128 + signals.received[0]
    board.say(f"records: {out / 'records.json'}")
    return 1 if failed else 0


def _plan(
    cells: list[Cell], out: Path, seeds_per_run: int | None
) -> tuple[list[tuple[list[Run], list[Run]]], list[str]]:
    """For each cell the runs there are and those to come; and a line for each cell that is left out, because a run of
    it cannot be read."""
    plan, damaged = [], []
    for cell in cells:
        try:
            plan.append(grid.pending(cell, out, seeds_per_run))
        except grid.DamagedRunError as error:
            damaged.append(str(error))
    return plan, damaged


class _Signals:
    """Within `with _Signals() as signals`, `signals.received` collects Ctrl-C and SIGTERM."""

    def __enter__(self) -> _Signals:
        self.received: list[int] = []
        self._before = {s: signal.signal(s, lambda n, _: self.received.append(n)) for s in _SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Suite:
    """The loop's variables, held together."""

    def __init__(self, out: Path, jobs: int, board: Board, signals: _Signals, lock: IO):
        self.out, self.jobs, self.board, self.signals, self.lock = out, jobs, board, signals, lock
        self.active: dict[Run, tuple[Any, bool]] = {}  # its process, and whether it was resumed
        self.forwarded = 0
        self.failed: list[str] = []

    def run(self, todo: list[Run]) -> list[str]:
        """Returns a line for each run that failed."""
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

    def _start(self, run: Run) -> None:
        folder = self.out / run.folder
        resumed = grid.begun(folder)
        if resumed:
            arguments = ["--resume", str(folder)]
        else:
            if foreign := _clear(folder):
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
            self.active[run] = launch(command, log, self.lock), resumed

    def _forward(self) -> None:
        """Each signal once: a run saves and stops at the first, and stops at once at the second."""
        for number in self.signals.received[self.forwarded :]:
            if not self.forwarded:
                self.board.say("stopping: waiting for the runs to save; once more to stop at once")
            self.forwarded += 1
            for process, _ in self.active.values():
                if sys.platform == "win32":
                    number = signal.CTRL_BREAK_EVENT
                process.send_signal(number)

    def _ended(self, run: Run, code: int, resumed: bool) -> None:
        folder = self.out / run.folder
        if code == 0 and grid.finished(folder):
            self.board.finished(run)
            records.refresh(self.out)
        elif self.signals.received:
            return
        elif code == BAD_INPUT and not resumed and not (folder / "config.json").exists():
            self.board.dropped(run, f"{run.folder}: not applicable: {last_line(log_file(folder))}")
        else:
            how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            line = f"{run.folder} failed, {how}: {last_line(log_file(folder))}"
            self.failed.append(f"{line} ({log_file(folder)})")
            self.board.dropped(run, line)


def launch(command: list[str], log: IO, lock: IO) -> subprocess.Popen:
    """A run's process. It is in a process group of its own, for a terminal would send Ctrl-C to it, too, and the
    second signal makes it stop without saving; it keeps the lock, in case it outlives the suite (not on Windows, which
    hands on no lock)."""
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
    return folder.with_name(f"{folder.name}.log")


def last_line(log: Path) -> str:
    """What a run said in the end: its error, where it named one. Of a log of several starts, the last counts."""
    said: list[str] = []
    for line in map(str.strip, log.read_text(errors="replace").splitlines()):
        said = [] if line.startswith("$ ") else [*said, line] if line else said
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    return (errors or said or ["it said nothing"])[-1]


def _cells(flags: SuiteFlags) -> list[Cell]:
    for name in ("jobs", "seeds_per_run"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if flags.grid is None:
        if not flags.envs or not flags.algos:
            raise ValueError("which runs? give --envs and --algos, or a grid such as classic")
        cells = grid.product(flags.envs, flags.algos)
    else:
        cells = grid.load(flags.grid)
        cells = _only(cells, "env", [full_name(env) for env in flags.envs])
        cells = _only(cells, "algo", [algorithm_name(algo) for algo in flags.algos])
    files = tuple(str(path_of(file)) for file in flags.imports)
    execute(files)
    cells = [dataclasses.replace(cell, imports=files) for cell in cells]
    given = {name: getattr(flags, name) for name in ("seeds", "first_seed", "total_steps")}
    given = {name: value for name, value in given.items() if value is not None}
    cells = grid.placed([dataclasses.replace(cell, **given) for cell in cells])
    grid.check(cells)
    if not flags.smoke:
        return cells
    return [
        dataclasses.replace(
            cell,
            total_steps=min(cell.steps(), SMOKE_STEPS),
            seeds=min(cell.seeds, SMOKE_SEEDS),
        )
        for cell in cells
    ]


def _only(cells: list[Cell], what: str, names: Sequence[str]) -> list[Cell]:
    for name in names:
        if name not in {getattr(cell, what) for cell in cells}:
            raise ValueError(f"the grid has no {what} {name!r}")
    return [cell for cell in cells if not names or getattr(cell, what) in names]


def _folder(flags: SuiteFlags) -> Path:
    out = flags.out or folders.RUNS / (Path(flags.grid).stem if flags.grid else "suite")
    return out.with_name(f"{out.name}-smoke") if flags.smoke else out


def _settings(out: Path, planned: list[Run]) -> dict[str, list[str]]:
    """The flags of each run in `out`, the planned ones included. Raises ValueError where a planned one is there
    already and has others: its seeds would not belong together."""
    file = out / "suite.json"
    known = schema.read(file, _SETTINGS) if file.exists() else {}
    found = dict(known)
    for run in planned:
        name, asked = str(run.cell.folder), run.cell.argv()
        begun = bool(grid.existing(run.cell, out))
        if begun and known.get(name, asked) != asked:
            raise ValueError(
                f"{out / name} has runs with {' '.join(known[name])}, not {' '.join(asked)}: choose another --out"
            )
        found[name] = asked
    return found


def _is_settings(text: str) -> bool:
    """Tells from a file's text that it is a suite.json."""
    return text.startswith("{") and (text.strip() == "{}" or '": [' in text.partition("\n")[2])


def _clear(folder: Path) -> Path | None:
    """Removes what a run leaves that was killed before its first checkpoint. Returns a file that no run leaves, where
    there is one, and removes nothing then."""
    found = sorted(folder.rglob("*"), reverse=True)
    for path in found:
        top = path.relative_to(folder).parts[0]
        if not (path.is_dir() or _LEFT.fullmatch(path.name) or top in _LEFT_FOLDERS):
            return path
    for path in found:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    if folder.is_dir():
        folder.rmdir()
    return None


def _command(argv: Sequence[str]) -> str:
    return f"python -m experiments.suite {shlex.join(argv)}"


if __name__ == "__main__":
    main()
