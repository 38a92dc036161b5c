"""Deals out environments, random numbers and rollouts to actors, and puts them together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

_PER_EPISODE = ("train/return", "train/length")
_SUMMED = ("train/episodes", "train/nonfinite", "nonfinite/")  # of the actors' metrics


def part(environments: Any, index: int, actors: int) -> Any:
    """Returns the environments of an actor: of leaves [N, ...] N / actors rows, from N index / actors on."""

    def rows(x: Array) -> Array:
        size = x.shape[0] // actors
        return x[index * size : (index + 1) * size]

    return jax.tree.map(rows, environments)


def together(parts: Sequence[Any], axis: int) -> Any:
    """Returns trees of NumPy arrays as one, their leaves concatenated along an axis."""
    return jax.tree.map(lambda *x: np.concatenate(x, axis), *parts)


def rollout_key(key: PRNGKeyArray, index: int, number: int) -> PRNGKeyArray:
    """Returns the key of an actor's rollout: the same for the same run, actor and number of the rollout."""
    return jax.random.fold_in(jax.random.fold_in(key, index), number)


def joined_metrics(metrics: Sequence[dict[str, float]], envs_each: int) -> dict[str, float]:
    """Returns the metrics of a batch from those of its rollouts, in the order of their columns.

    Means over episodes are weighted by these, counts add up, of all others the mean; the first step that was not finite
    is the first one of all, as one rollout of all environments would report it.
    """
    names = [name for name in metrics[0] if name not in ("nonfinite/first", "nonfinite/env")]
    episodes = np.array([m.get("train/episodes", 0.0) for m in metrics])
    out: dict[str, float] = {}
    for name in names:
        x = np.array([m[name] for m in metrics], np.float64)
        if name in _PER_EPISODE:
            out[name] = float(np.sum(x * episodes) / max(np.sum(episodes), 1.0))
        elif name.startswith(_SUMMED):
            out[name] = float(np.sum(x))
        else:
            out[name] = float(np.mean(x))
    return out | _first_nonfinite(metrics, envs_each)


def _first_nonfinite(metrics: Sequence[dict[str, float]], envs_each: int) -> dict[str, float]:
    """Returns `nonfinite/first` and `nonfinite/env` as `agents.rollout.nonfinite` counts them over all columns."""
    if "nonfinite/first" not in metrics[0]:
        return {}
    total = envs_each * len(metrics)
    found = []
    for i, m in enumerate(metrics):
        if m["nonfinite/first"]:
            row, column = divmod(int(m["nonfinite/first"]) - 1, envs_each)
            env = i * envs_each + column
            found.append((row * total + env + 1, env))
    first, env = min(found, default=(0, 0))
    return {"nonfinite/first": float(first), "nonfinite/env": float(env)}


def apex_epsilon(index: int, actors: int) -> float:
    """Returns the share of random actions of an actor: 0.4^(1 + 7 index / (actors - 1)).

    Horgan et al. 2018, sec. 4.1. https://arxiv.org/abs/1803.00933
    """
    return 0.4 ** (1.0 + 7.0 * index / max(actors - 1, 1))
