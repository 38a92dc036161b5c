"""Trains a grid of environments, algorithms and seeds, each pair in a process of its own.

    python -m experiments.suite --envs CartPole-v1 Acrobot-v1 --algos ppo dqn --seeds 5
    python -m experiments.suite classic
    python -m experiments.suite my_grid.toml --jobs 2

A run lies in OUT/<env>/<algo>/seeds_<first>-<last>, the output of its process in seeds_<first>-<last>.log beside it,
and the compact records of all finished runs in OUT/records.json. Called again, the command does the rest: finished runs
stay, stopped ones resume, and of more seeds only the new ones are trained.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import tyro

from experiments.console import outputs
from experiments.console.exits import run_main
from experiments.console.flags import ImportFlag, parse_flags
from experiments.console.locks import exclusive_lock
from experiments.grids.board import Board
from experiments.grids.launch import Launcher, Signals
from experiments.grids.plan import choose_cells, is_settings, plan, settings
from experiments.run import folders, records

_ANOTHER = "another suite, or a run that one left behind,"


@dataclasses.dataclass(frozen=True)
class SuiteFlags:
    """Flags of `python -m experiments.suite`."""

    grid: tyro.conf.Positional[str | None] = None
    """a shipped grid (classic, mujoco, walker, tokens) or a .toml file; None: --envs times --algos"""
    envs: tuple[str, ...] = ()
    """environments; with a grid: only these of its environments"""
    algos: tuple[str, ...] = ()
    """algorithms; with a grid: only these of its algorithms"""
    seeds: int | None = None
    """number of seeds of each pair; None: the grid's number, or 5"""
    first_seed: int | None = None
    """the first seed; None: the grid's, or 0"""
    total_steps: int | None = None
    """environment steps of each seed; None: the grid's number, or the preset of environment and algorithm"""
    seeds_per_run: int | None = None
    """largest number of seeds in one process; None: all"""
    jobs: int = 1
    """number of processes at a time"""
    out: Path | None = None
    """the suite's folder; None: results/runs/suite, or named after the grid"""
    imports: ImportFlag = ()
    """a Python file to execute first in each run; it may register environments or algorithms; repeatable"""
    smoke: bool = False
    """try the grid with two seeds and a few iterations of each pair, in a folder of its own"""


def main() -> None:
    # Only names are looked up here: the accelerator belongs to the runs.
    jax.config.update("jax_platforms", "cpu")
    run_main(lambda: suite(sys.argv[1:]))


def suite(argv: Sequence[str]) -> int:
    """Runs the unfinished part of the grid. Returns 0; 1 where a run failed; 128 + the signal's number when stopped.

    Raises ValueError for bad input, before anything has run.
    """
    flags = parse_flags(
        SuiteFlags, argv, SuiteFlags(), "Trains a grid of environments and algorithms."
    )
    cells = choose_cells(flags)
    out = _folder(flags)
    outputs.check(out, {"suite.json": is_settings, "records.json": records.is_ours})
    pending, damaged = plan(cells, out, flags.seeds_per_run)
    old = [run for there, _ in pending for run in there]
    done = [run for run in old if folders.is_finished(out / run.folder)]
    todo = [
        r
        for there, new in pending
        for r in (*there, *new)
        if not folders.is_finished(out / r.folder)
    ]
    flags_of_runs = settings(out, [*done, *todo])
    board = Board(out, [*done, *todo])
    with exclusive_lock(out, _ANOTHER) as lock, Signals() as signals, board:
        board.say(f"{len(done)} runs finished already, {len(todo)} to do, in {out}")
        outputs.write(out / "suite.json", json.dumps(flags_of_runs, indent=2) + "\n")
        records.refresh(out)
        failed = Launcher(out, flags.jobs, board, signals, lock).run(todo)
        failed += [f"left out: {line}" for line in dict.fromkeys([*damaged, *records.refresh(out)])]
    for line in failed:
        board.say(line)
    if signals.received:
        board.say(f"stopped; resume with: {_command(argv)}")
        return 128 + signals.received[0]
    board.say(f"records: {out / 'records.json'}")
    return 1 if failed else 0


def _folder(flags: SuiteFlags) -> Path:
    out = flags.out or folders.RUNS / (Path(flags.grid).stem if flags.grid else "suite")
    return out.with_name(f"{out.name}-smoke") if flags.smoke else out


def _command(argv: Sequence[str]) -> str:
    return f"python -m experiments.suite {shlex.join(argv)}"


if __name__ == "__main__":
    main()
