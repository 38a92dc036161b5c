"""The table of algorithms and environments in README.md, from the published records: python -m experiments.overview

It stands between two marks and is replaced as a whole; a test holds README and records together.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from experiments.console import outputs
from experiments.console.display import Display
from experiments.console.exits import run_main
from experiments.pages.readme import text
from experiments.run import records

ROOT = Path(__file__).parents[1]
# Folders of results/ with records.json.
PUBLISHED = ("walker-algorithms", "walker-preferences", "classic", "mujoco")
BEGIN, END = "<!-- overview: python -m experiments.overview -->", "<!-- end of overview -->"


def main() -> None:
    run_main(overview)


def overview() -> int:
    """Writes the table into README.md and returns 0. Raises ValueError where README lacks the marks."""
    if sys.argv[1:]:
        raise ValueError("python -m experiments.overview takes no arguments")
    path = ROOT / "README.md"
    try:
        before, rest = path.read_text(encoding="utf-8").split(BEGIN)
        _, after = rest.split(END)
    except (UnicodeDecodeError, ValueError):
        raise ValueError(f"{path} lacks the marks, one each: {BEGIN} and {END}") from None
    outputs.write(path, f"{before}{BEGIN}\n{text(all_records())}\n{END}{after}")
    Display().say(str(path))
    return 0


def all_records() -> list[dict[str, Any]]:
    """Returns all records under results/."""
    return [
        r for name in PUBLISHED for r in records.read(ROOT / "results" / name / "records.json")[1]
    ]


if __name__ == "__main__":
    main()
