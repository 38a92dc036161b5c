"""A folder of another library's logs: TensorBoard's event files, and those of Stable-Baselines3.

A run may have left several views of the same returns there. The most telling one that has the metric counts:
evaluations.npz, event files, progress.csv, monitor.csv.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from experiments.analysis import events, layouts, others
from experiments.analysis.layouts import Identity

_OF_SB3 = (
    "time/total_timesteps",
    "time/fps",
    "rollout/ep_rew_mean",
)  # tags that no other library has
_EPISODES = "rollout/ep_rew_mean"  # what a monitor's returns are


@dataclasses.dataclass(frozen=True)
class View:
    """The points of a tag, whatever wrote them."""

    points: others.Points
    tag: str
    notes: list[str]
    env: str | None = None  # where the files say it
    from_sb3: bool = True


def read(folder: Path, tags: Sequence[str], identity: Identity | None) -> tuple[Identity, View]:
    """Returns the identity of the logs in a folder, and the points of the first of `tags` that the logs contain.

    `identity`: a declared identity, or None. Raises ValueError, in one line, if neither it nor the folder's names
    identify the logs, or no file has the metric.
    """
    faults = []
    for view_of in (_evaluations, _events, _progress, _monitors):
        try:
            view = view_of(folder, tags)
        except ValueError as error:
            faults.append(error)
            continue
        if view:
            return identity or _identity(folder, view), view
    raise faults[0] if faults else ValueError(f"{folder} has no metric {tags[0]}")


def read_events(folder: Path, tags: Sequence[str]) -> View:
    """Reads event files as `events.read` does."""
    series = events.read(folder, tags)
    from_sb3 = any(tag in series.others for tag in _OF_SB3)
    return View(series.points, series.tag, series.notes, from_sb3=from_sb3)


def _events(folder: Path, tags: Sequence[str]) -> View | None:
    return read_events(folder, tags) if any(folder.glob(events.PREFIX + "*")) else None


def _evaluations(folder: Path, tags: Sequence[str]) -> View | None:
    path = folder / "evaluations.npz"
    if "eval/mean_reward" not in tags or not path.exists():
        return None
    points, tag = others.of_evaluations(path)
    return View(points, tag, [])


def _progress(folder: Path, tags: Sequence[str]) -> View | None:
    path = folder / "progress.csv"
    return View(*others.of_progress(path, tags), []) if path.exists() else None


def _monitors(folder: Path, tags: Sequence[str]) -> View | None:
    paths = sorted(path for path in folder.iterdir() if others.is_monitor(path))
    if _EPISODES not in tags or not paths:
        return None
    points, env = others.of_monitors(paths)
    return View(points, _EPISODES, [], env)


def _identity(folder: Path, view: View) -> Identity:
    identity = layouts.of_folder(folder, view.from_sb3)
    return dataclasses.replace(identity, env=view.env, note=None) if view.env else identity
