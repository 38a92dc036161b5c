"""Writes the output files of commands atomically, and never overwrites files that another program wrote."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

Ours = Mapping[str, Callable[[str], bool]]  # names of files; what tells from a text that it is ours
PAGE = "README.md"
_IMAGES = (".png", ".svg")
_LONGEST = 100  # characters of a name of a file, made of that of an environment


def check(out: Path, ours: Ours) -> None:
    """Raises ValueError where `out` is not named, or would lose what someone else wrote.

    `ours`: the names of files that would be overwritten, and what tells from their text that the command wrote them.
    """
    if out == Path():  # what an empty argument becomes, too
        raise ValueError("--out is empty or the folder one is in: the name of a folder is wanted")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: the name of a folder is wanted")
    for name, wrote in ours.items():
        _check_file(out / name, wrote, "--out takes the name of another folder")


def check_file(path: Path, wrote: Callable[[str], bool], flag: str) -> None:
    """Raises ValueError if `path`, the value of `flag`, is a folder or a file of another program."""
    if path.is_dir():
        raise ValueError(f"{flag} {path} is a folder: the name of a file is wanted")
    _check_file(path, wrote, f"{flag} takes another name")


@contextlib.contextmanager
def staged(out: Path, ours: Ours) -> Iterator[Path]:
    """Yields a temporary folder to write in; at the end of `with`, moves all of its files into `out`, or none.

    Replaces only files of `ours`, and figures that a page of ours in `out` shows. Raises ValueError, before any change
    in `out`, if another file would be replaced.
    """
    check(out, ours)
    try:
        fresh = Path(tempfile.mkdtemp(prefix=".writing-", dir=_nearest(out)))
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error.strerror}") from None
    try:
        yield fresh
        made = sorted(fresh.iterdir(), key=lambda path: path.name == PAGE)  # the page at last
        check(out, {**figures(out, (path.name for path in made)), **ours})
        out.mkdir(parents=True, exist_ok=True)
        for path in made:
            path.replace(out / path.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def figures(out: Path, names: Iterable[str]) -> Ours:
    """Returns, for each name of a figure, a function that tells that the page in `out` shows it: figures hold no mark
    of their own, and `check` judges the page."""
    shown = _shown_in(out / PAGE)
    return {name: lambda _, name=name: name in shown for name in names}  # type: ignore[misc]


def write(path: Path, text: str) -> None:
    """Writes a text atomically: to a temporary file beside `path`, which is then renamed."""
    fresh = path.with_name(f".{path.name[:_LONGEST]}.{secrets.token_hex(4)}")
    try:
        with fresh.open("x", encoding="utf-8") as file:
            file.write(text)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Returns a file name, without suffix, for each name: plain characters, all different, even on file systems that
    ignore case."""
    files: dict[str, str] = {}
    for name in dict.fromkeys(names):
        plain = re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).strip("-.")[:_LONGEST] or "unnamed"
        taken = {other.casefold() for other in files.values()}
        numbered = (f"{plain}-{i}" for i in range(2, len(files) + 3))
        files[name] = next(n for n in (plain, *numbered) if n.casefold() not in taken)
    return files


def _check_file(path: Path, wrote: Callable[[str], bool], instead: str) -> None:
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} is a link to nowhere and is not overwritten: {instead}")
    if path.exists() and not (path.is_file() and wrote(_text(path))):
        raise ValueError(
            f"{path} was not written by this command and is not overwritten: {instead}"
        )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _shown_in(page: Path) -> set[str]:
    """Returns the names of the figures that a page shows, each as PNG and as SVG."""
    if not page.is_file():
        return set()
    shown = re.findall(r"\]\(([^()\s]+)\)", _text(page))
    pairs = {Path(name).with_suffix(suffix).name for name in shown for suffix in _IMAGES}
    return {name for name in pairs if "/" not in name}


def _nearest(out: Path) -> Path:
    """Returns the folder itself, or the nearest one above it that exists."""
    return next(folder for folder in (out, *out.parents, Path()) if folder.is_dir())
