"""Puts finished runs on record.

    python -m experiments.publish DIR DIR ... --out results/walker
    python -m experiments.publish results/runs/classic --out results/classic --title "Classic control"
    python -m experiments.publish results/classic/records.json --out results/classic

Of single runs: README.md (a row each, and what made them), curves.png and runs.json (summaries and evaluated
returns). Of the folder of a suite: README.md (tables of algorithms and environments), a picture of learning curves
for each environment and records.json, from which alone all of it can be made again. What a person has to say about the
figures stands in notes.md beside them, and becomes a part of the page.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments import outputs, pages, plots, records, runs
from experiments.cli import run_main
from experiments.compare import label_runs
from experiments.console import Display
from experiments.flags import parse_flags
from experiments.spec import short_name

NOTES = "notes.md"  # in the folder of a page, by hand


@dataclasses.dataclass(frozen=True)
class PublishFlags:
    folders: tyro.conf.Positional[tuple[Path, ...]]
    """folders of finished runs; or folders of suites, or their records.json"""
    out: Path = Path("results/published")
    """where the tables, the curves and the data go"""
    title: str | None = None
    """heading of the page; None: as in records.json, or Results"""


def main() -> None:
    run_main(lambda: publish(sys.argv[1:]))


def publish(argv: Sequence[str]) -> int:
    flags = parse_flags(PublishFlags, argv, None, "Puts finished runs on record.")
    if not flags.folders:
        raise ValueError("which runs? give their folders")
    for path in flags.folders:
        if not path.exists():
            raise ValueError(f"there is no {path}")
    outputs.check(flags.out, {"README.md": pages.is_ours})
    if all(_is_run(path) for path in flags.folders):
        _publish_runs(flags)
    else:
        _publish_suite(flags)
    Display().say(str(flags.out))
    return 0


def _publish_runs(flags: PublishFlags) -> None:
    configs = [runs.read_config(folder) for folder in flags.folders]
    summaries = [records.read_summary(folder) for folder in flags.folders]
    labels = label_runs(configs)
    curves = {
        label: [runs.read_rows(runs.metrics_file(f, c["seeds"], i)) for i in range(c["seeds"])]
        for label, f, c in zip(labels, flags.folders, configs, strict=True)
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    of_tokens = all("task" in summary for summary in summaries)
    metric = ("eval/pass_at_1", "pass@1, held-out prompts") if of_tokens else ()
    plots.comparison(curves, flags.out / "curves.png", *metric)
    page = pages.of_runs(flags.title or "Results", labels, configs, summaries)
    (flags.out / "README.md").write_text(page)
    record = [
        {"label": label, "config": config, "summary": summary, "evaluations": _evaluations(rows)}
        for label, config, summary, rows in zip(
            labels, configs, summaries, curves.values(), strict=True
        )
    ]
    (flags.out / "runs.json").write_text(json.dumps(runs.plain(record), indent=1) + "\n")


def _publish_suite(flags: PublishFlags) -> None:
    title, found = _records(flags.folders)
    title = flags.title or title or "Results"
    flags.out.mkdir(parents=True, exist_ok=True)
    records.write(flags.out / "records.json", found, title)
    pictures = {}
    for env in dict.fromkeys(r["env"] for r in found):
        curves: dict[str, list[Any]] = {}
        for r in found:
            if r["env"] == env:
                points = np.array([e[:2] for e in r["evaluations"]], float).reshape(-1, 2)
                curves.setdefault(r["algo"], []).append((points[:, 0], points[:, 1]))
        pictures[env] = f"curves-{short_name(env)}.png"
        plots.bands(curves, flags.out / pictures[env], short_name(env))
    notes = flags.out / NOTES
    text = notes.read_text() if notes.exists() else ""
    (flags.out / "README.md").write_text(pages.of_suite(title, found, pictures, text))


def _records(paths: Sequence[Path]) -> tuple[str | None, list[dict[str, Any]]]:
    """The first title there is, and all records. Raises ValueError where a seed is there twice, or none at all."""
    title, found = None, []
    for path in paths:
        if path.is_file():
            named, more = records.read(path)
            title = title or named
        else:
            more = records.record(path) if _is_run(path) else records.collect(path)
        if not more:
            raise ValueError(f"there is no finished run in {path}")
        found += more
    seen = set()
    for r in found:
        what = (r["env"], r["algo"], r["seed"])
        if what in seen:
            raise ValueError("{} with {}, seed {}, is there twice".format(*what))
        seen.add(what)
    return title, records.ordered(found)


def _is_run(path: Path) -> bool:
    return (path / "config.json").exists()


def _evaluations(seeds: list[list[dict[str, Any]]]) -> list[list[tuple[int, float]]]:
    """(environment steps, return) of each seed's evaluations."""
    return [
        [
            (row["env_steps"], round(row["eval/return"], 2))
            for row in rows
            if row.get("eval/return") is not None
        ]
        for rows in seeds
    ]


if __name__ == "__main__":
    main()
