"""A run is a folder: config.json, metrics.jsonl, checkpoints/, summary.json, curve.png, video.*

With several seeds, metrics.jsonl is in seed_0/, seed_1/ and so on, and all else at the top.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import math
import os
import shlex
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.console import locks
from experiments.run import checkpoints, schema
from experiments.run.provenance import provenance
from experiments.run.schema import Flag, ListOf, Maybe, Number, TableOf, Whole

RUNS = Path("results/runs")
CONFIG, SUMMARY = "config.json", "summary.json"
_REFERENCE = Maybe(Number())
DATASET = schema.Table(
    {
        "id": schema.NAME,
        "sha256": schema.TEXT,
        "steps": Whole(1),
        "episodes": Whole(1),
        "return_mean": Number(),
        "return_best_decile": Number(),
        "ref_min": _REFERENCE,
        "ref_max": _REFERENCE,
    }
)
_CONFIG = schema.Table(
    {
        "env": schema.NAME,
        "env_kwargs": schema.SETTINGS,
        "algo": schema.NAME,
        "config": schema.SETTINGS,
        "seed": Whole(0),
        "seeds": Whole(1),
    },
    {  # later versions' own, but for the first three
        "commit": Maybe(schema.TEXT),
        "versions": Maybe(TableOf(Maybe(schema.TEXT))),
        "machine": Maybe(schema.SETTINGS),
        "domain": schema.NAME,
        "imports": ListOf(schema.NAME),
        "id": schema.NAME,
        "video": Flag(),
        "track": schema.NAME,
        "files": TableOf(schema.TEXT),
        "inputs": TableOf(schema.TEXT),
        "reward": Maybe(schema.NAME),
        "model": Maybe(schema.NAME),
        "best_of": Whole(1),
        "dataset": Maybe(DATASET),
        "start": Maybe(schema.NAME),
        "seal": Maybe(schema.TEXT),
    },
)
# What makes it the run that it is.
_IDENTITY = (*_CONFIG.needed, "domain", "imports", "reward", "model", "best_of", "dataset", "start")


class LostRowsError(Exception):
    """Raised where a run cannot go on because metrics that it has written are missing."""


def is_run(folder: Path) -> bool:
    """Tells a run's folder from others with a config.json: another file of a run lies beside it, or it names the run's
    settings."""
    file = folder / CONFIG
    if not file.exists():
        return False
    beside = ("metrics.jsonl", SUMMARY, "seed_0", "checkpoints")
    if any((folder / name).exists() for name in beside):
        return True
    try:
        content = schema.parse(file)
    except (OSError, ValueError):
        return True  # damaged, which its reader will say
    return isinstance(content, dict) and bool(content.keys() & {"algo", "env_kwargs", "seeds"})


def has_begun(folder: Path) -> bool:
    """Tells that a run got as far as its first checkpoint; before that there is nothing to resume."""
    return (folder / CONFIG).exists() and checkpoints.begun(folder / "checkpoints")


def is_finished(folder: Path) -> bool:
    """Tells that a run has its summary, which is written last."""
    return (folder / SUMMARY).exists()


def default_folder(env: str, algo: str, seed: int) -> Path:
    """Returns the name of a new run's folder; `reserve` makes it."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return RUNS / f"{env}-{algo}-s{seed}-{now}"


