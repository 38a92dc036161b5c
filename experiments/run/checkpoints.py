"""Checkpoints: the whole training state on disk, written atomically, checked when read.

A checkpoint is a folder named after the environment steps (per seed) at which it was taken. Orbax writes it under
another name and renames it when it is complete; then the checksums of its files are added (`sha256sum -c SHA256SUMS`
tests them), without which it does not count. So a process killed at any moment leaves whole checkpoints, and a file
damaged later is noticed before anything is read from it: not every flipped byte makes a file unreadable.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from experiments.console.exits import InputError

KEEP = 3
_SUMS = "SHA256SUMS"
# Paths that orbax and tensorstore take as they are. In others they see patterns, separators or addresses: "[" begins a
# class of characters, a backslash is a slash, "gs:" a bucket.
_PLAIN_PATH = re.compile(r"([A-Za-z]:)?[A-Za-z0-9_./+=,@-]*")
_MANIFEST = Path("state", "manifest.ocdbt")  # without which nothing can be read
_UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of what orbax has not finished


class DamagedCheckpointError(InputError):
    """Raised where no checkpoint of a run can be used."""


def save(folder: Path, env_steps: int, state: PyTree, progress: dict[str, Any]) -> Path:
    """Writes `state` (any pytree of arrays, typed PRNG keys included) and `progress` (plain JSON).

    Returns once the checkpoint is on disk; older ones beyond the last `KEEP` are then removed. Raises OSError where it
    cannot be written.
    """
    import orbax.checkpoint as ocp

    path = folder.absolute() / str(env_steps)
    arrays = {name: np.asarray(_data(leaf)) for name, leaf in _leaves(state).items()}
    arrays = {name: x for name, x in arrays.items() if x.size}  # orbax refuses empty arrays
    try:
        with _plain_path(folder) as plain, _quiet(), _checkpointer() as checkpointer:
            checkpointer.save(
                plain / path.name,
                ocp.args.Composite(
                    state=ocp.args.PyTreeSave(arrays), progress=ocp.args.JsonSave(progress)
                ),
                force=True,
            )
        if not (path / _MANIFEST).exists():
            raise OSError("it could not be read again")
        temporary = path / f"{_SUMS}.tmp"
        temporary.write_text(_checksums(path))
        temporary.replace(path / _SUMS)
    except Exception as error:  # a full disk comes as any of several, in as many words
        raise OSError(f"the checkpoint {path} cannot be written: {_reason(error)}") from error
    for old in steps(folder)[KEEP:]:
        shutil.rmtree(folder / str(old), ignore_errors=True)
    return path


def steps(folder: Path) -> list[int]:
    """Returns the environment steps of the checkpoints in `folder`, newest first. Some may be damaged."""
    if not folder.is_dir():
        return []
    return sorted((int(p.name) for p in folder.iterdir() if p.name.isdigit()), reverse=True)


def begun(folder: Path) -> bool:
    """Tells that a checkpoint was completed in `folder`."""
    return any((folder / str(n) / _SUMS).exists() for n in steps(folder))


def restore(
    folder: Path, template: PyTree, warn: Callable[[str], None]
) -> tuple[PyTree, dict[str, Any], int]:
    """Returns (state, progress, environment steps) of the newest usable checkpoint.

    Args:
      template: `jax.eval_shape` of the function that makes the state; shapes and dtypes must agree.
      warn: called with one line for each checkpoint that had to be passed over.

    Raises DamagedCheckpointError if none can be used.
    """
    for env_steps in steps(folder):
        path = folder.absolute() / str(env_steps)
        damage = _damage(path)
        if damage:
            warn(f"checkpoint {env_steps} is damaged ({damage}); trying the one before")
            continue
        try:
            state, progress = _read(path, template)
        except Exception as error:  # orbax has no one exception for what it cannot make out
            warn(
                f"checkpoint {env_steps} is whole, but does not fit the settings in config.json or this version "
                f"({_reason(error)}); trying the one before"
            )
        else:
            return state, progress, env_steps
    raise DamagedCheckpointError(f"no usable checkpoint in {folder}")


def discard_after(folder: Path, env_steps: int) -> None:
    """Removes checkpoints later than `env_steps`, and what an interrupted save left behind."""
    for path in folder.iterdir() if folder.is_dir() else ():
        later = path.name.isdigit() and int(path.name) > env_steps
        if later or _UNFINISHED in path.name:
            shutil.rmtree(path, ignore_errors=True)


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    # Of several processes one reads and writes, and orbax is not to wait for the others.
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _plain_path(folder: Path) -> Iterator[Path]:
    """Yields `folder` by a path that orbax takes literally, through a link from elsewhere if need be. Makes the folder.

    Raises OSError where there can be no such link.
    """
    folder = folder.absolute()
    if _PLAIN_PATH.fullmatch(folder.as_posix()):
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="stride-", dir=_plain_root()) as root:
        link = Path(root) / "checkpoints"
        try:
            link.symlink_to(folder, target_is_directory=True)
        except OSError as error:
            raise OSError(
                f"its path has characters that orbax interprets, and no link to it can be made ({error}): "
                "a path of letters, digits, - and _ is wanted"
            ) from error
        try:
            yield link
        finally:
            link.unlink()


def _plain_root() -> str:
    """Returns a folder for temporary files whose path is plain."""
    for root in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if _PLAIN_PATH.fullmatch(Path(root).absolute().as_posix()) and os.access(root, os.W_OK):
            return root
    raise OSError(f"orbax cannot use the path of {tempfile.gettempdir()}: set TMPDIR")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences orbax's logging of an error, hundreds of lines: the error itself needs one."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _damage(path: Path) -> str | None:
    """Returns the damage to the files of a checkpoint, in words; None where there is none."""
    if not (path / _SUMS).exists():
        return "it was not completed"
    if (path / _SUMS).read_text(errors="replace") != _checksums(path):
        return "its files do not match their checksums"
    return None


def _reason(error: Exception) -> str:
    message = f"{error}".strip().split("\n")[0]
    message = re.sub(
        r' "/[^"]*":?', "", message
    )  # tensorstore's names of files are long, and not the user's
    return message[:160] or type(error).__name__


def _read(path: Path, template: PyTree) -> tuple[PyTree, dict[str, Any]]:
    import orbax.checkpoint as ocp

    wanted = {name: jax.eval_shape(_data, leaf) for name, leaf in _leaves(template).items()}
    as_numpy = {
        name: ocp.RestoreArgs(restore_type=np.ndarray) for name, x in wanted.items() if x.size
    }
    with _plain_path(path.parent) as plain, _quiet(), _checkpointer() as checkpointer:
        read = checkpointer.restore(
            plain / path.name,
            ocp.args.Composite(
                state=ocp.args.PyTreeRestore(restore_args=as_numpy),
                progress=ocp.args.JsonRestore(),
            ),
        )
    arrays, progress = dict(read["state"]), dict(read["progress"])
    # Orbax casts to what it is asked for without a word, so it is asked for nothing and compared here.
    for name, x in wanted.items():
        if x.size == 0:
            arrays[name] = np.zeros(x.shape, x.dtype)
        if name not in arrays:
            raise ValueError(f"{name} is missing")
        if (arrays[name].shape, arrays[name].dtype) != (x.shape, x.dtype):
            raise ValueError(
                f"{name} is {arrays[name].dtype}{arrays[name].shape}, not {x.dtype}{x.shape}"
            )
    leaves = [_undata(arrays[name], leaf) for name, leaf in _leaves(template).items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves), progress


def _leaves(tree: PyTree) -> dict[str, Any]:
    """Leaves by a readable, unique name. None is no leaf, so absent fields cost nothing."""
    return {
        f"{i:04d}{jax.tree_util.keystr(path)}".replace("/", "|"): leaf
        for i, (path, leaf) in enumerate(jax.tree_util.tree_flatten_with_path(tree)[0])
    }


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _undata(x: np.ndarray, leaf: Any) -> jax.Array:
    # A copy on the device: arrays that share memory with NumPy cannot be donated.
    data = jax.numpy.array(x, copy=True)
    if not _is_key(leaf):
        return data
    key = jax.random.wrap_key_data(data)
    if key.dtype != leaf.dtype:
        raise ValueError(f"a key is {key.dtype}, not {leaf.dtype}: see jax_default_prng_impl")
    return key


def _checksums(path: Path) -> str:
    """Returns one line per file, as `sha256sum` writes them."""
    files = sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith(_SUMS))
    return "".join(
        f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(path).as_posix()}\n"
        for f in files
    )
