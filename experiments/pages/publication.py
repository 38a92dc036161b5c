"""Writes the page of finished runs, with its figures and records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.console import outputs
from experiments.figures import comparison, preferences
from experiments.figures.alignment import Line
from experiments.pages import results
from experiments.pages.offline import subject
from experiments.run import records, stored
from experiments.run.folders import is_run, plain
from experiments.run.names import label_runs, short_names

NOTES = "notes.md"  # in the folder of a page, by hand
RUNS = "runs.json"


def publish_runs(folders: Sequence[Path], out: Path, title: str | None) -> None:
    """Writes page, curves and record of single runs into `out`: README.md, curves.png, runs.json. Raises ValueError for
    runs that are not finished or cannot be read, before anything in `out` has changed."""
    finished = [stored.read_run(folder) for folder in folders]
    configs, summaries = [run.config for run in finished], [run.summary for run in finished]
    labels = label_runs(configs)
    curves = {label: run.rows for label, run in zip(labels, finished, strict=True)}
    of_tokens = all("task" in summary for summary in summaries)
    metric = ("eval/pass_at_1", "pass@1, held-out prompts") if of_tokens else ()
    record = [
        {
            "label": label,
            "config": run.config,
            "summary": run.summary,
            "evaluations": _evaluations(run.rows),
        }
        for label, run in zip(labels, finished, strict=True)
    ]
    page = results.of_runs(title or "Results", labels, configs, summaries)
    ours = {outputs.PAGE: results.is_of_runs, RUNS: _is_runs_record}
    with outputs.staged(out, ours) as fresh:
        comparison.mean_curves(curves, fresh / "curves.png", *metric)
        outputs.write(fresh / RUNS, json.dumps(plain(record), indent=1) + "\n")
        outputs.write(fresh / outputs.PAGE, page)


def publish_suite(paths: Sequence[Path], out: Path, title: str | None) -> None:
    """Writes page, curves and records of suites into `out`: README.md, a figure for each environment, records.json.
    `paths`: their folders or records.json. Raises ValueError as `publish_runs` does."""
    recorded, kept = _records(paths)
    title = title or recorded or "Results"
    called = short_names(map(subject, kept))
    files = outputs.file_names(called.values())
    pictures = {env: f"curves-{files[name]}.png" for env, name in called.items()}
    learned = {
        env: f"preferences-{files[name]}.png" for env, name in called.items() if _learned(kept, env)
    }
    text = _notes(out / NOTES)
    page = results.of_suite(title, kept, pictures, text, learned)
    ours = {outputs.PAGE: results.is_of_suite, "records.json": records.is_ours}
    with outputs.staged(out, ours) as fresh:
        for env, name in called.items():
            comparison.quartile_bands(_curves(kept, env), fresh / pictures[env], name)
        for env, picture in learned.items():
            seeds = _learned(kept, env)
            metrics = [
                {name: _line(r["metrics"][name]) for name in preferences.METRICS} for r in seeds
            ]
            returns = [_line(r["evaluations"]) for r in seeds]
            preferences.preference_panels(returns, metrics, fresh / picture, called[env])
        records.write(fresh / "records.json", kept, title)
        outputs.write(fresh / outputs.PAGE, page)


def _curves(kept: list[dict[str, Any]], env: str) -> dict[str, list[Line]]:
    """Evaluations of each algorithm's seeds on one environment, or from one dataset."""
    curves: dict[str, list[Line]] = {}
    for r in kept:
        if subject(r) == env:
            curves.setdefault(r["algo"], []).append(_line(r["evaluations"]))
    return curves


def _line(points: list[list[float]]) -> Line:
    """The points of a curve whose value is known, as two arrays."""
    known = np.array([point[:2] for point in points if point[1] is not None], float).reshape(-1, 2)
    return known[:, 0], known[:, 1]


def _learned(kept: list[dict[str, Any]], env: str) -> list[dict[str, Any]]:
    """The records of runs on one environment that learned their reward from preferences."""
    return [r for r in kept if r["env"] == env and preferences.METRICS[0] in r.get("metrics", {})]


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
    """Returns the first title, and all records. Raises ValueError where a seed is there twice, or none at all."""
    title, kept = None, []
    for path in paths:
        if path.is_file():
            named, more = records.read(path)
            title = title or named
        else:
            more = records.record(path) if is_run(path) else records.collect(path)
        if not more:
            raise ValueError(f"there is no finished run in {path}")
        kept += more
    seen = set()
    for r in kept:
        what = (subject(r), r["algo"], r["seed"])
        if what in seen:
            raise ValueError("{} with {}, seed {}, is there twice".format(*what))
        seen.add(what)
    return title, records.ordered(kept)


def _evaluations(seeds: list[list[dict[str, Any]]]) -> list[list[tuple[int, float]]]:
    """Returns (environment steps, return) of each seed's evaluations."""
    return [
        [
            (row["env_steps"], round(row["eval/return"], 2))
            for row in rows
            if row.get("eval/return") is not None
        ]
        for rows in seeds
    ]
