"""Compact records of finished runs, one for each seed: a few kilobytes that can be kept under version control, and
from which tables and curves can be drawn without the runs' folders."""

from __future__ import annotations

import dataclasses
import json
import operator
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.console import options, outputs
from experiments.evaluation.evaluator import FINAL_BATCHES
from experiments.run import arguments, folders, stored, trust
from experiments.run.spec import LAYOUT, algorithm, env_factory
from experiments.user_envs import load

CURVE_POINTS = 100
LAST_EPISODES = 100  # the metric of CleanRL's and others' tables
_DIGITS = 5  # significant ones
Rows = list[dict[str, Any]]
_BEGIN = '{"title": '  # by which a file is known as written here


def record(folder: Path) -> list[dict[str, Any]]:
    """Returns a record for each seed of a finished run.

    `settings` are those of the algorithm that differ from its defaults; `evaluations` are (environment steps, mean
    return, episodes); `train_curve` is (environment steps, mean return of training episodes); times are those of the
    whole run, that is of all its seeds side by side. A return that was not finite is None. Raises ValueError where the
    run is not finished, or its files cannot be read.
    """
    run = stored.read_run(folder)
    config, summary = run.config, run.summary
    of_data: dict[str, Any] = {
        name: summary[name] for name in ("unit", "dataset") if name in summary
    }
    shared: dict[str, Any] = {
        **of_data,
        "env": _portable(config["env"]),
        "algo": config["algo"],
        "run": {"seed": config["seed"], "seeds": config["seeds"]},
        "commit": config.get("commit"),
        "machine": config.get("machine"),
        "versions": config.get("versions"),
        "env_kwargs": config["env_kwargs"],
        "settings": changed_settings(config) | learned_from(config),
        "command": command(config),
        **{
            name: summary[name]
            for name in ("env_steps", "wall_clock_s", "compile_s", "steps_per_second")
        },
    }
    kept = []
    for i, report in enumerate(summary["per_seed"]):
        rows = run.rows[i]
        batches = summary.get("eval_batches", FINAL_BATCHES)  # older runs do not tell
        evaluations = _evaluations(rows, report["eval_episodes"], batches)
        known = [e for e in evaluations if e[1] is not None]
        figures = {
            "final": {
                "mean": report["eval_return_mean"],
                "std": report["eval_return_std"],
                "episodes": report["eval_episodes"],
                **{name: report[name] for name in ("score", "score_d4rl") if name in report},
            },
            "best": max(known, key=operator.itemgetter(1), default=None),
            "train_return_last_100": last_episodes(rows),
            "evaluations": evaluations,
            "train_curve": thinned(rows),
            "report": report if report.get("gait") or "pass_at_1" in report else None,
        }
        if curves := {name: averaged(rows, name) for name in kept_metrics(rows)}:
            figures["metrics"] = curves
        kept.append({**shared, "seed": report["seed"], **_rounded(figures)})
    return kept


def kept_metrics(rows: Rows) -> list[str]:
    """Returns the names of the metrics whose curves a record keeps beside the returns: those of learned rewards."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name.startswith("preferences/")]


def collect(folder: Path) -> list[dict[str, Any]]:
    """Returns the records of all finished runs in a folder, however deep, in order of environment, algorithm and
    seed."""
    return ordered(r for path in _finished_in(folder) for r in record(path))


def ordered(kept: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sorts records by environment, algorithm and seed."""
    return sorted(kept, key=lambda r: (r["env"], r["algo"], r["seed"]))


def refresh(out: Path) -> list[str]:
    """Brings `out`/records.json up to what is finished in `out`. Returns a line for each run that cannot be read, and
    that the records therefore lack."""
    kept: list[dict[str, Any]] = []
    faults = []
    for path in _finished_in(out):
        try:
            kept += record(path)
        except ValueError as error:
            faults.append(str(error))
    write(out / "records.json", ordered(kept))
    return faults


def write(path: Path, kept: list[dict[str, Any]], title: str | None = None) -> None:
    """Writes a line for each record, so that version control shows the new ones. Never half a file."""
    lines = ",\n".join(json.dumps(folders.plain(r)) for r in kept)
    outputs.write(path, f'{_BEGIN}{json.dumps(title)}, "records": [\n{lines}\n]}}\n')


def is_ours(text: str) -> bool:
    """Tells from a file's text that `write` wrote it."""
    return text.startswith(_BEGIN)


def read(path: Path) -> tuple[str | None, list[dict[str, Any]]]:
    """Returns the title, or None, and the records. Raises ValueError with one line where the file holds none."""
    title, kept = stored.read_records(path)
    return title, ordered(kept)


def _finished_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("summary.json"))


def last_episodes(rows: Rows, n: int = LAST_EPISODES) -> float | None:
    """Returns the mean return of the last `n` training episodes, or of all where there were fewer; None where there
    were none.

    A row tells the mean over its own episodes only, so of the earliest row that is needed its mean stands for the
    episodes that are needed of it.
    """
    left, total = n, 0.0
    for row in reversed(rows):
        taken = min(left, _episodes(row))
        total += taken * row["train/return"] if taken else 0.0
        left -= taken
    return total / (n - left) if left < n else None


