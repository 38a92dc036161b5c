"""Plans a suite: cells of the grid, their flags, and the runs that have not started."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from experiments.grids import grid
from experiments.grids.grid import Cell, PlannedRun
from experiments.run import schema
from experiments.run.spec import algorithm_name, execute, full_name
from experiments.user_envs.load import absolute

SMOKE_STEPS, SMOKE_SEEDS = 5_000, 2
_FLAGS = schema.TableOf(schema.ListOf(schema.TEXT))  # suite.json


class CellFlags(Protocol):
    """The flags of a suite that choose its cells; `experiments.suite` explains them."""

    @property
    def grid(self) -> str | None:
        """Name of a grid, or the path of its file; None: none."""

    @property
    def envs(self) -> tuple[str, ...]:
        """Environments; beside a grid, those of its cells to run."""

    @property
    def algos(self) -> tuple[str, ...]:
        """Algorithms; beside a grid, those of its cells to run."""

    @property
    def imports(self) -> tuple[str, ...]:
        """Python files that each run executes first."""

    @property
    def smoke(self) -> bool:
        """True: everything is tried with few steps."""


def plan(
    cells: list[Cell], out: Path, seeds_per_run: int | None
) -> tuple[list[tuple[list[PlannedRun], list[PlannedRun]]], list[str]]:
    """Returns for each cell the runs that `out` holds and those still to be begun, and a line for each cell that is
    left out because one of its runs cannot be read."""
    pending, damaged = [], []
    for cell in cells:
        try:
            pending.append(grid.pending(cell, out, seeds_per_run))
        except grid.DamagedRunError as error:
            damaged.append(str(error))
    return pending, damaged


def choose_cells(choice: CellFlags) -> list[Cell]:
    """Returns the cells of a grid that flags choose, each with its folder. Executes the files of `imports`. Raises
    ValueError with one line for flags and grids of which no run could be made."""
    for name in ("jobs", "seeds_per_run"):
        value = getattr(choice, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if choice.grid is None:
        if not choice.envs or not choice.algos:
            raise ValueError("which runs? give --envs and --algos, or a grid such as classic")
        cells = grid.product(choice.envs, choice.algos)
    else:
        cells = grid.load(choice.grid)
        cells = _only(cells, "env", [full_name(env) for env in choice.envs])
        cells = _only(cells, "algo", [algorithm_name(algo) for algo in choice.algos])
    files = tuple(map(absolute, choice.imports))
    execute(files)
    cells = [dataclasses.replace(cell, imports=files) for cell in cells]
    given = {name: getattr(choice, name) for name in ("seeds", "first_seed", "total_steps")}
    given = {name: value for name, value in given.items() if value is not None}
    cells = grid.placed([dataclasses.replace(cell, **given) for cell in cells])
    grid.check(cells)
    if not choice.smoke:
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


def settings(out: Path, planned: list[PlannedRun]) -> dict[str, list[str]]:
    """Returns the flags of each run in `out`, those of `planned` included. Raises ValueError where a planned run has
    begun with other flags: its seeds would not belong together."""
    file = out / "suite.json"
    known = schema.read(file, _FLAGS) if file.exists() else {}
    flags = dict(known)
    for run in planned:
        name, asked = str(run.cell.folder), run.cell.argv()
        begun = bool(grid.existing(run.cell, out))
        if begun and known.get(name, asked) != asked:
            raise ValueError(
                f"{out / name} has runs with {' '.join(known[name])}, not {' '.join(asked)}: choose another --out"
            )
        flags[name] = asked
    return flags


def is_settings(text: str) -> bool:
    """Tells from a file's text that it is a suite.json."""
    return text.startswith("{") and (text.strip() == "{}" or '": [' in text.partition("\n")[2])
