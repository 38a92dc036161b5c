"""Runs whose configuration is known: from run folders and from records.json, beside the curves that they gave."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis import sources
from experiments.analysis.curve import NAME, Curve
from experiments.analysis.groups import grouped
from experiments.run import records, stored
from experiments.run.folders import is_finished, is_run
from experiments.run.spec import short_name


@dataclasses.dataclass(frozen=True)
class KnownRun:
    """A run's configuration and state, beside its curves."""

    name: str
    fields: dict[str, Any]  # as those of its curves
    seeds: list[Any]
    config: dict[str, str]  # flat: settings, env.*, version.*, machine.*, commit
    finished: bool
    folder: Path | None  # None: known from its record, which lacks settings at their defaults


def known_runs(curves: Iterable[Curve]) -> Iterator[KnownRun]:
    """Yields the runs of curves whose configuration is known: from run folders and from records.json."""
    by_source: dict[Path, list[Curve]] = {}
    for curve in curves:
        by_source.setdefault(curve.source.resolve(), []).append(curve)
    folders = [at for at in by_source if is_run(at)]
    # Names lack what all have in common: where the folders lie says nothing, and the page may be published.
    top = Path(os.path.commonpath([folder.parent for folder in folders])) if folders else Path()
    for at, of_source in by_source.items():
        if at in folders:
            yield _of_folder(at, at.relative_to(top).as_posix(), of_source[0])
        elif of_source[0].brief:
            yield from _of_records(at, of_source)


def _given(curve: Curve) -> dict[str, Any]:
    """Returns the fields that come from how a curve's source was given."""
    return {name: curve.fields[name] for name in (NAME, "commit") if name in curve.fields}


def _of_folder(folder: Path, name: str, curve: Curve) -> KnownRun:
    config = stored.read_config(folder)
    return KnownRun(
        name=name,
        fields={**sources.fields(config, config["config"]), **_given(curve)},
        seeds=[config["seed"] + i for i in range(config["seeds"])],
        config=_flat(config["config"], config),
        finished=is_finished(folder),
        folder=folder,
    )


def _of_records(path: Path, counted: list[Curve]) -> Iterator[KnownRun]:
    """Yields the runs of a records.json, in which each seed of a run has a record and all of them agree in the
    settings. `counted`: the curves that no other source has."""
    together: dict[str, list[dict[str, Any]]] = {}
    known = [{k: v for k, v in c.fields.items() if k not in _given(c)} for c in counted]
    for r in records.ordered(stored.read_records(path, whole=False)[1]):
        if {**sources.fields(r, r["settings"]), "seed": r["seed"]} not in known:
            continue
        key = json.dumps([r["env"], r["algo"], r.get("run"), _flat(r["settings"], r)])
        together.setdefault(key, []).append(r)
    for of_run in together.values():
        r = of_run[0]
        yield KnownRun(
            name=f"{short_name(r['env'])}, {r['algo']}",
            fields={**sources.fields(r, r["settings"]), **_given(counted[0])},
            seeds=[each["seed"] for each in of_run],
            config=_flat(r["settings"], r),
            finished=True,
            folder=None,
        )


def labelled(runs: list[KnownRun], by: Sequence[str]) -> Iterator[tuple[KnownRun, str, list[str]]]:
    """Yields each run with its environment and the labels of its seeds, as `grouped` labels curves."""
    none = np.zeros(0)
    seeds = [
        [Curve({**r.fields, "seed": s}, none, none, none, True) for s in r.seeds] for r in runs
    ]
    groups = grouped(list(chain(*seeds)), ["env", *by]) if runs else {}
    label = {id(c): of for (_, of), curves in groups.items() for c in curves}
    for run, of_run in zip(runs, seeds, strict=True):
        yield run, str(run.fields["env"]), list(dict.fromkeys(label[id(c)] for c in of_run))


def _flat(settings: dict[str, Any], of: dict[str, Any]) -> dict[str, str]:
    parts = {"": settings, "env.": of.get("env_kwargs"), "version.": of.get("versions")}
    parts["machine."] = of.get("machine")
    flat = {prefix + k: v for prefix, part in parts.items() for k, v in (part or {}).items()}
    return {name: _text(value) for name, value in {**flat, "commit": of.get("commit")}.items()}


def _text(value: Any) -> str:
    """Returns a value as one would write it; 1.0 and 1 are the same."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return json.dumps(value)
