"""Learning curves and scores in other libraries' files.

- Stable-Baselines3: progress.csv, monitor.csv and evaluations.npz.
- Weights & Biases' CSV of a chart, as the Open RL Benchmark's: a column `RUN - METRIC` for each run.
- Tables of one run: a column of steps and a metric, as of Brax's progress or a history of Weights & Biases; identified
  by columns (env, algo, seed, by any of their names) or by the names of file and folders.
- rliable's score matrices, JSON {ALGORITHM: [runs][tasks]} or {ALGORITHM: {TASK: [runs]}}, and CSV with a task a column
  and a run a row. They are scores alone: curves of one point.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis import layouts
from experiments.analysis.layouts import Identity
from experiments.run import schema

Points = list[tuple[float, float, float]]  # step, seconds (NaN: not known), value
STEPS = (
    *("env_steps", "time/total_timesteps", "global_step", "num_steps", "total_timesteps"),
    *("timesteps", "timestep", "steps", "_step", "step", "Step"),
)
SECONDS = ("wall_clock_s", "time/time_elapsed", "_runtime", "seconds", "walltime")
_ENV = ("env", "env_id", "env_name", "environment", "task", "game")
_ALGO = ("algo", "algorithm", "agent", "method", "exp_name", "model")
_SEED = ("seed", "run", "trial", "run_id")
VALUES = ("value", "score", "return", "normalized_score", "episode_return", "Value")
_OF_WANDB = re.compile(r"(?P<run>.+) - (?P<metric>\S.*)")
COLUMNS = ("env", "algo", "seed", "env_steps", "value")
NO_STEPS = 0.0  # of a score that has none


def of_progress(path: Path, tags: Sequence[str]) -> tuple[Points, str]:
    """Reads SB3's logger: the points of the first of `tags` that it has. Raises ValueError."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        names, rows = list(reader.fieldnames or ()), list(reader)
    steps, tag = _first(names, STEPS), _first(names, tags)
    if steps is None or tag is None:
        lacking = "time/total_timesteps" if steps is None else tags[0]
        raise ValueError(f"{path} has no {lacking}; there is {', '.join(names[:8]) or 'nothing'}")
    return _points(path, [row for row in rows if row.get(tag)], steps, tag), tag


@dataclasses.dataclass(frozen=True)
class Series:
    """A seed's points, as they were written."""

    identity: Identity
    points: Points
    tag: str  # the name of the metric there


def is_monitor(path: Path) -> bool:
    """Tells a file of SB3's Monitor by its name."""
    return path.name == "monitor.csv" or path.name.endswith(".monitor.csv")


def is_of_sb3(path: Path) -> bool:
    """Tells a log of Stable-Baselines3 by its name."""
    return path.name in ("progress.csv", "evaluations.npz") or is_monitor(path)


