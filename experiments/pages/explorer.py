"""The page of learning curves to explore: one file of HTML, explorer.html with the data in it."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis import sources
from experiments.analysis.curve import Curve, Groups
from experiments.analysis.groups import band, disjoint, grouped, mixed, short
from experiments.analysis.known_runs import KnownRun, known_runs, labelled
from experiments.analysis.scores import scores
from experiments.figures.canvas import places
from experiments.run.names import short_names

VIDEO_BYTES = 4 * 2**20  # of one; a larger one is named as left out
ALL_VIDEOS_BYTES = 40 * 2**20  # beyond which a page opens slowly
SEED_POINTS = 400  # of a seed's curve; a screen shows no more
_VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}
_MARK = "<!-- The page asks the network for nothing, and may not. -->"
_TEMPLATE, _HOLE = Path(__file__).with_name("explorer.html"), "{{DATA}}"


def is_page(text: str) -> bool:
    """Tells that `page` wrote a text, by a line of the template."""
    return _MARK in text[:2000]


def page(content: dict[str, Any]) -> str:
    """Returns the page with `content` in it. Names of runs stay data: no character that HTML knows is left in the text,
    and the script puts it into the page as text only."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    before, _, after = _TEMPLATE.read_text().partition(_HOLE)
    return before + text + after


def gather(paths: Sequence[Path], by: Sequence[str], metric: str) -> dict[str, Any]:
    """Returns the page's content in JSON's types. Raises ValueError as `sources.read` and `groups.grouped` do.

    `labels` are what is compared, over all environments, so that each keeps its colour, that of its number in `places`;
    elsewhere they are numbers into it. Bands and scores are those of `experiments.compare`, rounded to five digits.
    """
    by = [name.strip().replace("-", "_") for name in by]
    found = sources.read(paths, metric, by)
    groups = grouped(found.curves, by)
    labels = list(dict.fromkeys(label for _, label in groups))
    names = short_names(env for env, _ in groups)
    rows = {row[:3]: row for row in scores(groups, None)}
    notes = [*found.notes, *mixed(groups, by), *short(groups)]
    notes += [*disjoint(groups, "steps"), *disjoint(groups, "seconds")]
    runs = list(known_runs(found.curves))
    shown, omitted = _shown(runs, by, list(names), labels, groups)
    notes += [*_remarks(found.curves, runs), *omitted]
    for _, path in map(sources.located, paths):
        if path.is_absolute():
            notes = [note.replace(f"{path.parent}{os.sep}", "") for note in notes]
    envs: list[dict[str, Any]] = [{"name": name, "groups": []} for name in names.values()]
    for (env, label), curves in groups.items():
        none = (env, label, "best", *[""] * 5)  # of scores alone
        figures = [rows.get((env, label, name), none) for name in ("final", "best")]
        group = _group(curves, labels.index(label), figures)
        envs[list(names).index(env)]["groups"].append(group)
    return {
        "metric": metric,
        "labels": labels,
        "places": list(places(labels).values()),
        "envs": envs,
        "runs": shown,
        "notes": notes,
    }


def _shown(
    runs: list[KnownRun], by: Sequence[str], envs: list[str], labels: list[str], groups: Groups
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the runs as the page shows them, and notes on videos that are left out."""
    shown, notes, room = [], [], ALL_VIDEOS_BYTES
    for run, env, of_run in labelled(runs, by):
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


def _group(curves: list[Curve], label: int, scores: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Returns a group's bands, seeds and scores. Intervals of one seed have no ends: None."""
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
    """Returns a band; None against a wall clock that is not known of every seed, and where seeds have no part of the
    axis in common."""
    if x == "seconds" and any(np.isnan(c.seconds).any() for c in curves):
        return None
    drawn = band(curves, x)
    if drawn is None:
        return None
    grid, iqm, _, low, high = drawn
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
    """Returns a number; None for one that JSON lacks."""
    value = float(text or "nan")
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value


def _seeds(seeds: list[Any]) -> str:
    whole = sorted(s for s in seeds if isinstance(s, int))
    if len(whole) == len(seeds) > 2 and whole == list(range(whole[0], whole[-1] + 1)):
        return f"{whole[0]} to {whole[-1]}"
    return ", ".join(map(str, seeds))


def _remarks(curves: list[Curve], known: list[KnownRun]) -> list[str]:
    """Returns notes that a reader of the page needs."""
    longest = max(len(c.steps) for c in curves)
    remarks = []
    if longest > SEED_POINTS:
        remarks.append(
            f"curves of single seeds are drawn with at most {SEED_POINTS} of their up to {longest} points; "
            "bands and scores come from all of them"
        )
    if any(run.folder is None for run in known):
        remarks.append(
            "of runs from records.json the wall clock is spread evenly over the steps, and settings are told only "
            "where they differ from the defaults"
        )
    return remarks


def _video(folder: Path | None, room: int) -> tuple[dict[str, str] | None, str | None]:
    """Returns a run's video as data URI, or the reason why it is left out; neither where the run has no video."""
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
