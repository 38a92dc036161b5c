"""Learning curves from wherever they are: run folders, published records, and other libraries' logs and tables."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.analysis import events, layouts, logs, others
from experiments.analysis.curve import NAME, Curve, cleaned, measured, same_run, same_values
from experiments.analysis.layouts import Identity
from experiments.console.suggest import nearest
from experiments.run import records, schema, stored
from experiments.run.folders import is_finished, is_run, metrics_file
from experiments.run.provenance import short_commit

METRIC = "eval/return"  # unless another is asked for
_APART = ", with other values (--by env,algo,commit or NAME=PATH sets them side by side)"
_NAMED = 3  # names listed in a note about many
_OF_RECORDS = {"eval/return": "evaluations", "train/return": "train_curve"}


@dataclasses.dataclass(frozen=True)
class Found:
    """Curves that were read, and notes on what was not."""

    curves: list[Curve]
    notes: list[str]  # what was left out, and why


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The metric and the fields to read from each source."""

    metric: str
    by_commit: bool = False  # curves of other commits are other curves
    name: str | None = None  # of the source, as NAME=PATH gives it
    named: bool = False  # whether any source was given a name

    @property
    def identity(self) -> Identity | None:
        """The identity that the user gave the source."""
        return layouts.given(self.name) if self.name else None

    def fields(self, of: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of a curve that come from how its source was given."""
        named = {NAME: self.name or ""} if self.named else {}
        commit = {"commit": short_commit(of.get("commit"))} if self.by_commit else {}
        return named | commit


def read(paths: Iterable[Path], metric: str, by: Sequence[str] = ()) -> Found:
    """Reads all curves under `paths`, each once, in order and finite. A path may have a name: NAME=PATH.

    `by`: the fields that distinguish curves. Two curves with equal settings both count only if their names differ or,
    with "commit" in `by`, their commits. Raises ValueError, in one line, if there are no curves or a named path cannot
    be read; unreadable files inside a folder are skipped.
    """
    result = Found([], [])
    seen: set[tuple[Path, str | None]] = set()
    placed = [located(path) for path in paths]
    named = any(name and layouts.given(name) is None for name, _ in placed)
    for name, path in placed:
        sources = sources_in(path)
        if not sources:
            raise ValueError(
                f"there is no run in {path}: no config.json, records.json, CSV, event file or other log that is known"
            )
        wanted = Wanted(metric, "commit" in by, name, named)
        for source in sources:
            if (source.resolve(), name) in seen:
                result.notes.append(f"{source} was given twice and counts once")
                continue
            seen.add((source.resolve(), name))
            is_named = source == path or path.is_file()
            try:
                more = _read(source, wanted)
            except ValueError as error:
                if is_named:
                    raise
                result.notes.append(f"left out: {error}")
                continue
            result.notes.extend(note for note in more.notes if note not in result.notes)
            _add(more.curves, result, is_named)
    if not result.curves:
        raise ValueError(f"no value of {metric}: {_several(result.notes, '; ')}")
    return result


def located(path: Path) -> tuple[str | None, Path]:
    """Returns the name that the user gave a path, as NAME=PATH, and the path. Raises ValueError where there is no such
    path."""
    name, equals, rest = str(path).partition("=")
    if path.exists():
        return None, path
    if not equals or not name.strip() or not Path(rest).exists() or not rest:
        raise ValueError(f"there is no {rest if equals and rest else path}")
    return name.strip(), Path(rest)


def sources_in(path: Path) -> list[Path]:
    """Returns run folders, folders of other libraries' logs, records.json and CSV under a path. Everything inside a
    run's folder belongs to the run."""
    if path.is_file():
        is_log = path.name.startswith(events.PREFIX) or others.is_of_sb3(path)
        return [path.parent if is_log else path]
    if is_run(path):
        return [path]
    folders = [folder for p in sorted(path.rglob("config.json")) if is_run(folder := p.parent)]
    logs = {p.parent for p in path.rglob(events.PREFIX + "*")}
    logs |= {p.parent for p in path.rglob("*") if others.is_of_sb3(p)}
    tables = [p for p in sorted(path.rglob("*.csv")) if not others.is_of_sb3(p)]
    rest = [*sorted(logs), *sorted(path.rglob("records.json")), *tables]
    return folders + [p for p in rest if not any(p.is_relative_to(f) for f in folders)]


def fields(of: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a curve but the seed, from a config.json or a record. An option of the environment that is
    called like a setting has the prefix of its flag."""
    options = {
        f"env_{name}" if name in settings else name: value
        for name, value in (of.get("env_kwargs") or {}).items()
    }
    return {**options, **settings, "env": of["env"], "algo": of["algo"]}


def _add(curves: Iterable[Curve], result: Found, named: bool) -> None:
    """Adds the curves of runs that are not in `result` yet: a run may exist as folder, copy and record.

    Two curves belong to the same run if their seeds and all settings known of both are equal; the first curve counts.
    No note is made if a records.json in a folder repeats the runs of this folder, which is the rule.
    """
    repeated: dict[str, list[str]] = {}
    for raw in curves:
        curve, notes = cleaned(raw)
        result.notes.extend(notes)
        if curve is None:
            continue
        twin = next((c for c in result.curves if same_run(c, curve)), None)
        if twin is None:
            result.curves.append(curve)
            continue
        beside = not twin.brief and twin.source.is_relative_to(curve.source.parent)
        if named or not (curve.brief and beside):
            how = "" if same_values(twin, curve) else _APART
            what = f"{curve.source} repeats {twin.source}{how}, and does not count for"
            repeated.setdefault(what, []).append(curve.name)
    result.notes.extend(f"{what} {_several(names)}" for what, names in repeated.items())


def _several(texts: Sequence[str], between: str = "; ") -> str:
    more = len(texts) - _NAMED
    return between.join([*texts[:_NAMED], *([f"and {more} more"] if more > 0 else [])])


def _read(source: Path, wanted: Wanted) -> Found:
    """Raises ValueError with one line that names a file."""
    try:
        if source.is_dir():
            return _of_run(source, wanted) if is_run(source) else _of_logs(source, wanted)
        if source.suffix == ".csv":
            return _of_csv(source, wanted)
        if source.suffix == ".json":
            return _of_json(source, wanted)
    except UnicodeDecodeError:
        raise ValueError(f"{source} cannot be read: it is not text in UTF-8") from None
    except (OSError, csv.Error) as error:
        raise ValueError(f"{source} cannot be read: {error}") from None
    raise ValueError(
        f"{source} is none of: run folder, records.json, CSV, TensorBoard event file, or another known log"
    )


def _of_run(folder: Path, wanted: Wanted) -> Found:
    config = stored.read_config(folder)
    finished = is_finished(folder)
    if finished:
        stored.read_summary(folder, config)
    metric = _ours(wanted.metric)
    shared = {
        **fields(config, config["config"] | records.learned_from(config)),
        **wanted.fields(config),
    }
    total = config["config"].get("total_steps")
    planned = float(total) if type(total) is int else None
    result, known = Found([], []), set()
    for i in range(config["seeds"]):
        path = metrics_file(folder, config["seeds"], i)
        if not path.parent.is_dir():
            raise ValueError(
                f"{folder} is of {config['seeds']} seeds, by its config.json; {path.parent} is missing"
            )
        rows, damaged = stored.read_metrics(folder, config, i) if path.exists() else ([], 0)
        known |= {name for row in rows for name in row}
        if damaged:
            result.notes.append(f"{path}: {damaged} damaged lines left out")
        points = [_point(row, metric) for row in rows if _measured(row, metric)]
        if not points:
            result.notes.append(f"{folder}, seed {config['seed'] + i}: no {metric} yet")
            continue
        curve = measured({**shared, "seed": config["seed"] + i}, points, finished, folder)
        result.curves.append(dataclasses.replace(curve, planned=planned))
    if known and metric not in known:
        raise ValueError(f"{folder} has no metric {metric}; there is {nearest(metric, known)}")
    if not finished and result.curves:
        result.notes.append(f"{folder} is not finished: its curves end early, and are not scored")
    return result


def _ours(metric: str) -> str:
    """Returns our name for a metric that other libraries call otherwise."""
    if metric in layouts.EVALUATION:
        return "eval/return"
    return "train/return" if metric in layouts.TRAINING else metric


def _point(row: dict[str, Any], metric: str) -> tuple[float, float, float]:
    values = (row["env_steps"], row.get("wall_clock_s"), row.get(metric))
    steps, seconds, value = (math.nan if x is None else float(x) for x in values)
    return steps, seconds, value


def _measured(row: dict[str, Any], metric: str) -> bool:
    """Tells a value that was not finite, and is null, from one that was not measured in this row."""
    if row.get(metric) is not None:
        return True
    if metric.startswith("eval/"):
        return any(row.get(name) is not None for name in row if name.startswith("eval/"))
    return metric == "train/return" and (row.get("train/episodes") or 0) > 0


def _of_json(path: Path, wanted: Wanted) -> Found:
    content = schema.parse(path)
    if not isinstance(content, dict) or "records" in content or path.name == "records.json":
        return _of_records(path, wanted)
    return _of_series(path, others.of_scores(path, content), wanted)


def _of_records(path: Path, wanted: Wanted) -> Found:
    metric = _ours(wanted.metric)
    if metric not in _OF_RECORDS:
        raise ValueError(f"{path} keeps eval/return and train/return only, not {metric}")
    result = Found([], [])
    everything = records.ordered(stored.read_records(path, whole=False)[1])
    for r in everything:
        of_seed = {**fields(r, r["settings"]), **wanted.fields(r), "seed": r["seed"]}
        seconds = r["wall_clock_s"] / max(r["env_steps"], 1)  # of the whole run: taken as even
        points = [
            (float(x), x * seconds, math.nan if y is None else float(y))
            for x, y, *_ in r[_OF_RECORDS[metric]]
        ]
        if not points:
            result.notes.append(
                f"{path}: {r['env']}, {r['algo']}, seed {r['seed']} has no {metric}"
            )
            continue
        curve = measured(of_seed, points, True, path)
        result.curves.append(dataclasses.replace(curve, planned=float(r["env_steps"])))
    if not everything:
        result.notes.append(f"{path} holds no record")
    return result


def _of_csv(path: Path, wanted: Wanted) -> Found:
    series = others.of_csv(path, layouts.tags(wanted.metric), wanted.identity)
    result = _of_series(path, series, wanted)
    if wanted.metric != METRIC and any(s.tag == "value" for s in series):
        result.notes.append(
            f"{path} has a single column of values, which is taken for {wanted.metric}"
        )
    return result


def _of_series(path: Path, series: Iterable[others.Series], wanted: Wanted) -> Found:
    result = Found([], [])
    for one in series:
        of_seed = {**one.identity.fields, **wanted.fields({})}
        result.notes.extend([one.identity.note] if one.identity.note else [])
        result.notes.extend(_renamed(path, one.tag, wanted.metric))
        curve = measured(of_seed, one.points, True, path)
        result.curves.append(dataclasses.replace(curve, alone=one.tag == "score"))
    return result


def _renamed(path: Path, tag: str, metric: str) -> list[str]:
    if tag in (metric, *others.VALUES):
        return []
    in_training = tag in layouts.TRAINING and metric in layouts.EVALUATION
    what = ", a return in training, with exploration," if in_training else ""
    return [f"{path}: {tag}{what} is taken for {metric}"]


def _of_logs(folder: Path, wanted: Wanted) -> Found:
    """Reads a folder of event files or of Stable-Baselines3's."""
    ours = None if wanted.identity else _our_tensorboard(folder)
    if ours:
        config, seed = ours
        view = logs.read_events(folder, layouts.tags(wanted.metric))
        of_seed = {**fields(config, config["config"]), **wanted.fields(config), "seed": seed}
        note = None
    else:
        identity, view = logs.read(folder, layouts.tags(wanted.metric), wanted.identity)
        of_seed, note = {**identity.fields, **wanted.fields({})}, identity.note
    notes = [*([note] if note else []), *view.notes, *_renamed(folder, view.tag, wanted.metric)]
    return Found([measured(of_seed, view.points, True, folder)], notes)


def _our_tensorboard(folder: Path) -> tuple[dict[str, Any], int] | None:
    """Returns the config.json and the seed of the run whose --track tensorboard wrote the folder; None where none
    did."""
    at = folder.resolve()
    number = re.fullmatch(r"seed_(\d+)", at.name)
    if not number or at.parent.name != "tensorboard":
        return None
    run = at.parent.parent
    if not is_run(run):
        raise ValueError(
            f"{folder} is of a run of ours, without the run's config.json: give the run's folder"
        )
    config = stored.read_config(run)
    return config, config["seed"] + int(number[1])
