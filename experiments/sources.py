"""Learning curves from wherever they are: run folders, published records, CSV, TensorBoard's event files."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import records, runs

_COLUMNS = ("env", "algo", "seed", "env_steps", "value")
_EVENTS = "events.out.tfevents."


@dataclasses.dataclass(frozen=True)
class Curve:
    """One seed's."""

    fields: dict[str, Any]  # env, algo, seed, and settings where they are known
    steps: np.ndarray  # [n] environment steps, ascending
    seconds: np.ndarray  # [n] wall clock; NaN where it is not known
    value: np.ndarray  # [n]
    finished: bool


@dataclasses.dataclass(frozen=True)
class Found:
    curves: list[Curve]
    notes: list[str]  # what was left out, and why


def read(paths: Iterable[Path], metric: str) -> Found:
    """All curves under `paths`. Raises ValueError, in one line, where there are none or a file cannot be read."""
    found = Found([], [])
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no {path}")
        before = len(found.curves) + len(found.notes)
        for source in sources_in(path):
            if source.resolve() in seen:
                found.notes.append(f"{source} was given twice and counts once")
                continue
            seen.add(source.resolve())
            more = _read(source, metric)
            found.curves.extend(more.curves)
            found.notes.extend(more.notes)
        if len(found.curves) + len(found.notes) == before:
            raise ValueError(
                f"there is no run in {path}: no config.json, records.json, CSV or event file"
            )
    if not found.curves:
        raise ValueError(f"no value of {metric} yet: {'; '.join(found.notes)}")
    return found


def sources_in(path: Path) -> list[Path]:
    if path.is_file() or (path / "config.json").exists():
        return [path]
    folders = sorted(p.parent for p in path.rglob("config.json"))
    events = sorted(
        p for p in path.rglob(_EVENTS + "*") if not any(p.is_relative_to(f) for f in folders)
    )
    return folders or events or sorted(path.rglob("records.json")) or sorted(path.rglob("*.csv"))


def _read(path: Path, metric: str) -> Found:
    if path.is_dir():
        return _of_run(path, metric)
    if path.name.startswith(_EVENTS):
        return _of_events(path, metric)
    if path.suffix == ".csv":
        return _of_csv(path)
    if path.suffix == ".json":
        return _of_records(path, metric)
    raise ValueError(f"{path} is none of: run folder, records.json, CSV, TensorBoard event file")


def _of_run(folder: Path, metric: str) -> Found:
    config = runs.read_config(folder)
    finished = (folder / "summary.json").exists()
    found, known = Found([], []), set()
    for i in range(config["seeds"]):
        path = runs.metrics_file(folder, config["seeds"], i)
        rows, damaged = _lines(path)
        known |= {name for row in rows for name in row}
        if damaged:
            found.notes.append(f"{path}: {damaged} damaged lines left out")
        fields = {**config["config"], "env": config["env"], "algo": config["algo"]}
        kept = [row for row in rows if row.get(metric) is not None and "env_steps" in row]
        if not kept:
            found.notes.append(f"{folder}, seed {config['seed'] + i}: no {metric} yet")
            continue
        points = [(r["env_steps"], r.get("wall_clock_s", np.nan), r[metric]) for r in kept]
        found.curves.append(_curve({**fields, "seed": config["seed"] + i}, points, finished))
    if known and metric not in known:
        near = difflib.get_close_matches(metric, known, n=3, cutoff=0.3) or sorted(known)[:5]
        raise ValueError(f"{folder} has no metric {metric}; there is {', '.join(near)}")
    if not finished and found.curves:
        found.notes.append(f"{folder} is not finished: its curves end early")
    return found


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Rows, and how many lines are none; a last line under way does not count."""
    rows, damaged = [], 0
    lines = path.read_text(errors="replace").split("\n") if path.exists() else [""]
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
            rows.append(row) if isinstance(row, dict) else None
            damaged += not isinstance(row, dict)
        except json.JSONDecodeError:
            damaged += i < len(lines) - 1
    return rows, damaged


def _of_records(path: Path, metric: str) -> Found:
    if metric not in ("eval/return", "train/return"):
        raise ValueError(f"{path} keeps eval/return and train/return only, not {metric}")
    name = "evaluations" if metric == "eval/return" else "train_curve"
    curves = []
    for r in records.read(path)[1]:
        seconds = r["wall_clock_s"] / max(r["env_steps"], 1)  # of the whole run: taken as even
        points = [(p[0], p[0] * seconds, p[1]) for p in r[name]]
        fields = {**r["settings"], "env": r["env"], "algo": r["algo"], "seed": r["seed"]}
        if points:
            curves.append(_curve(fields, points, True))
    return Found(curves, [])


def _of_csv(path: Path) -> Found:
    """Columns env, algo, seed, env_steps, value and, if known, wall_clock_s."""
    with path.open(newline="") as f:
        reader = csv.DictReader(f)
        missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} lacks the column {missing[0]}; wanted: {', '.join(_COLUMNS)}")
        points: dict[tuple[str, ...], list[tuple[float, float, float]]] = {}
        for number, row in enumerate(reader, 2):
            try:
                point = (
                    float(row["env_steps"]),
                    float(row.get("wall_clock_s") or np.nan),
                    float(row["value"]),
                )
            except (TypeError, ValueError):
                raise ValueError(f"{path}, line {number}: not a number") from None
            points.setdefault((row["env"], row["algo"], row["seed"]), []).append(point)
    return Found(
        [
            _curve({"env": env, "algo": algo, "seed": seed}, sorted(of), True)
            for (env, algo, seed), of in points.items()
        ],
        [],
    )


def _of_events(path: Path, metric: str) -> Found:
    """A file ENV/ALGO/SEED/events.out.tfevents.*; the three folders say what it is."""
    try:
        from tensorboardX.proto.event_pb2 import Event
    except ImportError:
        raise ValueError(f"{path} is TensorBoard's: pip install tensorboardX to read it") from None
    if len(path.resolve().parents) < 4:
        raise ValueError(f"{path}: event files are read from folders ENV/ALGO/SEED")
    seed, algo, env = (parent.name for parent in path.resolve().parents[:3])
    points, tags, begin = [], set(), None
    for payload in _framed(path):
        event = Event.FromString(payload)
        begin = event.wall_time if begin is None else begin
        for value in event.summary.value:
            tags.add(value.tag)
            if value.tag == metric:
                points.append((event.step, event.wall_time - begin, value.simple_value))
    if not points:
        near = difflib.get_close_matches(metric, tags, n=3, cutoff=0.3) or sorted(tags)[:5]
        raise ValueError(f"{path} has no metric {metric}; there is {', '.join(near)}")
    return Found([_curve({"env": env, "algo": algo, "seed": seed}, points, True)], [])


def _framed(path: Path) -> Iterator[bytes]:
    """TFRecord: length, its checksum, payload, its checksum; a last one may be half written."""
    content, at = path.read_bytes(), 0
    while at + 12 <= len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        if at + 16 + size > len(content):
            return
        yield content[at + 12 : at + 12 + size]
        at += 16 + size


def _curve(fields: dict[str, Any], points: Sequence[tuple[float, ...]], finished: bool) -> Curve:
    steps, seconds, value = np.array(points, float).T
    return Curve(fields, steps, seconds, value, finished)
