"""A run's rows of metrics, shown live in TensorBoard or Weights & Biases too. metrics.jsonl stays the record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from experiments.run import folders
from experiments.run.spec import Spec

Kind = Literal["none", "tensorboard", "wandb"]
Track = Callable[[int, list[dict[str, Any]]], None]  # (index of the seed, its new rows)


def require(kind: Kind) -> None:
    """Raises ValueError, before anything is written, where the package that `kind` needs is missing."""
    package = {"tensorboard": "tensorboardX", "wandb": "wandb"}.get(kind)
    if package is None:
        return
    try:
        __import__(package)
    except ImportError:
        raise ValueError(f"--track {kind} needs the extra stride-rl[{kind}]") from None


def start(kind: Kind, folder: Path, spec: Spec) -> Track:
    """Returns a function that is called with new rows. A resumed run goes on in the same place."""
    if kind == "tensorboard":
        return _tensorboard(folder)
    if kind == "wandb":
        return _wandb(folder, spec)
    return lambda seed_index, rows: None


def _tensorboard(folder: Path) -> Track:
    import tensorboardX

    writers: dict[int, Any] = {}

    def track(seed_index: int, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            step = row["env_steps"]
            if seed_index not in writers:
                # Events of steps that a resumed run takes again are dropped.
                writers[seed_index] = tensorboardX.SummaryWriter(
                    str(folder / "tensorboard" / f"seed_{seed_index}"),
                    purge_step=step,
                    flush_secs=1,
                )
            for name, value in _figures(row).items():
                writers[seed_index].add_scalar(name, value, step)

    return track


def _wandb(folder: Path, spec: Spec) -> Track:
    import wandb

    run = wandb.init(
        project="stride",
        # The run's own, for folders of one name are many; older runs have none.
        id=folders.read_config(folder).get("id", folder.name),
        name=folder.resolve().name,
        dir=str(folder),
        config=spec.to_json(),
        resume="allow",
    )
    run.define_metric("*", step_metric="env_steps")

    def track(seed_index: int, rows: list[dict[str, Any]]) -> None:
        prefix = f"seed_{seed_index}/" if spec.seeds > 1 else ""
        for row in rows:
            figures = {f"{prefix}{name}": value for name, value in _figures(row).items()}
            run.log({"env_steps": row["env_steps"], **figures})

    return track


def _figures(row: dict[str, Any]) -> dict[str, float]:
    return {name: x for name, x in row.items() if name != "env_steps" and x is not None}