def of_evaluations(path: Path) -> tuple[Points, str]:
    """Reads SB3's EvalCallback: the mean return of each evaluation's episodes. Raises ValueError."""
    try:
        with np.load(path, allow_pickle=False) as content:
            steps, results = np.asarray(content["timesteps"]), np.asarray(content["results"])
        if steps.ndim != 1 or results.ndim != 2 or len(steps) != len(results):
            raise ValueError(f"timesteps of shape {steps.shape}, results of {results.shape}")
        pairs = zip(steps.astype(float), results.astype(float).mean(axis=1), strict=True)
        return [(float(x), math.nan, float(y)) for x, y in pairs], "eval/mean_reward"
    except (KeyError, ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no evaluations.npz of Stable-Baselines3: {reason}") from None


def of_monitors(paths: Sequence[Path]) -> tuple[Points, str | None]:
    """Returns of episodes from SB3's monitor files, of environments side by side, against the steps of all; and the
    environment's name where they say it. Raises ValueError."""
    episodes: list[tuple[float, float, float]] = []  # time, length, return
    env = None
    for path in paths:
        first, *rest = path.read_text(encoding="utf-8").splitlines() or [""]
        try:
            head = json.loads(first.removeprefix("#")) if first.startswith("#") else {}
        except (ValueError, RecursionError):
            raise ValueError(f"{path}, line 1: a line #{{...}} of JSON is wanted") from None
        env = head.get("env_id") if isinstance(head, dict) else None
        rows = list(csv.DictReader(rest if first.startswith("#") else [first, *rest]))
        for number, row in enumerate(rows, 3 if first.startswith("#") else 2):
            at = f"{path}, line {number}"
            episodes.append(tuple(_figure(row.get(c), f"{at}: {c}") for c in "tlr"))  # type: ignore[arg-type]
    episodes.sort(key=lambda episode: episode[0])
    steps = np.cumsum([length for _, length, _ in episodes])
    points = [(float(n), t, r) for n, (t, _, r) in zip(steps, episodes, strict=True)]
    return points, env if isinstance(env, str) and env else None


def of_csv(path: Path, tags: Sequence[str], identity: Identity | None) -> list[Series]:
    """Reads all series of a CSV that holds one of `tags`, or scores. `identity`: as given by the user. Raises
    ValueError with one line for any other table."""
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a mark in front
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or ())
        rows = list(reader)
    if not names:
        raise ValueError(f"{path} is empty")
    for number, row in enumerate(rows, 2):
        if None in row:
            raise ValueError(f"{path}, line {number}: more cells than the header has")
    of_wandb = [(name, match) for name in names if (match := _OF_WANDB.fullmatch(name))]
    env, algo, seed = (_first(names, of) for of in (_ENV, _ALGO, _SEED))
    steps, value = _first(names, STEPS), _first(names, (*tags, *VALUES))
    if not rows and (of_wandb or value):
        raise ValueError(f"{path} has a header, but no row beneath it")
    if of_wandb:
        return _of_chart(path, rows, names[0], of_wandb, tags)
    if value and steps:
        return _of_runs(path, rows, (env, algo, seed), steps, value, identity)
    if value and env and algo:
        return _of_scores(path, rows, env, algo, seed, value)
    if not steps and not value and _is_matrix(names, rows):
        return _of_matrix(path, names, rows, identity)
    missing = [
        c for c, there in zip(COLUMNS, (env, algo, seed, steps, value), strict=True) if not there
    ]
    raise ValueError(f"{path} lacks the column {missing[0]}; wanted: {', '.join(COLUMNS)}")


def of_scores(path: Path, content: Any) -> list[Series]:
    """Reads rliable's scores from JSON. Raises ValueError where the content has another form."""
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds neither records nor scores {{ALGORITHM: [runs][tasks]}}")
    if all(isinstance(x, list) and x and not isinstance(x[0], list) for x in content.values()):
        content = {path.stem: content}
    series = []
    for algo, of_algo in content.items():
        at = f"{path}: {algo[:60]!r}"
        for env, scores in _by_task(of_algo, at):
            for seed, score in enumerate(scores):
                if fault := schema.Maybe(schema.Number()).fault(score, f"{env[:60]!r}[{seed}]"):
                    raise ValueError(f"{at}, {fault}")
                series.append(_score(Identity(env, algo, str(seed)), _or_nan(score)))
    return series


def _by_task(scores: Any, at: str) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(scores, dict) and all(isinstance(x, list) for x in scores.values()):
        yield from scores.items()
        return
    fits = isinstance(scores, list) and scores and all(isinstance(x, list) for x in scores)
    if not fits or len({len(x) for x in scores}) > 1:
        raise ValueError(f"{at} must be [runs][tasks], or {{TASK: [runs]}}, of numbers")
    for task, column in enumerate(zip(*scores, strict=True), 1):
        yield f"task {task}", list(column)


def _of_chart(
    path: Path,
    rows: list[dict[str, str]],
    steps: str,
    columns: list[tuple[str, re.Match[str]]],
    tags: Sequence[str],
) -> list[Series]:
    """Reads a chart of Weights & Biases: cells are empty where a run was not logged; `__MIN` and `__MAX` are of groups
    of points."""
    if steps not in STEPS:
        raise ValueError(
            f"{path}: its first column is {steps!r}, where steps are wanted: {', '.join(STEPS)}"
        )
    there = list(dict.fromkeys(match["metric"] for _, match in columns))
    tag = next((tag for tag in tags if tag in there), None)
    if tag is None:
        plain = [name for name in there if not name.endswith(("__MIN", "__MAX"))]
        raise ValueError(f"{path} has no metric {tags[0]}; there is {', '.join(plain[:5])}")
    series = []
    for column, match in columns:
        if match["metric"] != tag:
            continue
        identity = layouts.by_name(match["run"]) or layouts.given(match["run"])
        if identity is None:
            raise ValueError(
                f"{path}: the column {column[:80]!r} does not say environment, algorithm and seed; runs are to be "
                "called ENV__NAME__SEED__TIME, as in CleanRL and the Open RL Benchmark"
            )
        points = [
            (
                _figure(row[steps], f"{path}, line {n}: {steps}"),
                math.nan,
                _figure(row[column], f"{path}, line {n}"),
            )
            for n, row in enumerate(rows, 2)
            if row.get(column)
        ]
        series.append(Series(identity, points, tag))
    return series


