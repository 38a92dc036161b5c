"""A session: some faults of one kind in one run, and whether all that was asked for is accounted for."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.actors import guardian
from experiments.actors.meter import Counts, Meter

PATIENCE = 180.0  # seconds until a fault counts as one from which there is no recovery
_GONE_SECONDS = 30.0  # until processes and files count as left behind
ENDS = ("used", "dropped", "lost", "refused", "abandoned")

# CartPole by PPO, so small that a fault takes seconds.
ENV, ALGO, ACTORS = "CartPole-v1", "ppo", 2
SETTINGS = {
    "num_envs": 8,
    "num_steps": 32,
    "num_minibatches": 2,
    "num_epochs": 1,
    "hidden_sizes": (8,),
    "total_steps": 4_000_000,
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault. Seconds are None where the run did not go on, or something was left."""

    after_s: float  # since the run went on from the fault before
    recovery_s: (
        float | None
    )  # until the lost actor's next rollout arrives; or a new row of metrics after the resume
    clean_s: float | None = None  # until no process and no file of a killed learner is left


@dataclasses.dataclass(frozen=True)
class Session:
    """The faults of one run, and its account at the end."""

    faults: list[Fault]
    counts: dict[str, int]  # of rollouts
    checks: dict[str, bool]

    def to_json(self) -> dict[str, Any]:
        """Returns the session in JSON's types."""
        return dataclasses.asdict(self)


def checked(counts: Counts, meter: Meter, steps: int, steps_each: int) -> dict[str, bool]:
    """Returns the checks that counts alone allow.

    Args:
      meter: holds the counts, and knows how many rollouts are open.
      steps: environment steps of the learner's state, without a warm-up.
      steps_each: environment steps of a rollout.
    """
    return {
        "a batch is one rollout of each actor's worth": counts.used == ACTORS * counts.updates,
        "steps of the state are those of the rollouts used": steps == counts.used * steps_each,
        "steps learned are those of the rollouts used": (
            counts.steps_learned == counts.used * steps_each
        ),
        "all rollouts asked for are accounted for": 0 <= meter.open_rollouts() <= 2 * ACTORS,
    }


def counted(counts: Counts, meter: Meter) -> dict[str, int]:
    """Returns the numbers of rollouts, by what became of them."""
    ends = {name: int(getattr(counts, name)) for name in ENDS}
    return {"asked": counts.asked, **ends, "open": meter.open_rollouts()}


def seconds_until_gone(folders: Iterable[Path]) -> float | None:
    """Returns the seconds until Ray's folders and the processes that write to them are gone; None: they are not."""
    kept, began = list(folders), time.monotonic()
    while time.monotonic() - began < _GONE_SECONDS:
        if not any(folder.exists() or guardian.processes_of(folder) for folder in kept):
            return time.monotonic() - began
        time.sleep(0.1)
    return None
