"""Learning curves to explore, as one file: python -m experiments.report RUN_OR_FOLDER... [--by env,algo] [--out FILE]

It reads what `experiments.compare` reads, and every number is computed as there. The page holds its data, style and
script and asks the network for nothing, so it can be mailed or published as it is.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments.analysis import sources
from experiments.console import outputs
from experiments.console.display import Display
from experiments.console.exits import run_main
from experiments.console.flags import parse_flags
from experiments.pages.explorer import gather, is_page, page


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    """Flags of `python -m experiments.report`."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """folders of runs, folders that hold some, records.json, CSV or other libraries' logs; NAME=PATH gives a name"""
    by: str = "env,algo"
    """fields by which curves are grouped, with commas: env, algo, commit, and settings such as learning_rate"""
    metric: str = sources.METRIC
    """a column of metrics.jsonl, or a tag of event files"""
    out: Path = Path("report.html")
    """the file of the page"""


def main() -> None:
    run_main(lambda: report(sys.argv[1:]))


def report(argv: Sequence[str]) -> int:
    """Writes the page that `argv` asks for. Returns 0; raises ValueError for bad input."""
    flags = parse_flags(ReportFlags, argv, None, "Writes a page of learning curves to explore.")
    if not flags.paths:
        raise ValueError("which runs? give their folders")
    if flags.out.suffix != ".html":  # a slip must not overwrite records.json
        raise ValueError(f"--out {flags.out}: a name that ends in .html is wanted")
    outputs.check_file(flags.out, is_page, "--out")
    content = gather(flags.paths, flags.by.split(","), flags.metric)
    text = page(content)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    outputs.write(flags.out, text)
    for note in content["notes"]:
        Display().warn(note)
    Display().say(f"{flags.out}: {len(text) / 1e6:.2f} MB, to be opened in a browser")
    return 0


if __name__ == "__main__":
    main()
