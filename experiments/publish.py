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

from experiments.console import outputs
from experiments.console.display import Display
from experiments.console.exits import run_main
from experiments.console.flags import parse_flags
from experiments.figures import plots
from experiments.pages import results
from experiments.run import records, stored
from experiments.run.folders import plain
from experiments.run.names import label_runs, short_names

NOTES = "notes.md"  # in the folder of a page, by hand
RUNS = "runs.json"


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
    if all(_is_run(path) for path in flags.folders):
        _publish_runs(flags)
    else:
        _publish_suite(flags)
    Display().say(str(flags.out))
    return 0


def _publish_runs(flags: PublishFlags) -> None:
    found = [stored.read_run(folder) for folder in flags.folders]
    configs, summaries = [run.config for run in found], [run.summary for run in found]
    labels = label_runs(configs)
    curves = {label: run.rows for label, run in zip(labels, found, strict=True)}
    of_tokens = all("task" in summary for summary in summaries)
    metric = ("eval/pass_at_1", "pass@1, held-out prompts") if of_tokens else ()
    record = [
        {
            "label": label,
            "config": run.config,
            "summary": run.summary,
            "evaluations": _evaluations(run.rows),
        }
        for label, run in zip(labels, found, strict=True)
    ]
    page = results.of_runs(flags.title or "Results", labels, configs, summaries)
    ours = {outputs.PAGE: results.is_of_runs, RUNS: _is_runs_record}
    with outputs.staged(flags.out, ours) as fresh:
        plots.comparison(curves, fresh / "curves.png", *metric)
        outputs.write(fresh / RUNS, json.dumps(plain(record), indent=1) + "\n")
        outputs.write(fresh / outputs.PAGE, page)


def _publish_suite(flags: PublishFlags) -> None:
    title, found = _records(flags.folders)
    title = flags.title or title or "Results"
    called = short_names(r["env"] for r in found)
    files = outputs.file_names(called.values())
    pictures = {env: f"curves-{files[name]}.png" for env, name in called.items()}
    text = _notes(flags.out / NOTES)
    page = results.of_suite(title, found, pictures, text)
    ours = {outputs.PAGE: results.is_of_suite, "records.json": records.is_ours}
    with outputs.staged(flags.out, ours) as fresh:
        for env, name in called.items():
            plots.bands(_curves(found, env), fresh / pictures[env], name)
        records.write(fresh / "records.json", found, title)
        outputs.write(fresh / outputs.PAGE, page)


def _curves(found: list[dict[str, Any]], env: str) -> dict[str, list[plots.Curve]]:
    """Evaluations of each algorithm's seeds on one environment."""
    curves: dict[str, list[plots.Curve]] = {}
    for r in found:
        if r["env"] == env:
            known = [e[:2] for e in r["evaluations"] if e[1] is not None]
            points = np.array(known, float).reshape(-1, 2)
            curves.setdefault(r["algo"], []).append((points[:, 0], points[:, 1]))
    return curves


def _notes(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise ValueError(f"{path} cannot be read: it is not text in UTF-8") from None


def _is_runs_record(text: str) -> bool:
    return text.startswith('[\n {\n  "label": ')


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
