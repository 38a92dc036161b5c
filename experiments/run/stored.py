"""Runs and records as they are read back from disk: every field that tables and curves are made of has been checked.

A file that cannot be read, or has a field that is missing or of another kind, is a ValueError with one line that names
both.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.run import folders, schema
from experiments.run.schema import (
    NAME,
    SETTINGS,
    TEXT,
    Either,
    Flag,
    ListOf,
    Maybe,
    Number,
    Row,
    Table,
    TableOf,
    Whole,
)

Rows = list[dict[str, Any]]

_FIGURE = Maybe(Number())  # null: it was not finite, or there was none
_SEEDS = Whole(1, 2**20)
_Fields = dict[str, schema.Kind]
_MADE_BY: _Fields = {
    "commit": Maybe(TEXT),
    "versions": Maybe(TableOf(Maybe(TEXT))),
    "machine": Maybe(Table({"cpu": TEXT, "cores": Whole(0), "device": TEXT})),
}
CONFIG = Table(
    {
        "env": NAME,
        "env_kwargs": SETTINGS,
        "algo": NAME,
        "config": SETTINGS,
        "seed": Whole(),
        "seeds": _SEEDS,
    },
    {"domain": TEXT, **_MADE_BY},
)

_MEASURE = Maybe(Either((Flag(), Number())))
_GAIT = Table(
    dict.fromkeys(("walks", "alternation", "flight", "duty_right", "duty_left"), _MEASURE),
    others=_MEASURE,
)
_EVALUATION: _Fields = {
    "eval_return_mean": _FIGURE,
    "eval_return_std": _FIGURE,
    "eval_episodes": Number(1),
}
_OF_TOKENS = dict.fromkeys(
    ("pass_at_1", "pass_at_8", "pass_at_1_start", "pass_at_8_start", "kl_to_reference"), Number()
)
_MAYBE_GAIT: _Fields = {"survival_rate": _FIGURE, "distance_m": _FIGURE, "gait": Maybe(_GAIT)}
_MOMENT = Maybe(Table({"env_steps": _FIGURE, "wall_clock_s": _FIGURE}, {"seeds": Whole(0)}))
_REACHED: _Fields = {"reached": TableOf(_MOMENT)}  # goals; older runs do not tell
_REPORT = Table(  # of a seed
    {"seed": Whole(), **_EVALUATION}, {**_MAYBE_GAIT, **_REACHED}, others=_MEASURE
)
_TOKEN_REPORT = Table({**_OF_TOKENS})
SUMMARY = Table(
    {
        "env_steps": Whole(0),
        "wall_clock_s": Number(0),
        "compile_s": Number(0),
        "steps_per_second": Number(0),
        "per_seed": ListOf(_REPORT, 1),
        **_EVALUATION,
    },
    {"eval_batches": Whole(1), "task": TEXT, **_MAYBE_GAIT, **_REACHED},
)
_TOKEN_SUMMARY = Table({**_OF_TOKENS, "parameters": Number(0), "tokens_per_second": Number(0)})

METRICS = Table({"env_steps": Whole(0)}, others=_FIGURE)  # a row of metrics.jsonl

_POINT = Row((Whole(0), _FIGURE))
_EVALUATED = Row((Whole(0), _FIGURE, Number(1)))  # with the number of episodes
_CURVES: _Fields = {  # what curves are made of
    "env": NAME,
    "algo": NAME,
    "seed": Whole(),
    "settings": SETTINGS,
    "env_steps": Whole(0),
    "wall_clock_s": Number(0),
    "evaluations": ListOf(Either((_EVALUATED, _POINT))),
    "train_curve": ListOf(_POINT),
}
_TABLES: _Fields = {  # what tables want besides
    "run": Table({"seed": Whole(), "seeds": _SEEDS}),
    "final": Table({"mean": _FIGURE, "std": _FIGURE, "episodes": Number(1)}),
    "best": Maybe(Either((_EVALUATED, _POINT))),
    "train_return_last_100": _FIGURE,
    "report": Maybe(_REPORT),
    "command": TEXT,
}
_METRICS_OF = Table({}, others=ListOf(_POINT))  # curves by the name of the metric
_FILE = Table({"title": Maybe(TEXT), "records": ListOf(Table({}))})


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """The files of a finished run."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    rows: list[Rows]  # of each seed


