"""Files of tensors (safetensors), one or several to a model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # most of a file that is written
_FLOATS = ("F64", "F32", "F16", "BF16")
_STORAGE = {
    "float32": np.float32,
    "bfloat16": jnp.bfloat16,
}  # the latter is a dtype of numpy's, too


class Stored(NamedTuple):
    """A tensor in a file."""

    file: Path
    shape: tuple[int, ...]


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Returns the tensors of a model's folder by name, none of them read yet.

    Raises ValueError, in one line, where there are none, a file is damaged or missing, or a tensor holds no floats.
    """
    found: dict[str, Stored] = {}
    for file in tensor_files(folder):
        found |= tensors_in(file)
    return found


def tensors_in(file: Path) -> dict[str, Stored]:
    """Returns the tensors of a file by name. Raises ValueError as `stored_tensors` does."""
    found: dict[str, Stored] = {}
    with _opened(file) as tensors:
        for name in tensors.keys():  # noqa: SIM118  it is no mapping
            part = tensors.get_slice(name)
            if part.get_dtype() not in _FLOATS:
                raise ValueError(
                    f"{file}: {name} holds numbers of type {part.get_dtype()}, not floats"
                )
            found[name] = Stored(file, tuple(part.get_shape()))
    return found


def read_tensor(stored: Stored, name: str) -> np.ndarray:
    """Returns a tensor as float32. Raises ValueError, in one line, where some of its numbers are not finite."""
    with _opened(stored.file) as tensors:
        found = tensors.get_tensor(name).astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{stored.file}: {name} holds numbers that are not finite")
    return found


def write_tensors(
    folder: Path, tensors: Mapping[str, np.ndarray], storage: str, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes a model's tensors, in several files and with an index where one would have more than `shard_bytes`.

    Args:
      storage: float32 or bfloat16.

    Raises OSError where that fails, and ValueError where the package safetensors is missing.
    """
    arrays = _stored_as(tensors, storage)
    shards: list[dict[str, np.ndarray]] = [{}]
    room = shard_bytes
    for name, x in arrays.items():
        if shards[-1] and x.nbytes > room:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = x
        room -= x.nbytes
    total = sum(x.nbytes for x in arrays.values())
    places: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        sharded = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        file = sharded if len(shards) > 1 else WHOLE
        _save(folder / file, shard)
        places |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_file(file: Path, tensors: Mapping[str, np.ndarray], storage: str) -> None:
    """Writes tensors into one file. Raises OSError and ValueError as `write_tensors` does."""
    _save(file, _stored_as(tensors, storage))


def read_json(file: Path) -> dict[str, Any]:
    """Returns the table in a JSON file. Raises ValueError, in one line, where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no table")
    return found


def tensor_files(folder: Path) -> list[Path]:
    """Returns the files of tensors in a folder. Raises ValueError, in one line, where there are none or one lacks."""
    whole, index = folder / WHOLE, folder / INDEX
    if whole.is_file():
        return [whole]
    if not index.is_file():
        others = sorted(x.name for x in folder.glob("*.bin")) + sorted(
            x.name for x in folder.glob("*.gguf")
        )
        has = f": it has {others[0]}, which must be converted first" if others else ""
        raise ValueError(f"{folder} has no {WHOLE}{has}")
    places = read_json(index).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ValueError(f"{index} has no weight_map from tensors to files of this folder")
    for name in sorted(names):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} lacks {name}, which {INDEX} names")
    return [folder / name for name in sorted(names)]


def _stored_as(tensors: Mapping[str, np.ndarray], storage: str) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(x.astype(_STORAGE[storage])) for name, x in tensors.items()}


def _save(file: Path, tensors: dict[str, np.ndarray]) -> None:
    _package("numpy").save_file(tensors, file, metadata={"format": "pt"})


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    package = _package()
    try:
        with package.safe_open(file, "numpy") as tensors:
            yield tensors
    except (package.SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None


def _package(part: str | None = None) -> Any:
    """The package safetensors, or a part of it. Raises ValueError, in one line, where it is not installed."""
    try:
        import safetensors.numpy
    except ImportError:
        raise ValueError(
            "published weights need the package safetensors: pip install 'stride-rl[text]'"
        ) from None
    return getattr(safetensors, part) if part else safetensors
