"""Writes the files of other libraries atomically."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from experiments.run import folders


def write_whole(make: Callable[[Path], list[Path]], stem: Path) -> list[Path]:
    """Writes files `stem`.SUFFIX atomically with `make`: first in a temporary folder, under a name that no library
    interprets as an address or pattern. If `make` fails, nothing has changed.

    Args:
      make: writes files with the given stem, and returns their paths.
      stem: path without a suffix; a missing folder is made.

    Raises what `make` raises; OSError with the name of the file.
    """
    with folders.naming(stem), tempfile.TemporaryDirectory(prefix="stride-") as fresh:
        made = make(Path(fresh) / "file")
        stem.parent.mkdir(parents=True, exist_ok=True)
        return [_move(path, stem.with_name(f"{stem.name}{path.suffix}")) for path in made]


def _move(source: Path, target: Path) -> Path:
    temporary = target.with_name(f"{target.name}.tmp")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    except OSError as error:  # which names the source
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(target)) from error
    return target
