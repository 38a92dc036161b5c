"""Locks a folder, so that only one process works in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None  # type: ignore[assignment]

NAME = ".lock"
NAMES = (NAME, f"{NAME}.held")  # the second only where the system has no locks of files


class FolderBusyError(ValueError):
    """Raised where another process works in a folder."""


@contextlib.contextmanager
def exclusive_lock(folder: Path, who: str) -> Iterator[IO]:
    """Holds `folder`, which is made where it is missing, until the end of `with`, or until the last process ends that
    inherited the lock (on Windows none does).

    Args:
      who: whoever may hold it already, for the error.

    Raises FolderBusyError, and OSError where the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    while True:
        with path.open("a") as lock:
            if not _take(lock, path):
                raise FolderBusyError(f"{who} is at work in {folder}{_unless_killed(path)}")
            try:
                if not _is(path, lock):
                    continue  # whoever had it has removed the file: this one protects nothing
                yield lock
                return
            finally:
                _release(lock, path)


def remove(folder: Path) -> None:
    """Removes the lock's file, by whoever holds it, where the folder is not to stay."""
    with contextlib.suppress(OSError):  # Windows removes no open file
        (folder / NAME).unlink()


def _is(path: Path, lock: IO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except FileNotFoundError:
        return False


def _take(lock: IO, path: Path) -> bool:
    """Takes the lock; False where it is not free."""
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            lock.seek(0)
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            _held(path).touch(exist_ok=False)
    except BlockingIOError:
        return False
    except (PermissionError, FileExistsError):
        if fcntl is not None:
            raise
        return False
    return True


def _release(lock: IO, path: Path) -> None:
    """Releases the lock where closing the file does not."""
    if fcntl is None and msvcrt is not None:
        lock.seek(0)
        msvcrt.locking(lock.fileno(), msvcrt.LK_UNLCK, 1)
    elif fcntl is None:
        _held(path).unlink(missing_ok=True)


def _unless_killed(path: Path) -> str:
    """Returns advice where a lock can outlive its holder, else ""."""
    lasting = fcntl is None and msvcrt is None
    return f"; if none is, remove {_held(path)}" if lasting else ""


def _held(path: Path) -> Path:
    return path.with_name(NAMES[1])
