"""Learning curves to explore, as one file: python -m experiments.report RUN_OR_FOLDER... [--by env,algo] [--out FILE]

What it reads, and every figure, is as in `experiments.compare`. The page, `report_page.html`, holds its data, style and
script and asks the network for nothing, so it can be mailed or published as it is.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments import compare
from experiments.analysis import sources
from experiments.analysis.curve import NAME, Curve
from experiments.console import outputs
from experiments.console.display import Display
from experiments.console.exits import run_main
from experiments.console.flags import parse_flags
from experiments.figures import plots
from experiments.run import records, stored
from experiments.run.names import short_names
from experiments.run.spec import short_name

VIDEO_BYTES = 4 * 2**20  # of one; a larger one is named as left out
ALL_VIDEOS_BYTES = 40 * 2**20  # beyond which a page opens slowly
SEED_POINTS = 400  # of a seed's curve; a screen shows no more
_VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}
_MARK = "<!-- The page asks the network for nothing, and may not. -->"
_TEMPLATE, _HOLE = Path(__file__).parent / "pages" / "explorer.html", "{{DATA}}"


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    paths: tyro.conf.Positional[tuple[Path, ...]]
    """folders of runs, folders that hold some, records.json, CSV or other libraries' logs; NAME=PATH gives a name"""
    by: str = "env,algo"
    """what tells curves apart: env, algo, commit, and settings such as learning_rate, with commas"""
    metric: str = sources.METRIC
    """a column of metrics.jsonl, or a tag of event files"""
    out: Path = Path("report.html")
    """the page"""


@dataclasses.dataclass(frozen=True)
class Run:
    """What is known of a run besides its curves."""

    name: str
    fields: dict[str, Any]  # as those of its curves
    seeds: list[Any]
    config: dict[str, str]  # flat: settings, env.*, version.*, machine.*, commit
    finished: bool
    folder: Path | None  # None: known from its record, which lacks settings at their defaults


def main() -> None:
    run_main(lambda: report(sys.argv[1:]))


def report(argv: Sequence[str]) -> int:
    """Raises ValueError for bad input."""
    flags = parse_flags(ReportFlags, argv, None, "Writes a page of learning curves to explore.")
    if not flags.paths:
        raise ValueError("which runs? give their folders")
    if flags.out.suffix != ".html":  # a slip must not overwrite records.json
        raise ValueError(f"--out {flags.out}: a name that ends in .html is wanted")
    outputs.check_file(flags.out, is_page, "--out")
    content = gather(flags.paths, flags.by.split(","), flags.metric)
    text = page(content)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    outputs.write(flags.out, text)
    for note in content["notes"]:
        Display().warn(note)
    Display().say(f"{flags.out}: {len(text) / 1e6:.2f} MB, to be opened in a browser")
    return 0


def is_page(text: str) -> bool:
    """Tells that `page` wrote a text, by a line of the template."""
    return _MARK in text[:2000]


