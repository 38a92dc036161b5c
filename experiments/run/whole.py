"""Files that other libraries write: whole ones, or none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from experiments.run import folders


def write_whole(make: Callable[[Path], list[Path]], stem: Path) -> list[Path]:
    """Files `stem`.SUFFIX, as `make` writes them: elsewhere first, under a name that no library takes for an address
    or a pattern. Where that fails, nothing has changed.

    Args:
      make: writes files of the stem that it gets, and returns their paths.
      stem: path without a suffix; its folder is made where it is missing.

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
