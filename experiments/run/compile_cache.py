"""Compiled programs are kept for the next start: JAX's compilation cache, in the user's cache folder.

That is `$XDG_CACHE_HOME/stride/compiled`, by default `~/.cache/stride/compiled`; on Windows a folder below
`%LOCALAPPDATA%`. It has a folder for each kind of processor, for machine code of one may not run, or may round
differently, on another. JAX names an entry by program, versions, flags and device: a changed program is not mistaken
for an old one.

Programs with a call to the host (the C physics of MuJoCo) are not kept: JAX compiles these at every start.

Processes may share the folder. JAX writes an entry where there is none and never changes one, and its compression has a
checksum: an entry that another process is still writing counts as damaged, and the program is compiled.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import zlib
from pathlib import Path

import jax

from envs.process import left_alone

MOST_BYTES = 2**30
_SECONDS = 0.1  # programs that compile faster are not kept
_CHECKED = "checked"  # a file whose time is that of the last look at the entries
_ZLIB = b"\x78"  # the first byte of an entry, unless the package zstandard is there


def keep_programs(wanted: bool = True) -> str | None:
    """Makes JAX keep compiled programs in the user's cache folder; returns a warning in one line where that fails, else
    None.

    Nothing changes where the process is to be left alone (`envs.process`), or where the user has set JAX's own cache,
    by `JAX_COMPILATION_CACHE_DIR` or `JAX_ENABLE_COMPILATION_CACHE`.

    Args:
      wanted: False: programs are neither kept nor looked up, in no folder.
    """
    if left_alone():
        return None
    if not wanted:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
        return None
    folder = None
    try:
        folder = user_cache() / "stride" / "compiled" / processor()
        _prepare(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        reason = getattr(error, "strerror", None) or error
        where = folder or "the user's cache folder"
        return f"compiled programs are not kept for the next start: {where}: {reason}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SECONDS)
    return None


def user_cache() -> Path:
    """Returns the folder for the user's caches, of which programs may be deleted at any time. Raises RuntimeError where
    there is no home folder."""
    if sys.platform == "win32" and "LOCALAPPDATA" in os.environ:
        return Path(os.environ["LOCALAPPDATA"])
    given = os.environ.get("XDG_CACHE_HOME", "")
    # By its specification a relative path there counts as none.
    return Path(given) if os.path.isabs(given) else Path.home() / ".cache"


def processor() -> str:
    """Returns a name of the kind of processor, the same for processors with the same instructions."""
    described = [platform.system(), platform.machine()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        described += sorted({line for line in lines if line.startswith(wanted)})
    except OSError:  # not Linux
        described.append(platform.processor())
    digest = hashlib.sha256("\n".join(described).encode()).hexdigest()[:12]
    return f"{platform.machine() or 'processor'}-{digest}"


def _prepare(folder: Path) -> None:
    """Makes the folder, and removes damaged and old entries. Raises OSError where it cannot be used."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        # Its content is machine code that would run with this user's rights.
        raise OSError("another user can write to it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(13, "cannot be written")
    entries = {path: path.stat() for path in folder.glob("*-cache")}
    checked = folder / _CHECKED
    since = checked.stat().st_mtime_ns if checked.exists() else 0
    checked.touch()
    for path, status in list(entries.items()):
        # The clock of a file system is coarse: an entry of the same tick is looked at once more.
        if status.st_mtime_ns >= since - 10**9 and not _whole(path):
            path.unlink(missing_ok=True)
            del entries[path]
    excess = sum(status.st_size for status in entries.values()) - MOST_BYTES
    oldest = sorted(entries, key=lambda path: max(entries[path].st_atime, entries[path].st_mtime))
    for path in oldest:
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= entries[path].st_size


def _whole(path: Path) -> bool:
    """True unless an entry is cut short, as by a full disk. JAX would report it at each start and never replace it."""
    content = path.read_bytes()
    if content[:1] != _ZLIB:
        return bool(content)
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True