def reserve(folder: Path) -> Path:
    """Makes a new folder of that name, with a number appended where another run has the name, and returns it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for i in itertools.count(1):
        numbered = folder if i == 1 else folder.with_name(f"{folder.name}-{i}")
        with contextlib.suppress(FileExistsError):
            numbered.mkdir()
            return numbered
    raise AssertionError("not reached")


def refuse_taken(folder: Path, config: dict[str, Any]) -> None:
    """Raises FileExistsError where something is in the folder already but a lock.

    `config`: of the run that wants it."""
    if folder.is_dir():
        if all(path.name in locks.NAMES for path in folder.iterdir()):
            return
    elif not os.path.lexists(folder):
        return
    hint = ": choose another --out"
    if (folder / CONFIG).exists() and _same_run(folder, config):
        hint = f"; --resume {quoted(folder)} continues it"
    raise FileExistsError(f"{folder} exists already and is not overwritten{hint}")


def create(folder: Path, config: dict[str, Any]) -> None:
    """Makes the folder and its config.json. Raises FileExistsError where something is already."""
    refuse_taken(folder, config)
    for i in range(config["seeds"]):
        metrics_file(folder, config["seeds"], i).parent.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, {**config, "id": uuid.uuid4().hex, **provenance()})


def discard(folder: Path, seeds: int) -> None:
    """Removes what a new run has written that failed before it learned anything; what others put there stays."""
    for name in ("checkpoints", "tensorboard", "wandb"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for i in range(seeds):
        file = metrics_file(folder, seeds, i)
        for path in (file, samples_file(folder, seeds, i)):
            path.unlink(missing_ok=True)
        if file.parent != folder:
            with contextlib.suppress(OSError):
                file.parent.rmdir()
    for name in (CONFIG, "config.tmp"):
        (folder / name).unlink(missing_ok=True)
    locks.remove(folder)
    with contextlib.suppress(OSError):  # not empty
        folder.rmdir()


def _same_run(folder: Path, config: dict[str, Any]) -> bool:
    """Tells that `folder` holds the run that `config` describes."""
    try:
        stored = read_config(folder)
    except (ValueError, OSError):
        return False
    wanted = plain(config)
    return all(stored.get(name) == wanted.get(name) for name in _IDENTITY)


def read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json of a run. Raises ValueError with one line where there is none, or its content cannot be one."""
    file = folder / CONFIG
    try:
        config = schema.parse(file)
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a run: it has no {CONFIG}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} has no settings in it: {config!r:.60}")
    schema.require(config, _CONFIG, file)
    return config


def metrics_file(folder: Path, seeds: int, index: int) -> Path:
    """Returns the path of a seed's metrics.jsonl."""
    return (folder / f"seed_{index}" if seeds > 1 else folder) / "metrics.jsonl"


def samples_file(folder: Path, seeds: int, index: int) -> Path:
    """Returns the path of a seed's samples.jsonl, the responses of a token learner at its evaluations."""
    return metrics_file(folder, seeds, index).with_name("samples.jsonl")


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Appends and flushes to the disk, so that a checkpoint never knows more than the metrics."""
    if not rows:
        return
    with naming(path), path.open("a") as f:
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
    _replace(path, kept)
    return damaged


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a metrics.jsonl, without lines that are no rows."""
    return read_lines(path)[0]


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Returns the rows of a metrics.jsonl, and the number of lines that are no rows. Blank lines and a half-written
    last one do not count."""
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


def require_rows(path: Path, written: int, first: int, at_start: bool) -> None:
    """Checks that a run has the rows that its checkpoint knows of: without them curve and summary would be wrong.

    Args:
      path: a metrics.jsonl.
      written: environment steps of the newest row that was written before the checkpoint.
      first: environment steps before the first iteration.
      at_start: whether there must be a row of that, too.

    Raises LostRowsError.
    """
    steps = {row["env_steps"] for row in read_rows(path)}
    if written > first and written not in steps:
        lost = "the rows up to its newest checkpoint"
    elif at_start and first not in steps:
        lost = "the row from before training"
    else:
        return
    raise LostRowsError(
        f"{path} lacks {lost}, without which the run cannot continue: put the file back, or begin a new run"
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON atomically: to a temporary file, which is then renamed."""
    _replace(path, json.dumps(plain(content), indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    with naming(path):
        try:
            temporary.write_text(text)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raises errors of the system, a full disk say, with the name of the file that was being written."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def quoted(path: Path | str) -> str:
    """Returns a path as an argument that can be pasted into a shell."""
    text = str(path)
    text = f"./{text}" if text.startswith("-") else text
    if text.isprintable():
        return shlex.quote(text)
    signs = (
        x if x.isprintable() and x not in "\\'" else "".join(f"\\x{b:02x}" for b in os.fsencode(x))
        for x in text
    )
    return f"$'{''.join(signs)}'"


def plain(x: Any) -> Any:
    """Returns `x` in JSON's own types; NaN and infinities, which JSON lacks, become null."""
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
