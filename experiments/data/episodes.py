"""Whole episodes as datasets hold them, and the checks that each passes before anything learns from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from experiments.data.store import Stored, first_line, quiet, require_minari, storage_of

_SLACK = 1e-4  # beyond a bound, of the width between the bounds: what rounding may add to an action


class Episode(NamedTuple):
    """An episode of T steps."""

    observations: np.ndarray  # [T + 1, ...], the true last one included
    actions: np.ndarray  # [T, ...] elements of the action space
    rewards: np.ndarray  # [T]
    terminated: np.ndarray  # [T] bool
    truncated: np.ndarray  # [T] bool


def read_episodes(dataset: Stored) -> Iterator[Episode]:
    """Yields the episodes of a dataset, checked. Raises ValueError with one line that names episode and step."""
    raw_episodes: Iterator[Any] = iter(())
    for number in range(dataset.episodes):
        try:
            with quiet():
                if number == 0:
                    places = range(dataset.episodes)
                    raw_episodes = iter(storage_of(dataset.folder).get_episodes(places))
                raw: dict[str, Any] = next(raw_episodes)
                episode = Episode(
                    np.asarray(raw["observations"]),
                    np.asarray(raw["actions"]),
                    np.asarray(raw["rewards"]),
                    np.asarray(raw["terminations"], bool),
                    np.asarray(raw["truncations"], bool),
                )
        except Exception as error:  # h5py has no one exception for a damaged file
            raise ValueError(
                f"the dataset {dataset.id} cannot be read, episode {number}: {first_line(error)}"
            ) from None
        fault = fault_of(episode, dataset.observation_space, dataset.action_space)
        if fault:
            raise ValueError(f"the dataset {dataset.id}, episode {number}: {fault}")
        yield _ended(episode)


def fault_of(
    episode: Episode, observation_space: gymnasium.Space, action_space: gymnasium.Space
) -> str | None:
    """Returns what is wrong with an episode, in words; None where nothing is."""
    steps = len(episode.rewards)
    if steps == 0:
        return "it has no steps"
    if len(episode.observations) != steps + 1:
        return (
            f"{len(episode.observations)} observations of {steps} steps, where there must be {steps + 1}: each step's "
            "and the last one's successor"
        )
    for name in ("actions", "terminated", "truncated"):
        if len(getattr(episode, name)) != steps:
            return f"{len(getattr(episode, name))} {name} of {steps} steps"
    for name, space in (("observations", observation_space), ("actions", action_space)):
        x, shape = getattr(episode, name), space.shape or ()
        if x.shape[1:] != shape:
            return f"{name} of shape {x.shape[1:]}, where the space has {shape}"
    for name in ("observations", "actions", "rewards"):
        x = getattr(episode, name)
        bad = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1)
        if bad.any():
            return f"step {int(np.argmax(bad))} has {name} that are not finite"
    ends = episode.terminated | episode.truncated
    if ends[:-1].any():
        return f"it ends at step {int(np.argmax(ends))} of {steps} and goes on"
    for name, space in (("observations", observation_space), ("actions", action_space)):
        outside = _outside(getattr(episode, name), space, name == "actions")
        if outside is not None:
            return f"step {outside} has {name} outside of the space {space}"
    return None


def _outside(x: np.ndarray, space: gymnasium.Space, within: bool) -> int | None:
    """Returns the first step whose entry lies outside of the space; of Boxes only where `within`: observations may."""
    if isinstance(space, gymnasium.spaces.Discrete):
        bad = (x < space.start) | (x >= space.start + space.n)
    elif isinstance(space, gymnasium.spaces.Box) and within:
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        slack = _SLACK * np.where(np.isfinite(high - low), high - low, 0.0)
        bad = ((x < low - slack) | (x > high + slack)).reshape(len(x), -1).any(axis=1)
    else:
        return None
    return int(np.argmax(bad)) if bad.any() else None


def _ended(episode: Episode) -> Episode:
    """Returns the episode with an end: one that says of none was cut off, its last successor is known."""
    if episode.terminated[-1] or episode.truncated[-1]:
        return episode
    truncated = episode.truncated.copy()
    truncated[-1] = True
    return episode._replace(truncated=truncated)


def write_dataset(
    folder: Path,
    episodes: Iterable[Iterable[Episode]],
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    metadata: dict[str, Any],
    env_spec: Any = None,
) -> None:
    """Writes a dataset in Minari's format into a new folder.

    Args:
      episodes: parts, each of which is written at once.
      metadata: beyond what the data tell: dataset_id, author and so on.
      env_spec: Gymnasium's, by which plain Minari makes the environment again; None: it cannot.
    """
    require_minari()
    from minari import __version__
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    (folder / "data").mkdir(parents=True)
    with quiet():
        storage = MinariStorage.new(
            folder / "data",
            observation_space=observation_space,
            action_space=action_space,
            env_spec=env_spec,
            data_format="hdf5",
            jpeg_encoding=False,  # which would change pictures
        )
        storage.update_metadata({"minari_version": __version__, **metadata})
        for part in episodes:
            storage.update_episodes(
                EpisodeBuffer(
                    observations=x.observations,
                    actions=x.actions,
                    rewards=x.rewards,
                    terminations=x.terminated,
                    truncations=x.truncated,
                    infos={},
                )
                for x in part
            )
