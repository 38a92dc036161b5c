"""Puts finished runs on record.

    python -m experiments.publish DIR DIR ... --out results/walker
    python -m experiments.publish results/runs/classic --out results/classic --title "Classic control"
    python -m experiments.publish results/classic/records.json --out results/classic

Of single runs: README.md (a row each, and what made them), curves.png and runs.json (summaries and evaluated
returns). Of the folder of a suite: README.md (tables of algorithms and environments), a figure of learning curves for
each environment and records.json, from which alone all of it can be made again. Remarks by hand stand in notes.md
beside them, and become a part of the page.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments.console.display import Display
from experiments.console.exits import run_main
from experiments.console.flags import parse_flags
from experiments.pages.publication import publish_runs, publish_suite
from experiments.run.folders import is_run


@dataclasses.dataclass(frozen=True)
class PublishFlags:
    """Flags of `python -m experiments.publish`."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """folders of finished runs; or folders of suites, or their records.json"""
    out: Path = Path("results/published")
    """folder for tables, curves and data"""
    title: str | None = None
    """heading of the page; None: the title in records.json, or Results"""


def main() -> None:
    run_main(lambda: publish(sys.argv[1:]))


def publish(argv: Sequence[str]) -> int:
    """Writes the page that `argv` asks for. Returns 0; raises ValueError for bad input, before anything is written."""
    flags = parse_flags(PublishFlags, argv, None, "Puts finished runs on record.")
    if not flags.folders:
        raise ValueError("which runs? give their folders")
    for path in flags.folders:
        if not path.exists():
            raise ValueError(f"there is no {path}")
    write = publish_runs if all(map(is_run, flags.folders)) else publish_suite
    write(flags.folders, flags.out, flags.title)
    Display().say(str(flags.out))
    return 0


if __name__ == "__main__":
    main()