def page(content: dict[str, Any]) -> str:
    """The page with `content` in it. Whatever the runs are called, it stays data: no character of it that HTML knows
    is left in the text, and the script puts it into the page as text only."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    before, _, after = _TEMPLATE.read_text().partition(_HOLE)
    return before + text + after


def gather(paths: Sequence[Path], by: Sequence[str], metric: str) -> dict[str, Any]:
    """What the page shows, in JSON's types. Raises ValueError as `sources.read` and `compare.grouped` do.

    `labels` are what is compared, over all environments, so that each keeps its colour, that of its number in `places`;
    elsewhere they are numbers into it. Bands and scores are those of `experiments.compare`, rounded to five digits.
    """
    by = [name.strip().replace("-", "_") for name in by]
    found = sources.read(paths, metric, by)
    groups = compare.grouped(found.curves, by)
    labels = list(dict.fromkeys(label for _, label in groups))
    names = short_names(env for env, _ in groups)
    scores = {row[:3]: row for row in compare.scores(groups, None)}
    notes = [*found.notes, *compare.mixed(groups, by), *compare.short(groups)]
    notes += [*compare.disjoint(groups, "steps"), *compare.disjoint(groups, "seconds")]
    told = list(described(found.curves))
    shown, omitted = _shown(told, by, list(names), labels, groups)
    notes += [*_remarks(found.curves, told), *omitted]
    for _, path in map(sources.located, paths):
        if path.is_absolute():
            notes = [note.replace(f"{path.parent}{os.sep}", "") for note in notes]
    envs: list[dict[str, Any]] = [{"name": name, "groups": []} for name in names.values()]
    for (env, label), curves in groups.items():
        none = (env, label, "best", *[""] * 5)  # of scores alone
        figures = [scores.get((env, label, name), none) for name in ("final", "best")]
        group = _group(curves, labels.index(label), figures)
        envs[list(names).index(env)]["groups"].append(group)
    return {
        "metric": metric,
        "labels": labels,
        "places": list(plots.places(labels).values()),
        "envs": envs,
        "runs": shown,
        "notes": notes,
    }


def _shown(
    told: list[Run], by: Sequence[str], envs: list[str], labels: list[str], groups: compare.Groups
) -> tuple[list[dict[str, Any]], list[str]]:
    """The runs as the page has them, and which videos are left out."""
    shown, notes, room = [], [], ALL_VIDEOS_BYTES
    for run, env, of_run in _labelled(told, by):
        mine = [labels.index(label) for label in of_run if (env, label) in groups]
        if not mine:
            continue  # without a value so far, which the notes say
        video, omitted = _video(run.folder, room)
        room -= len(video["uri"]) if video else 0
        notes += [f"{run.name}: {omitted}"] if omitted else []
        about = {"name": run.name, "algo": str(run.fields["algo"]), "seeds": _seeds(run.seeds)}
        state = {"config": run.config, "complete": run.folder is not None, "finished": run.finished}
        shown.append({**about, **state, "env": envs.index(env), "labels": mine, "video": video})
    return shown, notes


def described(curves: Iterable[Curve]) -> Iterator[Run]:
    """The runs of curves whose configuration is known: those from run folders and from records.json."""
    found: dict[Path, list[Curve]] = {}
    for curve in curves:
        found.setdefault(curve.source.resolve(), []).append(curve)
    folders = [at for at in found if sources.is_run(at)]
    # Names lack what all have in common: where the folders lie says nothing, and the page may be published.
    top = Path(os.path.commonpath([folder.parent for folder in folders])) if folders else Path()
    for at, of_source in found.items():
        if at in folders:
            yield _of_folder(at, at.relative_to(top).as_posix(), of_source[0])
        elif of_source[0].brief:
            yield from _of_records(at, of_source)


def _given(curve: Curve) -> dict[str, Any]:
    """Fields that come from how its source was given."""
    return {name: curve.fields[name] for name in (NAME, "commit") if name in curve.fields}


def _of_folder(folder: Path, name: str, curve: Curve) -> Run:
    config = stored.read_config(folder)
    return Run(
        name=name,
        fields={**sources.fields(config, config["config"]), **_given(curve)},
        seeds=[config["seed"] + i for i in range(config["seeds"])],
        config=_flat(config["config"], config),
        finished=(folder / "summary.json").exists(),
        folder=folder,
    )


def _of_records(path: Path, counted: list[Curve]) -> Iterator[Run]:
    """The seeds of a run have a record each, which agree in all that is told here. `counted`: the curves that are not
    there from elsewhere already."""
    together: dict[str, list[dict[str, Any]]] = {}
    known = [{k: v for k, v in c.fields.items() if k not in _given(c)} for c in counted]
    for r in records.ordered(stored.read_records(path, whole=False)[1]):
        if {**sources.fields(r, r["settings"]), "seed": r["seed"]} not in known:
            continue
        key = json.dumps([r["env"], r["algo"], r.get("run"), _flat(r["settings"], r)])
        together.setdefault(key, []).append(r)
    for of_run in together.values():
        r = of_run[0]
        yield Run(
            name=f"{short_name(r['env'])}, {r['algo']}",
            fields={**sources.fields(r, r["settings"]), **_given(counted[0])},
            seeds=[each["seed"] for each in of_run],
            config=_flat(r["settings"], r),
            finished=True,
            folder=None,
        )


def _labelled(told: list[Run], by: Sequence[str]) -> Iterator[tuple[Run, str, list[str]]]:
    """Each run with its environment and the labels of its seeds, as `compare.grouped` labels curves."""
    none = np.zeros(0)
    seeds = [
        [Curve({**r.fields, "seed": s}, none, none, none, True) for s in r.seeds] for r in told
    ]
    groups = compare.grouped(list(chain(*seeds)), ["env", *by]) if told else {}
    label = {id(c): of for (_, of), curves in groups.items() for c in curves}
    for run, of_run in zip(told, seeds, strict=True):
        yield run, str(run.fields["env"]), list(dict.fromkeys(label[id(c)] for c in of_run))


def _flat(settings: dict[str, Any], of: dict[str, Any]) -> dict[str, str]:
    parts = {"": settings, "env.": of.get("env_kwargs"), "version.": of.get("versions")}
    parts["machine."] = of.get("machine")
    flat = {prefix + k: v for prefix, part in parts.items() for k, v in (part or {}).items()}
    return {name: _text(value) for name, value in {**flat, "commit": of.get("commit")}.items()}


def _text(value: Any) -> str:
    """As one would write it; 1.0 and 1 are the same."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return json.dumps(value)


