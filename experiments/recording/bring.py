"""Datasets that are there already: from another folder, or joined from others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.data import store
from experiments.data.episodes import read_episodes, write_dataset

_MEANINGFUL = (  # metadata that also holds for a part of a dataset
    "author",
    "author_email",
    "code_permalink",
    "ref_min_score",
    "ref_max_score",
    "num_episodes_average_score",
)


def import_dataset(path: Path, name: str | None) -> str:
    """Copies a dataset of Minari's into the folder of datasets, every episode checked, and returns its name.

    Args:
      path: the dataset's folder, which holds `data`, or that.
      name: a new name; None: its own.

    Raises ValueError with one line where there is none, it is damaged, or the name is taken.
    """
    source = path.parent if path.name == "data" and not (path / "data").is_dir() else path
    if not (source / "data" / "metadata.json").is_file():
        raise ValueError(f"{path} holds no dataset of Minari's: there is no data/metadata.json")
    found = store.read_folder(source)
    for _ in read_episodes(found):
        pass
    name = name or found.id
    final = _free(name)
    fresh = final.with_name(f".{final.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, fresh)
    file = fresh / "data" / "metadata.json"
    file.write_text(json.dumps({**found.metadata, "dataset_id": name}))
    fresh.rename(final)
    return name


def combine(names: Sequence[str], new: str) -> str:
    """Joins datasets of one environment into a new one and returns its name.

    Reference scores are those of the first one that has them. Raises ValueError with one line.
    """
    if len(names) < 2:
        raise ValueError("two datasets or more are combined")
    parts = [store.open_dataset(name) for name in names]
    first = parts[0]
    for other in parts[1:]:
        if other.env != first.env:
            raise ValueError(f"{other.id} is of {other.env}, {first.id} of {first.env}")
        spaces = ((x.observation_space, x.action_space) for x in (first, other))
        if next(spaces) != next(spaces):
            raise ValueError(f"{other.id} has other spaces than {first.id}")
    final = _free(new)
    fresh = final.with_name(f".{final.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    write_dataset(
        fresh,
        (list(read_episodes(part)) for part in parts),
        first.observation_space,
        first.action_space,
        {**_joint_metadata(parts), "dataset_id": new, "combined_datasets": list(names)},
        _spec(first),
    )
    final.parent.mkdir(parents=True, exist_ok=True)
    fresh.rename(final)
    return new


def _joint_metadata(parts: Sequence[store.Stored]) -> dict[str, Any]:
    joint: dict[str, Any] = {}
    for part in reversed(parts):
        joint |= {name: part.metadata[name] for name in _MEANINGFUL if name in part.metadata}
    for name in ("author", "author_email"):
        if name in joint:
            joint[name] = set(joint[name])
    names = dict.fromkeys(str(part.metadata.get("algorithm_name", "-")) for part in parts)
    first = parts[0].metadata.get(store.OUR_ENTRY)
    if first is not None:
        kept = {name: first[name] for name in ("env", "env_kwargs") if name in first}
        joint[store.OUR_ENTRY] = kept | {"policy": " and ".join(part.id for part in parts)}
    return joint | {"algorithm_name": ", ".join(names), "description": "Combined episodes"}


def _spec(dataset: store.Stored) -> Any:
    from gymnasium.envs.registration import EnvSpec

    text = dataset.metadata.get("env_spec")
    return EnvSpec.from_json(text) if text else None


def _free(name: str) -> Path:
    """Returns the folder of a new dataset. Raises ValueError where there is one."""
    final = store.folder_of(name)
    if final.exists():
        raise ValueError(
            f"there is a dataset {name} in {final}, which is not overwritten: choose another --id"
        )
    return final
