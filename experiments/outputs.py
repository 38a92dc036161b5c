"""Folders in which commands write pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path


def check(out: Path, ours: Mapping[str, Callable[[str], bool]]) -> None:
    """Raises ValueError where `out` is not named, or would lose what someone else wrote.

    `ours`: the names of files that would be overwritten, and what tells from their text that the command wrote them.
    """
    if out == Path():  # what an empty argument becomes, too
        raise ValueError("--out is empty or the folder one is in: the name of a folder is wanted")
    for name, wrote in ours.items():
        path = out / name
        if path.exists() and not (path.is_file() and wrote(path.read_text(errors="replace"))):
            raise ValueError(
                f"{path} was not written by this command and is not overwritten: "
                "--out takes the name of another folder"
            )
