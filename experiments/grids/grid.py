"""A grid of runs, environments times algorithms times seeds, and which of them are still to be done.

As TOML, a table for each block of the grid (`total_steps` and `flags` may be left out; the algorithm's own then hold):

    [[cells]]
    envs = ["CartPole-v1", "Acrobot-v1"]
    algos = ["ppo", "dqn"]
    seeds = 5
    total_steps = 500_000
    flags = { learning-rate = 1e-3 }
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.console import options, outputs
from experiments.console.suggest import suggestion
from experiments.run import stored
from experiments.run.arguments import RESERVED, as_flags, environment_flag, parse_run
from experiments.run.folders import has_begun, is_finished
from experiments.run.names import short_names
from experiments.run.presets import preset
from experiments.run.spec import (
    Domain,
    algorithm,
    algorithm_name,
    domain_of,
    env_factory,
    full_name,
    short_name,
)

SHIPPED = Path(__file__).parent
SEEDS = 5  # where a grid says nothing
_KEYS = {
    "envs": list,
    "algos": list,
    "seeds": int,
    "first_seed": int,
    "total_steps": int,
    "flags": dict,
}


class DamagedRunError(ValueError):
    """Raised for a run whose folder cannot be read."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One environment with one algorithm, and its seeds `first_seed`, `first_seed + 1`, ..."""

    env: str
    algo: str
    seeds: int = SEEDS
    first_seed: int = 0
    total_steps: int | None = None  # None: the preset's
    flags: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    imports: tuple[str, ...] = ()  # files that register environments
    place: str | None = None  # the environment's folder; None: its short name

    @property
    def folder(self) -> Path:
        """The cell's folder below the suite's."""
        return Path(self.place or short_name(self.env)) / self.algo

    @property
    def domain(self) -> Domain:
        """The domain of its environment."""
        return domain_of(self.env)

    @property
    def config_type(self) -> type:
        """The algorithm's Config."""
        return algorithm(self.algo, self.domain).Config

    def argv(self) -> list[str]:
        """Returns the cell's flags on the command line of `program`, without the seeds."""
        given = {} if self.total_steps is None else {"total_steps": self.total_steps}
        files = [word for file in self.imports for word in ("--import", file)]
        names = [*files, *environment_flag(self.env, self.domain), "--algo", self.algo]
        return [*names, *as_flags({**given, **self.flags})]

    def steps(self) -> int:
        """Returns the environment steps of each seed, before rounding up to whole iterations."""
        return self.total_steps or preset(self.env, self.algo, self.config_type).total_steps


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A process of a grid: some seeds of a cell, trained in one program."""

    cell: Cell
    first: int
    seeds: int

    @property
    def folder(self) -> Path:
        """The run's folder below the suite's."""
        return self.cell.folder / f"seeds_{self.first}-{self.first + self.seeds - 1}"


def load(name: str) -> list[Cell]:
    """Reads the cells of a shipped grid, or of a TOML file. Raises ValueError with one line on anything unknown."""
    path = Path(name)
    if path.suffix != ".toml":
        path = SHIPPED / f"{name}.toml"
        if not path.is_file():
            shipped = [p.stem for p in SHIPPED.glob("*.toml")]
            raise ValueError(f"no grid {name!r}: {suggestion(name, shipped)}, or give a .toml file")
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"there is no grid file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    for key in content.keys() - {"cells"}:
        raise ValueError(f"{path}: unknown key {key!r}: a grid consists of [[cells]]")
    blocks = content.get("cells", [])
    if not isinstance(blocks, list) or not blocks or not all(isinstance(b, dict) for b in blocks):
        raise ValueError(f"{path} has no [[cells]]")
    return [cell for block in blocks for cell in _cells(block, path)]


def product(envs: Iterable[str], algos: Iterable[str], **rest: Any) -> list[Cell]:
    """Returns a cell for each environment and algorithm. `rest`: further fields of the cells."""
    algos = tuple(map(algorithm_name, algos))
    return [Cell(full_name(env), algo, **rest) for env in envs for algo in algos]


def placed(cells: list[Cell]) -> list[Cell]:
    """Returns the cells with a folder for each environment; environments whose names end alike get different
    folders."""
    called = short_names(cell.env for cell in cells)
    folders = outputs.file_names(called.values())
    return [dataclasses.replace(cell, place=folders[called[cell.env]]) for cell in cells]


def check(cells: list[Cell]) -> None:
    """Raises ValueError with one line for cells of which no run could be made. Builds no environment: the run itself
    reports that its algorithm cannot handle one."""
    taken: set[tuple[str, str]] = set()
    for cell in cells:
        what = f"{short_name(cell.env)} with {cell.algo}"
        if (cell.env, cell.algo) in taken:
            raise ValueError(f"{what} is in the grid twice")
        taken.add((cell.env, cell.algo))
        for name, least in (("seeds", 1), ("first_seed", 0), ("total_steps", 1)):
            value = getattr(cell, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if cell.steps() >= 2**31:
            raise ValueError(f"total_steps must be below 2147483648, got {cell.steps()}")
        _check_flags(cell, what)


def pending(
    cell: Cell, out: Path, seeds_per_run: int | None = None
) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """Returns the runs of a cell that `out` holds, finished or not, and the runs that its other seeds need."""
    there = existing(cell, out)
    covered = {seed for run in there for seed in range(run.first, run.first + run.seeds)}
    asked = range(cell.first_seed, cell.first_seed + cell.seeds)
    missing = [seed for seed in asked if seed not in covered]
    most = seeds_per_run or len(asked)
    new: list[PlannedRun] = []
    for seed in missing:
        last = new[-1] if new else None
        if last and last.first + last.seeds == seed and last.seeds < most:
            new[-1] = dataclasses.replace(last, seeds=last.seeds + 1)
        else:
            new.append(PlannedRun(cell, seed, 1))
    wanted = [run for run in there if set(asked) & set(range(run.first, run.first + run.seeds))]
    return wanted, new


def existing(cell: Cell, out: Path) -> list[PlannedRun]:
    """Returns the cell's runs that are finished or have a checkpoint to resume. Raises ValueError where one is not of
    this cell, DamagedRunError where one cannot be identified."""
    runs = []
    for path in (out / cell.folder).glob("seeds_*-*"):
        numbers = re.fullmatch(r"seeds_(\d+)-(\d+)", path.name)
        if not numbers or not (has_begun(path) or is_finished(path)):
            continue
        try:
            config = stored.read_config(path)
        except ValueError as error:
            raise DamagedRunError(str(error)) from None
        if (config["env"], config["algo"]) != (cell.env, cell.algo):
            raise ValueError(
                f"{path} is a run of {config['algo']} on {config['env']}: choose another --out"
            )
        first, last = map(int, numbers.groups())
        runs.append(PlannedRun(cell, first, last - first + 1))
    return sorted(runs, key=lambda run: run.first)


def _cells(block: dict[str, Any], path: Path) -> list[Cell]:
    for key, value in block.items():
        if key not in _KEYS:
            raise ValueError(f"{path}: unknown key {key!r}: {suggestion(key, _KEYS)}")
        if type(value) is not _KEYS[key]:
            raise ValueError(f"{path}: {key} must be of type {_KEYS[key].__name__}, got {value!r}")
    for key in ("envs", "algos"):
        names = block.get(key)
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: each of [[cells]] needs {key}, a list of names")
    rest = {key: value for key, value in block.items() if key not in ("envs", "algos")}
    rest["flags"] = {key.replace("-", "_"): v for key, v in block.get("flags", {}).items()}
    return product(block["envs"], block["algos"], **rest)


def _check_flags(cell: Cell, what: str) -> None:
    """Checks the names of a cell's flags, and their values as the run will read them."""
    config_type, factory = cell.config_type, env_factory(cell.env, cell.domain)
    settings = {field.name for field in dataclasses.fields(config_type)}
    of_env = options.flags(factory, settings | RESERVED).names
    for name in cell.flags:
        if name in RESERVED:
            raise ValueError(f"{what}: the flag {name.replace('_', '-')} is the grid's own to set")
        if name not in settings and name not in of_env:
            near = suggestion(name, settings | of_env.keys())
            raise ValueError(f"{what}: unknown flag {name.replace('_', '-')}: {near}")
    try:
        parse_run(cell.argv(), cell.env, cell.algo, cell.domain)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
