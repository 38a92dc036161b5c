"""Learning curves from wherever they are: run folders, published records, CSV, TensorBoard's event files."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import events, records, runs
from experiments.curves import Curve, cleaned, measured, same_run, same_values

METRIC = "eval/return"  # unless another is asked for
_COLUMNS = ("env", "algo", "seed", "env_steps", "value")
_NAMED = 3  # of many alike in a note


@dataclasses.dataclass(frozen=True)
class Found:
    curves: list[Curve]
    notes: list[str]  # what was left out, and why


def read(paths: Iterable[Path], metric: str) -> Found:
    """All curves under `paths`, each once, in order and finite.

    Raises ValueError, in one line, where there are none or where what is named itself cannot be read; what lies in a
    folder and cannot be read is left out.
    """
    found = Found([], [])
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no {path}")
        sources = sources_in(path)
        if not sources:
            raise ValueError(
                f"there is no run in {path}: no config.json, records.json, CSV or event file"
            )
        for source in sources:
            if source.resolve() in seen:
                found.notes.append(f"{source} was given twice and counts once")
                continue
            seen.add(source.resolve())
            named = source == path or path.is_file()
            try:
                more = _read(source, metric)
            except ValueError as error:
                if named:
                    raise
                found.notes.append(f"left out: {error}")
                continue
            found.notes.extend(more.notes)
            _add(more.curves, found, named)
    if not found.curves:
        raise ValueError(f"no value of {metric}: {_several(found.notes, '; ')}")
    return found


def sources_in(path: Path) -> list[Path]:
    """Run folders, folders of event files, records.json and CSV. What lies in a run's folder belongs to the run."""
    if path.is_file():
        return [path.parent if path.name.startswith(events.PREFIX) else path]
    if is_run(path):
        return [path]
    folders = sorted(p.parent for p in path.rglob("config.json"))
    others = [
        *sorted({p.parent for p in path.rglob(events.PREFIX + "*")}),
        *sorted(path.rglob("records.json")),
        *sorted(path.rglob("*.csv")),
    ]
    return folders + [p for p in others if not any(p.is_relative_to(f) for f in folders)]


def is_run(path: Path) -> bool:
    return (path / "config.json").exists()