def read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json. Raises ValueError, also where the folder has none."""
    config = folders.read_config(folder)
    schema.require(config, CONFIG, folder / "config.json")
    return config


def read_summary(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Reads summary.json of the run that `config` describes. Raises ValueError, also where the run is not finished."""
    file = folder / "summary.json"
    try:
        summary = schema.read(file, SUMMARY)
    except FileNotFoundError:
        raise ValueError(f"{folder} is not finished: it has no summary.json") from None
    reports = summary["per_seed"]
    seeds, wanted = [r["seed"] for r in reports], [config["seed"] + i for i in range(len(reports))]
    if len(reports) != config["seeds"] or seeds != wanted:
        raise ValueError(
            f"{file}: per_seed is of seeds {_listed(seeds)}, config.json says {config['seeds']} from {config['seed']}"
        )
    if "task" in summary:
        schema.require(summary, _TOKEN_SUMMARY, file)
    for i, report in enumerate(reports):
        if fault := _token_fault(report, f"per_seed[{i}]"):
            raise ValueError(f"{file}: {fault}")
    return summary


def read_metrics(folder: Path, config: dict[str, Any], index: int) -> tuple[Rows, int]:
    """Returns the rows of a seed's metrics.jsonl, and the number of its lines that are no rows. Raises ValueError, also
    where there is no such file."""
    path = folders.metrics_file(folder, config["seeds"], index)
    if not path.is_file():
        raise ValueError(f"{path} is missing, of seed {config['seed'] + index}")
    try:
        rows, damaged = folders.read_lines(path)
    except RecursionError:
        raise ValueError(f"{path} cannot be read: a line is nested too deeply") from None
    for row in rows:
        if fault := METRICS.fault(row, ""):
            raise ValueError(f"{path}, row of env step {_short(row['env_steps'])}: {fault}")
    return rows, damaged


def read_run(folder: Path) -> FinishedRun:
    """Reads a finished run. Raises ValueError, also where lines of its metrics are damaged."""
    config = read_config(folder)
    summary = read_summary(folder, config)
    seeds = []
    for i in range(config["seeds"]):
        rows, damaged = read_metrics(folder, config, i)
        if damaged:
            path = folders.metrics_file(folder, config["seeds"], i)
            raise ValueError(f"{path} is damaged: {damaged} of its lines are no rows of metrics")
        seeds.append(rows)
    return FinishedRun(folder, config, summary, seeds)


def read_records(path: Path, whole: bool = True) -> tuple[str | None, list[dict[str, Any]]]:
    """Returns title and records of a records.json; with the fields that tables need if `whole`, else with those that
    curves need. Raises ValueError."""
    try:
        content = schema.parse(path)
    except FileNotFoundError:
        raise ValueError(f"there is no {path}") from None
    if _FILE.fault(content, ""):
        raise ValueError(f"{path} holds no records as experiments.suite writes them")
    optional: _Fields = {
        "env_kwargs": SETTINGS,
        "metrics": _METRICS_OF,
        "unit": TEXT,
        "dataset": folders.DATASET,
        **_MADE_BY,
    }
    kind = Table({**_CURVES, **_TABLES}, optional) if whole else Table(_CURVES, optional)
    for i, record in enumerate(content["records"]):
        if fault := kind.fault(record, ""):
            raise ValueError(f"{path}: {_which(record, i)}: {fault}")
        if whole and (fault := _token_fault(record["report"] or {}, "report")):
            raise ValueError(f"{path}: {_which(record, i)}: {fault}")
    return content["title"], content["records"]


def _token_fault(report: dict[str, Any], at: str) -> str | None:
    """Returns the fault of a report on responses to prompts, in words; None where it has none, or is of something
    else."""
    return _TOKEN_REPORT.fault(report, at) if "pass_at_1" in report else None


def _which(record: dict[str, Any], index: int) -> str:
    """Returns words for a record, as far as it identifies itself."""
    names = [record.get(name) for name in ("env", "algo", "seed")]
    if all(type(name) in (str, int) for name in names):
        return "the record of {}, {}, seed {}".format(*map(_short, names))
    return f"record {index + 1}"


def _listed(values: list[int]) -> str:
    return ", ".join(map(_short, values[:5])) + (", ..." if len(values) > 5 else "")


def _short(x: Any) -> str:
    """Returns a value as it may stand in a line."""
    text = str(x)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 60 else f"{text[:60]}..."
