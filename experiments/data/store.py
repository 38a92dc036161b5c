"""Minari's datasets on disk: which there are, and what their metadata say.

Minari is an optional extra, and imported here alone, when it is needed. It keeps datasets in the folder that
MINARI_DATASETS_PATH names, by default `.minari/datasets` in the user's home: `NAMESPACE/NAME-vN/data`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium

from experiments.console.suggest import suggestion

OUR_ENTRY = "stride"  # in a dataset's metadata: what only datasets made here have
_ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")
_GYMNASIUM_PREFIX = "stride/"
DEFAULT_FORMAT = "hdf5"


@dataclasses.dataclass(frozen=True)
class Stored:
    """The metadata of a dataset on disk."""

    id: str
    folder: Path  # that holds `data`
    steps: int
    episodes: int
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    env: str | None  # by our name where it has one, else Gymnasium's id; None: it does not say
    env_kwargs: dict[str, Any] | None  # None: it does not say
    ref_min: float | None  # mean returns of a random policy and of an expert
    ref_max: float | None
    metadata: dict[str, Any]  # all of them, as JSON


def require_minari() -> Any:
    """Returns the module. Raises ValueError with one line that says how to get it."""
    try:
        with quiet():
            import h5py  # noqa: F401  Minari imports it late, and says less
            import minari
            from PIL import Image  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"datasets are Minari's, and {error.name or 'it'} is not installed: pip install 'stride-rl[offline]'"
        ) from None
    return minari


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences Minari's remarks on metadata that are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def root() -> Path:
    """Returns the folder of all datasets, which is made where it is missing."""
    require_minari()
    from minari.storage import get_dataset_path

    return Path(get_dataset_path(""))


def folder_of(dataset: str) -> Path:
    """Returns the folder of a dataset, whether or not it exists. Raises ValueError where the name can be none."""
    if not _ID.fullmatch(dataset):
        raise ValueError(
            f"{dataset!r} is no name of a dataset: NAMESPACE/NAME-v0 is, such as stride/hopper/medium-v0"
        )
    return root() / dataset


def names() -> list[str]:
    """Returns the names of the datasets on disk, sorted; damaged ones are among them."""
    base = root()
    found = (path.parent.parent for path in base.rglob("data/metadata.json"))
    ids = (path.relative_to(base).as_posix() for path in found)
    return sorted(x for x in ids if _ID.fullmatch(x))


def open_dataset(dataset: str) -> Stored:
    """Reads the metadata of a dataset. Raises ValueError with one line where there is none, or it cannot be read."""
    folder = folder_of(dataset)
    if not (folder / "data").is_dir():
        known = names()
        hint = suggestion(dataset, known) if known else "there is none yet"
        raise ValueError(f"there is no dataset {dataset} in {root()}: {hint}")
    return read_folder(folder, dataset)


def read_folder(folder: Path, dataset: str | None = None) -> Stored:
    """Reads the metadata of the dataset in a folder. Raises ValueError with one line.

    Args:
      dataset: its name; None: the one that it gives itself.
    """
    try:
        text = (folder / "data" / "metadata.json").read_text(encoding="utf-8")
        metadata = json.loads(text)
        storage = storage_of(folder)
        found = Stored(
            id=dataset or str(metadata["dataset_id"]),
            folder=folder,
            steps=int(metadata["total_steps"]),
            episodes=int(metadata["total_episodes"]),
            observation_space=storage.observation_space,
            action_space=storage.action_space,
            env=_env(metadata),
            env_kwargs=metadata.get(OUR_ENTRY, {}).get("env_kwargs"),
            ref_min=_score(metadata, "ref_min_score"),
            ref_max=_score(metadata, "ref_max_score"),
            metadata=metadata,
        )
    except Exception as error:  # JSON's, Minari's, Gymnasium's: whatever a damaged file leads to
        raise ValueError(
            f"the dataset {dataset or folder} cannot be read: {first_line(error)}"
        ) from None
    if found.episodes < 1 or found.steps < 1:
        raise ValueError(f"the dataset {found.id} has no episodes in it")
    return found


def storage_of(folder: Path) -> Any:
    """Returns Minari's storage of the dataset in a folder. Raises whatever Minari does."""
    require_minari()
    from minari.dataset.minari_storage import MinariStorage

    with quiet():
        return MinariStorage.read(folder / "data")


def first_line(error: Exception) -> str:
    """Returns the beginning of what an error says, in one line."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
    lines = text.strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _score(metadata: dict[str, Any], name: str) -> float | None:
    value = metadata.get(name)
    return float(value) if value is not None and math.isfinite(float(value)) else None


def _env(metadata: dict[str, Any]) -> str | None:
    """Returns the environment that was recorded."""
    ours = metadata.get(OUR_ENTRY, {}).get("env")
    if ours:
        return str(ours)
    spec = metadata.get("env_spec")
    if not spec:
        return None
    return str(json.loads(spec)["id"]).removeprefix(_GYMNASIUM_PREFIX)
