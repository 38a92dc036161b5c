"""The origin of a run: commit, versions of packages, kind of machine."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from envs.cores import usable_cores

_PACKAGES = ("stride-rl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "mujoco")


def provenance() -> dict[str, Any]:
    """Returns commit, versions and the kind of machine (not which machine), in JSON's types."""
    import jax

    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {
            "cpu": _cpu_model(),
            "cores": usable_cores(),
            "platform": f"{platform.system()} {platform.machine()}",
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
        },
    }


def short_commit(commit: str | None) -> str:
    """Returns twelve digits of a commit, with "-dirty" where files were changed since; "unknown" for None."""
    if commit is None:
        return "unknown"
    digits, dirty, _ = commit.partition("-dirty")
    return digits[:12] + dirty


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _commit() -> str | None:
    """Returns the commit of this source; None outside git, and where that is somebody else's."""
    here = Path(__file__).resolve()
    # Installed into a folder that lies in someone else's repository, that commit says nothing of us.
    return commit_of(here.parent, here.name)


def commit_of(folder: Path, known: str = ".") -> str | None:
    """Returns the commit that a folder is checked out at, with "-dirty" where files were changed since, but for
    those in `results/`, which a study writes while it runs.

    None outside git, and where `known`, a name in the folder, is not under version control.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", known) is None:
        return None
    commit = git("rev-parse", "HEAD")
    places = (":/", ":(top,exclude)results")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *places)
    return f"{commit}-dirty" if commit and changed else commit


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
