"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO


class FolderBusyError(ValueError):
    """Another process is at work there."""


@contextlib.contextmanager
def alone(folder: Path, who: str) -> Iterator[IO]:
    """Holds `folder` until the end, or until the last process ends that inherited the lock.

    Args:
      who: whoever may hold it already, for the error.

    Raises FolderBusyError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderBusyError(f"{who} is at work in {folder}") from None
        yield lock