def _of_runs(
    path: Path,
    rows: list[dict[str, str]],
    names: tuple[str | None, str | None, str | None],
    steps: str,
    value: str,
    identity: Identity | None,
) -> list[Series]:
    seconds = _first(list(rows[0]), SECONDS)
    points: dict[tuple[str, ...], Points] = {}
    missing = [c for c, there in zip(COLUMNS, names, strict=False) if not there]
    if not missing:
        identity = None  # of the columns, which may be of many runs
    elif identity is None:
        identity = layouts.by_name(path.stem)
        try:
            identity = identity or layouts.of_folder(path.parent)
        except ValueError:
            raise ValueError(
                f"{path} lacks the column {missing[0]}, and its name does not say it; {layouts.EXPECTED}"
            ) from None
    for number, row in enumerate(rows, 2):
        if value != "value" and not row.get(value):
            continue  # of tables with many metrics, each is logged at its own times
        at = f"{path}, line {number}"
        where = (
            tuple(row[c] or "" for c in names if c)
            if identity is None
            else (identity.env, identity.algo, identity.seed)
        )
        known = row.get(seconds) if seconds else None
        time = _figure(known, at) if known else math.nan
        points.setdefault(where, []).append(
            (_figure(row[steps], at), time, _figure(row[value], at))
        )
    return [Series(Identity(*where), of, value) for where, of in points.items()]


def _of_scores(
    path: Path, rows: list[dict[str, str]], env: str, algo: str, seed: str | None, value: str
) -> list[Series]:
    """Reads a table with a row for each score."""
    count: dict[tuple[str, str], int] = {}
    series = []
    for number, row in enumerate(rows, 2):
        of = (row[env] or "", row[algo] or "")
        count[of] = count.get(of, -1) + 1
        which = row[seed] or "" if seed else str(count[of])
        series.append(_score(Identity(*of, which), _figure(row[value], f"{path}, line {number}")))
    return series


def _of_matrix(
    path: Path, names: list[str], rows: list[dict[str, str]], identity: Identity | None
) -> list[Series]:
    """Reads a table with a run a row and a task a column; the file is called after the algorithm."""
    algo = identity.algo if identity else path.stem
    label = names[0] if names[0] in ("", *_SEED) else None
    series = []
    for run, row in enumerate(rows):
        seed = (row[label] if label is not None else None) or str(run)
        for env in names:
            if env != label:
                at = f"{path}, line {run + 2}: {env}"
                series.append(_score(Identity(env, algo, seed), _figure(row[env], at)))
    return series


def _is_matrix(names: list[str], rows: list[dict[str, str]]) -> bool:
    of_tasks = [name for name in names if name not in ("", *_SEED)]
    return (
        len(of_tasks) > 0
        and len(rows) > 0
        and all(None not in row and all(_is_number(row[name]) for name in of_tasks) for row in rows)
    )


def _score(identity: Identity, value: float) -> Series:
    return Series(identity, [(NO_STEPS, math.nan, value)], "score")


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _points(path: Path, rows: list[dict[str, str]], steps: str, value: str) -> Points:
    seconds = _first(list(rows[0]), SECONDS) if rows else None
    points = []
    for number, row in enumerate(rows, 2):
        at = f"{path}, line {number}"
        known = row.get(seconds) if seconds else None
        points.append(
            (
                _figure(row[steps], at),
                _figure(known, at) if known else math.nan,
                _figure(row[value], at),
            )
        )
    return points


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def _figure(text: str | None, at: str) -> float:
    if not _is_number(text):
        raise ValueError(f"{at}: not a number")
    return float(text or "")


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else float(x)
