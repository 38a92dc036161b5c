"""Folders of a user's own whose names this package needs: `agents` and `envs`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_NEEDED = ("agents", "envs")


def refuse_shadows() -> None:
    """Raises ImportError where `import agents` or `import envs` would find another folder or file of that name.

    A command of this package ends there with one line and exit code 2.
    """
    message = _shadowed()
    if message is None:
        return
    if sys.argv[:1] == ["-m"]:  # so it is while `python -m` looks for the command
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(message)


def _shadowed() -> str | None:
    """Returns one line on a package that stands in the way; None where none does."""
    ours = Path(__file__).resolve().parents[2]
    for name in _NEEDED:
        location = _location(name)
        if location is None or location in (ours / name, ours / f"{name}.py"):
            continue
        line = f"{location} would be taken for the {name!r} of this package, which is {ours / name}"
        line += ": rename it, or start from another folder"
        if location.parent == Path.cwd():
            line += f"; python -P -m {_command()} leaves the folder you are in out of the search"
        return line
    return None


def _location(name: str) -> Path | None:
    """Returns the folder of a package, or the file of a module, that `import name` finds."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # made by hand
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    where = folders[0] if folders else spec.origin
    return Path(where).resolve() if where else None


def _command() -> str:
    words = sys.orig_argv
    at = words.index("-m") + 1 if "-m" in words else len(words)
    return f"{words[at]} ..." if at < len(words) else "experiments.train ..."
