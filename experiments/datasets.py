"""Datasets to learn from offline, in Minari's format.

    python -m experiments.datasets record results/runs/hopper-sac --id stride/hopper/medium-v0
    python -m experiments.datasets record results/runs/hopper-sac --source replay --id stride/hopper/replay-v0
    python -m experiments.datasets record --env Hopper-v5
    python -m experiments.datasets list
    python -m experiments.datasets show stride/hopper/medium-v0 --picture medium.png
    python -m experiments.datasets combine stride/hopper/medium-v0 stride/hopper/expert-v0 --id stride/hopper/mixed-v0
    python -m experiments.datasets import FOLDER

Needs the extra `offline`: pip install 'stride-rl[offline]'. A recording that was stopped is continued by its command.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import envs  # isort: skip  # noqa: F401  sets XLA's flags before JAX starts
import tyro
from rich.console import Console

from experiments.console.display import Display
from experiments.console.exits import run_main
from experiments.console.flags import ImportFlag, parse_flags
from experiments.console.signals import RunInterruptedError
from experiments.console.suggest import quoted, suggestion
from experiments.data import store
from experiments.recording import bring, record, show
from experiments.run.spec import execute


@dataclasses.dataclass(frozen=True)
class RecordFlags:
    """Flags of `python -m experiments.datasets record`."""

    run: tyro.conf.Positional[Path | None] = None
    """folder of the run whose policy, or replay buffer, is recorded; None: random actions in --env"""
    env: str | None = None
    """the environment in which random actions are recorded"""
    algo: str = "random"
    """who acts in --env: random"""
    id: str | None = None
    """the dataset's name, NAMESPACE/NAME-v0; None: stride/ENVIRONMENT/ALGORITHM-v0"""
    steps: int | None = None
    """whole episodes are recorded until there are so many steps; None: a million, or all that a replay buffer holds"""
    source: Literal["policy", "replay"] = "policy"
    """policy: the run's policy acts; replay: the whole episodes in the replay buffer of the run's newest checkpoint"""
    seed: int = 0
    """seed of the recording"""
    seed_index: int = 0
    """index of the seed among the run's seeds, from 0 (policy)"""
    deterministic: bool = False
    """record the best action by the policy, not a sample as in training"""
    expert: Path | None = None
    """finished run whose evaluated return is the upper reference of scores"""
    ref_min: float | None = None
    """lower reference of scores; None: the mean return of random actions, measured"""
    ref_max: float | None = None
    """upper reference of scores; None: that of --expert, if any"""
    imports: ImportFlag = ()
    """a Python file to execute first, which registers environments; may be given several times"""
    trust: bool = False
    """execute the files that the run names, even if they changed or another user began the run"""


@dataclasses.dataclass(frozen=True)
class ListFlags:
    """Flags of `python -m experiments.datasets list`: none."""


@dataclasses.dataclass(frozen=True)
class ShowFlags:
    """Flags of `python -m experiments.datasets show`."""

    dataset: tyro.conf.Positional[str]
    """the dataset's name"""
    picture: Path | None = None
    """also draw returns, lengths and a map of the states into this file, a PNG or SVG"""


@dataclasses.dataclass(frozen=True)
class CombineFlags:
    """Flags of `python -m experiments.datasets combine`."""

    datasets: tyro.conf.Positional[tuple[str, ...]]
    """names of datasets of one environment"""
    id: str
    """the new dataset's name"""


@dataclasses.dataclass(frozen=True)
class ImportFlags:
    """Flags of `python -m experiments.datasets import`."""

    folder: tyro.conf.Positional[Path]
    """a dataset of Minari's: the folder that holds `data`"""
    id: str | None = None
    """the dataset's name here; None: its own"""


def main() -> None:
    run_main(lambda: datasets(sys.argv[1:]))


def datasets(argv: Sequence[str]) -> int:
    """Does what `argv` says; returns the exit code. Raises ValueError and OSError with one line on bad input."""
    if argv and argv[0] in _ACTIONS:
        act, kind, what = _ACTIONS[argv[0]]
        default = (
            RecordFlags() if kind is RecordFlags else ListFlags() if kind is ListFlags else None
        )
        flags = parse_flags(kind, argv[1:], default, what)
        store.require_minari()
        return act(flags) or 0
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    known = ", ".join(_ACTIONS)
    if not argv:
        raise ValueError(f"what is to be done? choose from {known}")
    raise ValueError(f"there is no {quoted(argv[0])}: {suggestion(argv[0], _ACTIONS)}")


def _record(flags: RecordFlags) -> int:
    execute(flags.imports)
    order = {f.name: getattr(flags, f.name) for f in dataclasses.fields(record.Order)}
    display = Display()
    try:
        record.record(record.Order(**order), display)
    except RunInterruptedError as stopped:
        display.say("stopped; the same command continues the recording")
        return 128 + stopped.signum
    return 0


def _list(flags: ListFlags) -> None:
    Console(highlight=False, soft_wrap=True).print(show.listing())


def _show(flags: ShowFlags) -> None:
    display = Display()
    if flags.picture is not None and flags.picture.suffix not in (".png", ".svg"):
        raise ValueError(f"--picture must end in .png or .svg, got {flags.picture}")
    found, episodes = show.read(flags.dataset)
    display.table(found.id, show.figures(found, episodes))
    if flags.picture is not None:
        display.say(str(show.draw(found, episodes, flags.picture)))


def _combine(flags: CombineFlags) -> None:
    Display().say(bring.combine(flags.datasets, flags.id))


def _import(flags: ImportFlags) -> None:
    Display().say(bring.import_dataset(flags.folder, flags.id))


_ACTIONS: dict[str, tuple[Callable[[Any], int | None], Any, str]] = {
    "record": (_record, RecordFlags, "Records a dataset."),
    "list": (_list, ListFlags, "Lists the datasets on disk."),
    "show": (_show, ShowFlags, "Shows what a dataset holds."),
    "combine": (_combine, CombineFlags, "Joins datasets into a new one."),
    "import": (_import, ImportFlags, "Copies a dataset from another folder, checked."),
}


if __name__ == "__main__":
    main()
