"""Averages the metrics of iterations into the rows of metrics.jsonl. Plain NumPy.

A row covers a fixed number of iterations, counted from the start of training, so its limits depend neither on the speed
of the machine nor on interruptions. Iterations of an incomplete row are `Pending`; checkpoints contain them.
"""

from __future__ import annotations

import math

import numpy as np

ROWS = 500  # about this many rows a run
MARKS = 20  # evaluations

Pending = dict[str, list]  # metric name to [iterations][seeds] floats

_SUMMED = (
    "train/episodes",
    "train/nonfinite",
    "train/env_steps_taken",
    "time/rollout_s",
    "time/update_s",
    "actors/rollout_bytes",
    "actors/parameter_bytes",
    "actors/acting_s",
    "actors/waiting_s",
    "actors/dropped",
    "actors/lost",
    "actors/restarts",
    "learner/waiting_s",
    "learner/transfer_s",
    "learner/update_s",
)
_LARGEST = ("actors/lag_max",)
_PER_EPISODE = ("train/return", "train/length")


def row_iterations(total: int) -> int:
    """Returns the number of iterations in a row of metrics."""
    return max(1, total // ROWS)


def evaluation_marks(total: int, points: int = MARKS) -> list[int]:
    """Returns the iterations after which training is evaluated, the last one included; each ends a row."""
    every = row_iterations(total)
    rows = -(-total // every)
    ends = {-(-rows * k // points) for k in range(1, points + 1)}
    return sorted(min(end * every, total) for end in ends)


def aggregate(pending: Pending, seed_index: int) -> dict[str, float | None]:
    """Returns one row's figures: returns and lengths weighted by episodes, counts and times summed, the rest
    averaged."""
    columns = {name: np.asarray(x, np.float64)[:, seed_index] for name, x in pending.items()}
    row: dict[str, float | None] = {}
    for name, x in columns.items():
        if name in _SUMMED:
            value = x.sum()
        elif name in _LARGEST:
            value = x.max()
        elif name in _PER_EPISODE and "train/episodes" in columns:
            value = _weighted(x, columns["train/episodes"])
        else:
            value = _weighted(x, ~np.isnan(x))
        row[name] = float(value) if math.isfinite(value) else None
    return row


def first_nonfinite(buffers: dict[str, np.ndarray]) -> tuple[int, int, str] | None:
    """Returns the earliest (iteration, seed, metric) that is not finite; `buffers` are [n, seeds]."""
    broken = [
        (int(i), int(seed), name)
        for name, x in buffers.items()
        if name.startswith("loss/") or name == "grad_norm"
        for i, seed in np.argwhere(~np.isfinite(x))
    ]
    return min(broken) if broken else None


def extend(pending: Pending, buffers: dict[str, np.ndarray]) -> Pending:
    """Returns `pending` with the iterations of `buffers` appended. A metric that is measured from now on only was NaN
    before."""
    waiting = len(next(iter(pending.values()), ()))
    missing = {
        name: np.full((waiting, x.shape[1]), math.nan).tolist() for name, x in buffers.items()
    }
    return {name: [*pending.get(name, missing[name]), *x.tolist()] for name, x in buffers.items()}


def _weighted(x: np.ndarray, weight: np.ndarray) -> float:
    kept = (weight > 0) & ~np.isnan(x)
    return float(np.sum(x[kept] * weight[kept]) / np.sum(weight[kept])) if kept.any() else math.nan
