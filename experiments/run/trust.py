"""Decides whether the code that a run names may be executed again.

A run with an environment or algorithm of a user's own names Python files: `FILE.py:NAME`, the module of
`gym:MODULE:ID`, files of `--import`. Run folders and these files can come from anywhere. Therefore config.json keeps
the SHA-256 of each file, and a seal: an HMAC over everything that decides what is executed, with a key from the user's
own configuration folder. Files run without a question if they are byte for byte those with which this user began the
run. `--trust` (`trust=True`) is needed for a changed file, a run of another user or an older version, and an edited
config.json.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.machinery
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from envs import HOST_PREFIX
from experiments.run import folders
from experiments.user_envs import load

_SEALED = ("env", "env_kwargs", "imports", "files")  # of config.json
_KEY_BYTES = 32


def named_files(env: str, env_kwargs: dict[str, Any], imports: Iterable[str]) -> dict[str, Path]:
    """Returns the existing Python files outside this package that a run executes, by their names in the run. Executes
    no file."""
    options = (x for x in env_kwargs.values() if isinstance(x, str))
    files = (name for name in (*imports, env, *options) if load.is_file(name))
    files_by_name = {str(path): path for path in map(load.path_of, files) if path.is_file()}
    module, colon, _ = env.removeprefix(HOST_PREFIX).partition(":")
    if env.startswith(HOST_PREFIX) and colon:
        path = _module_file(module)
        files_by_name |= {} if path is None else {str(path): path}
    return files_by_name


def executes_files(config: dict[str, Any]) -> bool:
    """Tells that a run needs files besides this package, whether or not they exist."""
    env = config["env"]
    module = env.startswith(HOST_PREFIX) and ":" in env.removeprefix(HOST_PREFIX)
    return bool(config.get("imports")) or module or load.is_file(env)


def record(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the entries of config.json on files: their hashes, and the seal; {} where the run executes none.
    `config`: with env, env_kwargs and imports."""
    hashes = _hashes(config)
    if not hashes:
        return {}
    sealed = {**config, "files": hashes}
    key = _key(make=True)
    return {"files": hashes, "seal": _seal(sealed, key) if key else None}


def require_trusted(folder: Path, config: dict[str, Any], trust: bool) -> None:
    """Checks that the files of the run in `folder` may be executed.

    Args:
      config: the run's config.json.
      trust: True if the user trusts the files.

    Raises ValueError with one line that names the files that were not executed, and the reason.
    """
    hashes = _hashes(config)
    if trust or not hashes:
        return
    names = ", ".join(hashes)
    known = config.get("files", {})
    if not known:
        why = "its config.json does not say what the file was when the run began"
    elif not set(hashes.values()) <= set(known.values()):
        names = ", ".join(path for path, sha in hashes.items() if sha not in known.values())
        why = "the file is another one than when the run began"
    else:
        key = _key(make=False)
        seal = config.get("seal")
        if key and seal and hmac.compare_digest(seal.encode(), _seal(config, key).encode()):
            return
        why = "the run was not begun by you on this machine, or its config.json was edited"
    raise ValueError(
        f"{folder} would execute {names}, and did not: {why}; read the file, then give --trust "
        "(trust=True in Python)"
    )


def _hashes(config: dict[str, Any]) -> dict[str, str]:
    files = named_files(config["env"], config["env_kwargs"], config.get("imports", ()))
    # A module without a file (in an archive, say) has no hash, and is one to be asked for all the same.
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for name, path in files.items()
    }


def _seal(config: dict[str, Any], key: bytes) -> str:
    content = folders.plain({name: config.get(name) for name in _SEALED})
    text = json.dumps(content, sort_keys=True)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _key(make: bool) -> bytes | None:
    """Returns this user's own key, made where there is none if `make`; None where that fails."""
    try:
        path = _configuration() / "key"
        if make:
            _make_key(path)
        for _ in range(50):  # another process may be about to write it
            key = path.read_bytes()
            if len(key) == _KEY_BYTES:
                return key
            time.sleep(0.02)
    except (OSError, RuntimeError):  # no home, or one that cannot be written
        pass
    return None


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(os.urandom(_KEY_BYTES))
    except FileExistsError:
        return


def _configuration() -> Path:
    """Returns the folder of this user's settings. Raises RuntimeError where there is no home."""
    if sys.platform == "win32" and os.environ.get("APPDATA"):
        return Path(os.environ["APPDATA"]) / "stride"
    given = os.environ.get("XDG_CONFIG_HOME")
    return (Path(given) if given else Path.home() / ".config") / "stride"


def _module_file(name: str) -> Path | None:
    """Returns the file of a module; None where there is none. Avoids importing its packages, which would execute
    them."""
    first, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    for i, _ in enumerate(rest):
        if spec is None:
            return None
        full = ".".join([first, *rest[: i + 1]])
        spec = importlib.machinery.PathFinder.find_spec(full, spec.submodule_search_locations)
    return None if spec is None else Path(spec.origin or name)