def fields(of: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a curve but the seed, from a config.json or a record. An option of the environment that is called like
    a setting has the prefix of its flag."""
    options = {
        f"env_{name}" if name in settings else name: value
        for name, value in (of.get("env_kwargs") or {}).items()
    }
    return {**options, **settings, "env": of["env"], "algo": of["algo"]}


def _add(curves: Iterable[Curve], found: Found, named: bool) -> None:
    """Adds the curves of runs that `found` has not: a run may be there as folder, copy and record.

    Two curves are of one run where seed and all settings known of both are the same; the first of them counts. That a
    records.json found in a folder is of the runs there is the rule, and not worth a note.
    """
    repeated: dict[str, list[str]] = {}
    for raw in curves:
        curve, notes = cleaned(raw)
        found.notes.extend(notes)
        if curve is None:
            continue
        twin = next((c for c in found.curves if same_run(c, curve)), None)
        if twin is None:
            found.curves.append(curve)
            continue
        beside = not twin.brief and twin.source.is_relative_to(curve.source.parent)
        if named or not (curve.brief and beside):
            how = "" if same_values(twin, curve) else ", with other values"
            what = f"{curve.source} repeats {twin.source}{how}, and does not count for"
            repeated.setdefault(what, []).append(curve.name)
    found.notes.extend(f"{what} {_several(names)}" for what, names in repeated.items())


def _several(texts: Sequence[str], between: str = "; ") -> str:
    more = len(texts) - _NAMED
    return between.join([*texts[:_NAMED], *([f"and {more} more"] if more > 0 else [])])


def _read(source: Path, metric: str) -> Found:
    """Raises ValueError with one line that names a file."""
    try:
        if source.is_dir():
            return _of_run(source, metric) if is_run(source) else _of_events(source, metric)
        if source.suffix == ".csv":
            return _of_csv(source, metric)
        if source.suffix == ".json":
            return _of_records(source, metric)
    except UnicodeDecodeError:
        raise ValueError(f"{source} cannot be read: it is not text in UTF-8") from None
    except (OSError, csv.Error) as error:
        raise ValueError(f"{source} cannot be read: {error}") from None
    raise ValueError(f"{source} is none of: run folder, records.json, CSV, TensorBoard event file")


def _of_run(folder: Path, metric: str) -> Found:
    config = runs.read_config(folder)
    finished = (folder / "summary.json").exists()
    found, known = Found([], []), set()
    for i in range(config["seeds"]):
        path = runs.metrics_file(folder, config["seeds"], i)
        rows, damaged = runs.read_lines(path)
        known |= {name for row in rows for name in row}
        if damaged:
            found.notes.append(f"{path}: {damaged} damaged lines left out")
        kept = [row for row in rows if row.get(metric) is not None]
        if not kept:
            found.notes.append(f"{folder}, seed {config['seed'] + i}: no {metric} yet")
            continue
        columns = ("env_steps", "wall_clock_s", metric)
        points = [tuple(_number(row.get(c), f"{path}: {c}") for c in columns) for row in kept]
        of_seed = {**fields(config, config["config"]), "seed": config["seed"] + i}
        found.curves.append(measured(of_seed, points, finished, folder))
    if known and metric not in known:
        near = difflib.get_close_matches(metric, known, n=3, cutoff=0.3) or sorted(known)[:5]
        raise ValueError(f"{folder} has no metric {metric}; there is {', '.join(near)}")
    if not finished and found.curves:
        found.notes.append(f"{folder} is not finished: its curves end early")
    return found


def _of_records(path: Path, metric: str) -> Found:
    if metric not in ("eval/return", "train/return"):
        raise ValueError(f"{path} keeps eval/return and train/return only, not {metric}")
    name = "evaluations" if metric == "eval/return" else "train_curve"
    curves = []
    for r in records.read(path)[1]:
        try:
            of_seed = {**fields(r, r["settings"]), "seed": r["seed"]}
            seconds = r["wall_clock_s"] / max(r["env_steps"], 1)  # of the whole run: taken as even
            points = [(float(p[0]), p[0] * seconds, float(p[1])) for p in r[name]]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            what = f"{path}: the record of {r['env']}, {r['algo']}, seed {r['seed']} is damaged"
            raise ValueError(f"{what}: {error}") from None
        if points:
            curves.append(measured(of_seed, points, True, path))
    return Found(curves, [])


def _of_csv(path: Path, metric: str) -> Found:
    """Columns env, algo, seed, env_steps, value and, if known, wall_clock_s."""
    with path.open(newline="", encoding="utf-8-sig") as f:  # spreadsheets write a mark in front
        reader = csv.DictReader(f)
        missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} lacks the column {missing[0]}; wanted: {', '.join(_COLUMNS)}")
        points: dict[tuple[str, ...], list[tuple[float, ...]]] = {}
        for number, row in enumerate(reader, 2):
            try:
                point = (
                    float(row["env_steps"]),
                    float(row.get("wall_clock_s") or math.nan),
                    float(row["value"]),
                )
            except (TypeError, ValueError):
                raise ValueError(f"{path}, line {number}: not a number") from None
            points.setdefault((row["env"], row["algo"], row["seed"]), []).append(point)
    curves = [
        measured({"env": env, "algo": algo, "seed": seed}, of, True, path)
        for (env, algo, seed), of in points.items()
    ]
    renamed = f"{path} has a single column of values, which is taken for {metric}"
    return Found(curves, [renamed] if metric != METRIC else [])


def _of_events(folder: Path, metric: str) -> Found:
    """A folder ENV/ALGO/SEED, whose names say what its event files are."""
    at = folder.resolve()
    if len(at.parents) < 3:
        raise ValueError(f"{folder}: event files are read from folders ENV/ALGO/SEED")
    points, others = events.read(folder, metric)
    told = {"env": at.parents[1].name, "algo": at.parents[0].name, "seed": at.name}
    notes = [f"{folder}: {others} points are no single numbers and left out"] if others else []
    return Found([measured(told, points, True, folder)], notes)


def _number(x: Any, what: str) -> float:
    """Of JSON, whose integers know no bound and which has null for NaN."""
    if x is None:
        return math.nan
    if not isinstance(x, int | float):
        raise ValueError(f"{what} is {x!r:.40}, where a number is wanted")
    return float(x) if abs(x) <= sys.float_info.max else math.inf
