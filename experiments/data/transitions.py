"""From a dataset on disk to `OfflineData`: read once, checked against the environment, and hashed."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import gymnasium
import numpy as np

from agents.offline.data import OfflineData, offline_data
from agents.spaces import encode, num_inputs, raw_action
from envs.base import Env
from experiments.data.episodes import Episode, read_episodes
from experiments.data.store import Stored

_BESIDE = 4 * 6 + 2  # bytes of a transition beside its observations and action: see `OfflineData`


@dataclasses.dataclass(frozen=True)
class Facts:
    """The facts that a run keeps of the dataset that it learns from."""

    id: str
    sha256: str  # of all episodes' content, whatever file they lie in
    steps: int
    episodes: int
    return_mean: float  # of the behaviour
    return_best_decile: float  # mean of the best tenth of the episodes
    ref_min: float | None  # mean returns of a random policy and of an expert: scores 0 and 100
    ref_max: float | None


def require_fitting(dataset: Stored, name: str, env: Env) -> None:
    """Raises ValueError with one line where a dataset is of another environment, or of other spaces.

    Args:
      name: the environment's.
    """
    if dataset.env is not None and dataset.env != name:
        raise ValueError(f"the dataset {dataset.id} is of {dataset.env}, not of {name}")
    pairs = (
        ("observations", dataset.observation_space, env.observation_space),
        ("actions", dataset.action_space, env.action_space),
    )
    for what, found, wanted in pairs:
        fault = _difference(found, wanted, bounds=what == "actions")
        if fault:
            raise ValueError(f"the dataset {dataset.id} does not fit {name}: {what} {fault}")


def nbytes(dataset: Stored, env: Env) -> int:
    """Returns the bytes that `read` takes for the arrays."""
    seen = _size(env.observation_space)
    return dataset.steps * (2 * seen + _size(env.action_space) + _BESIDE) + 4 * num_inputs(
        env.observation_space
    )


def read(dataset: Stored, env: Env) -> tuple[OfflineData, Facts]:
    """Returns the transitions of a dataset that fits the environment, and its facts.

    Raises ValueError with one line where an episode is damaged.
    """
    episodes = list(read_episodes(dataset))
    returns = np.array([x.rewards.sum(dtype=np.float64) for x in episodes])
    best = np.sort(returns)[-max(1, len(returns) // 10) :]
    facts = Facts(
        id=dataset.id,
        sha256=content_hash(episodes),
        steps=sum(len(x.rewards) for x in episodes),
        episodes=len(episodes),
        return_mean=float(returns.mean()),
        return_best_decile=float(best.mean()),
        ref_min=dataset.ref_min,
        ref_max=dataset.ref_max,
    )
    return to_arrays(episodes, env), facts


def to_arrays(episodes: list[Episode], env: Env) -> OfflineData:
    """Returns the transitions of episodes, actions as learners have them (`agents.spaces`)."""
    space = env.observation_space
    dtype = np.float32 if _is_float(space) else np.dtype(space.dtype)
    dtype = np.dtype(np.int32) if isinstance(space, gymnasium.spaces.Discrete) else dtype
    action = np.concatenate([x.actions for x in episodes])
    return offline_data(
        obs=np.concatenate([x.observations[:-1] for x in episodes], dtype=dtype, casting="unsafe"),
        action=raw_action(env.action_space, action),
        reward=np.concatenate([x.rewards for x in episodes]).astype(np.float32),
        next_obs=np.concatenate(
            [x.observations[1:] for x in episodes], dtype=dtype, casting="unsafe"
        ),
        terminated=np.concatenate([x.terminated for x in episodes]),
        truncated=np.concatenate([x.truncated for x in episodes]),
        encode=lambda obs: encode(space, obs),
    )


def content_hash(episodes: list[Episode]) -> str:
    """Returns the SHA-256 of the episodes' numbers, their types and shapes."""
    digest = hashlib.sha256()
    for episode in episodes:
        for x in episode:
            digest.update(f"{x.dtype.str}{x.shape}".encode())
            digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()


def _is_float(space: gymnasium.Space) -> bool:
    return isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.floating)


def _size(space: gymnasium.Space) -> int:
    """Bytes of one element, as learners keep it."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return 4
    each = 4 if _is_float(space) else np.dtype(space.dtype).itemsize
    return int(np.prod(space.shape or ())) * each


def _difference(found: Any, wanted: Any, bounds: bool) -> str | None:
    """Returns how two spaces differ, in words; None where data of one serve the other."""
    if type(found) is not type(wanted):
        return f"are of {found}, the environment's of {wanted}"
    if isinstance(wanted, gymnasium.spaces.Discrete):
        same = (found.n, found.start) == (wanted.n, wanted.start)
        return None if same else f"are of {found}, the environment's of {wanted}"
    if found.shape != wanted.shape:
        return f"have shape {found.shape}, the environment's {wanted.shape}"
    if bounds and not (np.allclose(found.low, wanted.low) and np.allclose(found.high, wanted.high)):
        return f"lie in {found}, the environment's in {wanted}"
    return None