def thinned(rows: Rows, points: int = CURVE_POINTS) -> list[tuple[int, float]]:
    """Returns (environment steps, return) of training episodes at no more than `points` points: of several rows the
    mean, weighted by episodes, at the end of the last."""
    rows = [row for row in rows if _episodes(row)]
    parts = np.array_split(np.arange(len(rows)), min(points, len(rows)) or 1)
    groups = [[rows[i] for i in part] for part in parts if len(part)]
    return [
        (
            group[-1]["env_steps"],
            float(np.average([r["train/return"] for r in group], weights=[*map(_episodes, group)])),
        )
        for group in groups
    ]


def averaged(rows: Rows, name: str, points: int = CURVE_POINTS) -> list[tuple[int, float]]:
    """Returns (environment steps, value) of a metric at no more than `points` points: of several rows the mean, at the
    end of the last."""
    rows = [row for row in rows if row.get(name) is not None]
    parts = np.array_split(np.arange(len(rows)), min(points, len(rows)) or 1)
    groups = [[rows[i] for i in part] for part in parts if len(part)]
    return [
        (group[-1]["env_steps"], float(np.mean([row[name] for row in group]))) for group in groups
    ]


def changed_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a config.json that differ from the algorithm's defaults; all of them where this version
    lacks the algorithm."""
    try:
        defaults = folders.plain(
            dataclasses.asdict(algorithm(config["algo"], config.get("domain", "control")).Config())
        )
    except ValueError:
        defaults = {}
    return {k: v for k, v in config["config"].items() if k not in defaults or defaults[k] != v}


def _given(config: dict[str, Any]) -> dict[str, Any]:
    """The reward that is learnt from, where it is not the task's own, and the weights that the policy starts from."""
    return {name: config[name] for name in ("reward", "model", "adapter") if config.get(name)}


def learned_from(config: dict[str, Any]) -> dict[str, Any]:
    """Returns what a run learns from beside its environment: reward, first weights and dataset, as far as it has them,
    by name."""
    dataset = {"dataset": config["dataset"]["id"]} if config.get("dataset") else {}
    return _given(config) | dataset


def command(config: dict[str, Any]) -> str:
    """Returns the command that repeats a run, independent of later presets."""
    seeds = {"seed": config["seed"], "seeds": config["seeds"]}
    seeds |= {name: config[name] for name in LAYOUT if name in config}
    flags = arguments.as_flags({**seeds, **_changed_options(config), **changed_settings(config)})
    for name, value in _given(config).items():
        flags += [f"--{name}", value]
    if config.get("best_of", 1) > 1:
        flags += ["--best-of", str(config["best_of"])]
    if config.get("dataset"):
        flags += ["--dataset", config["dataset"]["id"]]
    if config.get("start"):
        flags += ["--start", Path(config["start"]).name]
    domain = config.get("domain", "control")
    names = [
        *arguments.environment_flag(_portable(config["env"]), domain),
        "--algo",
        config["algo"],
    ]
    imports = [word for file in config.get("imports", ()) for word in ("--import", _portable(file))]
    return f"python -m {arguments.program(domain)} {shlex.join([*imports, *names, *flags])}"


def _changed_options(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the environment's options that differ from its defaults, by the names of the flags; all of them where the
    defaults are in a user's file, which is not executed."""
    kwargs, taken = config["env_kwargs"], {*config["config"], *arguments.RESERVED}
    if trust.executes_files(config):
        return {options.free_name(name, taken): value for name, value in kwargs.items()}
    try:
        of_env = options.flags(env_factory(config["env"]), taken)
    except ValueError:
        return kwargs
    defaults = {name: getattr(of_env.default, field) for field, name in of_env.names.items()}
    return {
        field: kwargs[name]
        for field, name in of_env.names.items()
        if name in kwargs and kwargs[name] != folders.plain(defaults[name])
    }


def _portable(env: str) -> str:
    """Returns an environment's name; for one in a user's file, without the folder of the file."""
    return Path(env).name if load.is_file(env) else env


def _evaluations(
    rows: Rows, final_episodes: int, batches: int
) -> list[tuple[int, float | None, int]]:
    """Returns (environment steps, mean return, episodes) of each evaluation; the return is None where it was not
    finite."""
    marks = [row for row in rows if evaluated(row)]
    return [
        (row["env_steps"], row.get("eval/return"), final_episodes // (1 if i == 1 else batches))
        for i, row in zip(range(len(marks), 0, -1), marks, strict=True)
    ]


def evaluated(row: dict[str, Any]) -> bool:
    """Tells that a row has an evaluation: its length is known even where its return was not finite."""
    return row.get("eval/return") is not None or row.get("eval/length") is not None


def _episodes(row: dict[str, Any]) -> int:
    """Returns the number of training episodes whose mean return a row has."""
    return int(row.get("train/episodes") or 0) if row.get("train/return") is not None else 0


def _rounded(x: Any) -> Any:
    """Floats as short as serves: five significant digits."""
    if isinstance(x, dict):
        return {k: _rounded(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_rounded(v) for v in x]
    return float(f"{x:.{_DIGITS}g}") if isinstance(x, float) else x


def wall_clocks(seeds: Iterable[dict[str, Any]]) -> dict[tuple[int, int], float]:
    """Returns the seconds of the runs in which these seeds of one environment and algorithm were trained, by a run's
    first seed and number of seeds."""
    return {(r["run"]["seed"], r["run"]["seeds"]): r["wall_clock_s"] for r in seeds}
