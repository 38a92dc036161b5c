"""A run is a folder: config.json, metrics.jsonl, checkpoints/, summary.json, curve.png, video.*

With several seeds, metrics.jsonl is in seed_0/, seed_1/ and so on, and all else at the top.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

RUNS = Path("results/runs")
# What config.json has at least.
_CONFIG = {"env": str, "env_kwargs": dict, "algo": str, "config": dict, "seed": int, "seeds": int}
_SAID = {str: "a name", dict: "a table of settings", int: "a whole number"}
_PACKAGES = ("stride-rl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "mujoco")


def default_folder(env: str, algo: str, seed: int) -> Path:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return RUNS / f"{env}-{algo}-s{seed}-{now}"


def create(folder: Path, config: dict[str, Any]) -> None:
    """Makes the folder and its config.json. Raises FileExistsError where something is already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = f"; --resume {folder} goes on with it" if (folder / "config.json").exists() else ""
        raise FileExistsError(f"{folder} exists already and is not overwritten{hint}")
    for i in range(config["seeds"]):
        metrics_file(folder, config["seeds"], i).parent.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {**config, **provenance()})


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run. Raises ValueError with one line where there is none, or what is there cannot be one."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a run: it has no config.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} has no settings in it: {config!r:.60}")
    missing = sorted(_CONFIG.keys() - config.keys())
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}")
    for name, kind in _CONFIG.items():
        if type(config[name]) is not kind:
            raise ValueError(f"{file}: {name} must be {_SAID[kind]}, got {config[name]!r:.60}")
    return config


def metrics_file(folder: Path, seeds: int, index: int) -> Path:
    return (folder / f"seed_{index}" if seeds > 1 else folder) / "metrics.jsonl"


def samples_file(folder: Path, seeds: int, index: int) -> Path:
    """What a token learner wrote at its evaluations."""
    return metrics_file(folder, seeds, index).with_name("samples.jsonl")


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Appends and flushes to the disk, so that a checkpoint never knows more than the metrics."""
    if not rows:
        return
    with path.open("a") as f:
        f.writelines(json.dumps(plain(row)) + "\n" for row in rows)
        f.flush()
        os.fsync(f.fileno())


def truncate_rows(path: Path, env_steps: int) -> int:
    """Drops rows later than `env_steps` and lines that are no rows. Returns how many of these there were; a last
    line that was only half written does not count."""
    if not path.exists():
        return 0
    rows, damaged = read_lines(path)
    kept = "".join(json.dumps(row) + "\n" for row in rows if row["env_steps"] <= env_steps)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(kept)
    temporary.replace(path)
    return damaged


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl. Lines that are none are passed over."""
    return read_lines(path)[0]


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a metrics.jsonl, and how many lines are none. Blank ones and a last one under way do not count."""
    rows, damaged = [], 0
    lines = path.read_text(errors="replace").split("\n") if path.exists() else [""]
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError:  # also of a number of thousands of digits
            damaged += bool(line.strip()) and i < len(lines) - 1
            continue
        if isinstance(row, dict) and type(row.get("env_steps")) is int:
            rows.append(row)
        else:
            damaged += 1
    return rows, damaged


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Written beside and renamed: never half a file."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(plain(content), indent=2) + "\n")
    temporary.replace(path)


def plain(x: Any) -> Any:
    """`x` in JSON's own types; NaN and infinities, which JSON lacks, become null."""
    if isinstance(x, dict):
        return {str(k): plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [plain(v) for v in x]
    if isinstance(x, bool | int | str) or x is None:
        return x
    if isinstance(x, Path):
        return str(x)
    x = x.item() if hasattr(x, "item") else x
    return x if not isinstance(x, float) or math.isfinite(x) else None


def provenance() -> dict[str, Any]:
    """What produced the run: commit, versions and the kind of machine (not which machine)."""
    import jax

    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "platform": f"{platform.system()} {platform.machine()}",
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
        },
    }


def short_commit(commit: str | None) -> str:
    """For a page: twelve digits, and whether files were changed since."""
    if commit is None:
        return "unknown"
    digits, dirty, _ = commit.partition("-dirty")
    return digits[:12] + dirty


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _commit() -> str | None:
    """The commit of this source, with "-dirty" where it was changed since; None outside git."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(here.parent), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # Installed into a folder that lies in someone else's repository, that commit says nothing of us.
    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