def _group(curves: list[Curve], label: int, scores: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Intervals of one seed, which tells nothing of the spread, have no ends: None."""
    return {
        "label": label,
        "band": {x: _band(curves, x) for x in ("steps", "seconds")},
        "seeds": [_seed(curve) for curve in curves if len(curve.steps)],
        **{
            metric: dict(zip(("iqm", "mean", "low", "high"), map(_number, figures), strict=True))
            for _, _, metric, *figures, _ in scores
        },
    }


def _band(curves: list[Curve], x: str) -> dict[str, Any] | None:
    """None against a wall clock that is not known of every seed, and where seeds have no part of the axis in common."""
    if x == "seconds" and any(np.isnan(c.seconds).any() for c in curves):
        return None
    found = compare.band(curves, x)
    if found is None:
        return None
    grid, iqm, _, low, high = found
    heights = {"iqm": iqm, "low": low, "high": high}
    return {"x": _rounded(grid, 7), **{name: _rounded(y) for name, y in heights.items()}}


def _seed(curve: Curve) -> dict[str, Any]:
    n = len(curve.steps)
    kept = np.unique(np.linspace(0, n - 1, min(n, SEED_POINTS)).round().astype(int))
    return {
        "seed": str(curve.fields["seed"]),
        "steps": _rounded(curve.steps[kept], 7),
        "seconds": None if np.isnan(curve.seconds).any() else _rounded(curve.seconds[kept]),
        "y": _rounded(curve.value[kept]),
    }


def _rounded(values: np.ndarray, digits: int = 5) -> list[float | None]:
    return [_number(f"{v:.{digits}g}") for v in values.tolist()]


def _number(text: str) -> float | None:
    """None for what JSON lacks."""
    value = float(text or "nan")
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value


def _seeds(seeds: list[Any]) -> str:
    whole = sorted(s for s in seeds if isinstance(s, int))
    if len(whole) == len(seeds) > 2 and whole == list(range(whole[0], whole[-1] + 1)):
        return f"{whole[0]} to {whole[-1]}"
    return ", ".join(map(str, seeds))


def _remarks(curves: list[Curve], told: list[Run]) -> list[str]:
    """What a reader of the page has to bear in mind."""
    longest = max(len(c.steps) for c in curves)
    remarks = []
    if longest > SEED_POINTS:
        remarks.append(
            f"curves of single seeds are drawn with at most {SEED_POINTS} of their up to {longest} points; "
            "bands and scores come from all of them"
        )
    if any(run.folder is None for run in told):
        remarks.append(
            "of runs from records.json the wall clock is spread evenly over the steps, and settings are told only "
            "where they differ from the defaults"
        )
    return remarks


def _video(folder: Path | None, room: int) -> tuple[dict[str, str] | None, str | None]:
    """A run's video as data URI, or why there is none; neither, where the run has no video."""
    present = [p for end in _VIDEOS if folder and (p := folder / f"video{end}").exists()]
    for path in present:
        if path.stat().st_size <= min(VIDEO_BYTES, room * 3 // 4):
            kind = _VIDEOS[path.suffix]
            uri = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
            return {"kind": kind, "uri": uri}, None
    if not present:
        return None, None
    sizes = (present[0].stat().st_size, VIDEO_BYTES, ALL_VIDEOS_BYTES)
    size, one, all_ = (f"{n / 2**20:.1f} MB" for n in sizes)
    return None, f"{present[0].name} ({size}) is left out: a page takes {one} of one, {all_} of all"


if __name__ == "__main__":
    main()
