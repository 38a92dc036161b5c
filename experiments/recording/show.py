"""Describes a dataset: returns, lengths, the share of states and actions it covers, and a picture of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from agents.spaces import encode
from experiments.console.display import si
from experiments.data import store
from experiments.data.episodes import Episode, read_episodes
from experiments.figures.canvas import BLUE, GREY, canvas, save, style

CELLS = 32  # along each of two axes, of the map of states
_MOST_POINTS = 20_000  # states that the map is made of


def listing() -> Table:
    """Returns a table of the datasets on disk, one a row."""
    table = Table("dataset", "environment", "steps", "episodes", "algorithm", "references")
    for name in store.names():
        try:
            found = store.open_dataset(name)
        except ValueError as error:
            table.add_row(name, f"cannot be read: {error}", "", "", "", "")
            continue
        ends = [found.ref_min, found.ref_max]
        references = " to ".join("-" if x is None else f"{x:.1f}" for x in ends)
        algorithm = str(found.metadata.get("algorithm_name", "-"))
        row = (found.env or "-", si(found.steps), si(found.episodes), algorithm, references)
        table.add_row(name, *row)
    return table


def figures(dataset: store.Stored, episodes: list[Episode]) -> list[tuple[str, str]]:
    """Returns (what, value) of a dataset's episodes."""
    returns = np.array([x.rewards.sum(dtype=np.float64) for x in episodes])
    lengths = np.array([len(x.rewards) for x in episodes])
    ended = np.mean([x.terminated[-1] for x in episodes])
    best = np.sort(returns)[-max(1, len(returns) // 10) :]
    rows = [
        ("environment", dataset.env or "-"),
        ("algorithm", str(dataset.metadata.get("algorithm_name", "-"))),
        ("policy", str(dataset.metadata.get(store.OUR_ENTRY, {}).get("policy", "-"))),
        ("steps", f"{lengths.sum()}"),
        ("episodes", f"{len(episodes)}, {ended:.0%} of them terminated, the others cut off"),
        (
            "return",
            f"{returns.mean():.1f} ± {returns.std():.1f}, {returns.min():.1f} to {returns.max():.1f}",
        ),
        ("best tenth", f"{best.mean():.1f}"),
        ("length", f"{lengths.mean():.1f}, {lengths.min()} to {lengths.max()}"),
        (
            "states covered",
            f"{coverage(_map(dataset, episodes)):.0%} of a map of {CELLS} x {CELLS} cells",
        ),
    ]
    if dataset.ref_min is not None and dataset.ref_max is not None:
        width = dataset.ref_max - dataset.ref_min
        score = 100 * (returns.mean() - dataset.ref_min) / width
        rows.append(
            (
                "score",
                f"{score:.1f}, where {dataset.ref_min:.1f} is 0 and {dataset.ref_max:.1f} 100",
            )
        )
    actions = np.concatenate([x.actions for x in episodes])
    if np.issubdtype(actions.dtype, np.floating):
        space: Any = dataset.action_space
        on_bound = np.isclose(actions, space.low) | np.isclose(actions, space.high)
        rows.append(("actions on a bound", f"{on_bound.mean():.0%}"))
    return rows


def coverage(points: np.ndarray) -> float:
    """Returns the share of cells that points [M, 2] fall in, of a grid over their own range."""
    return float(np.mean(np.histogram2d(points[:, 0], points[:, 1], bins=CELLS)[0] > 0))


def draw(dataset: store.Stored, episodes: list[Episode], path: Path) -> Path:
    """Draws returns, lengths and the map of states, coloured by the return of the episode, and returns `path`."""
    returns = np.array([x.rewards.sum(dtype=np.float64) for x in episodes])
    lengths = np.array([len(x.rewards) for x in episodes])
    figure = canvas(9, 3)
    left, middle, right = figure.subplots(1, 3)
    for ax, values, what in ((left, returns, "return"), (middle, lengths, "steps")):
        ax.hist(values, bins=40, color=BLUE)
        style(ax)
        ax.set_xlabel(what, color=GREY)
        ax.set_ylabel("episodes", color=GREY)
    points, which = _map(dataset, episodes), _places(lengths)[1]
    shown = right.scatter(*points.T, s=1, c=returns[which], cmap="viridis", rasterized=True)
    right.set_xlabel("states, two principal components", color=GREY)
    right.set_xticks([])
    right.set_yticks([])
    figure.colorbar(shown, ax=right, label="return")
    figure.suptitle(dataset.id)
    return save(figure, path)


def read(name: str) -> tuple[store.Stored, list[Episode]]:
    """Returns a dataset and its episodes. Raises ValueError with one line."""
    found = store.open_dataset(name)
    return found, list(read_episodes(found))


def _places(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in the concatenated episodes that the map shows, and the episode of each."""
    places = np.linspace(0, lengths.sum() - 1, min(_MOST_POINTS, lengths.sum())).astype(int)
    return places, np.searchsorted(np.cumsum(lengths), places, side="right")


def _map(dataset: store.Stored, episodes: list[Episode]) -> np.ndarray:
    """States [M, 2] along the two directions in which normalised observations vary most."""
    places, _ = _places(np.array([len(x.rewards) for x in episodes]))
    obs = np.concatenate([x.observations[:-1] for x in episodes])[places]
    x = np.asarray(encode(dataset.observation_space, obs), np.float64)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-8)
    _, _, axes = np.linalg.svd(x, full_matrices=False)
    found = np.zeros((len(x), 2))
    found[:, : len(axes[:2])] = x @ axes[:2].T
    return found
