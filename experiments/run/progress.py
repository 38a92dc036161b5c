"""The progress of a run, apart from its state."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.evaluation import metrics, nonfinite
from experiments.run import goals


@dataclasses.dataclass
class Progress:
    """The progress of a run, apart from its state. Plain JSON; kept with each checkpoint."""

    iteration: int = 0
    wall_clock_s: float = 0.0
    compile_s: float = 0.0
    train_s: float = 0.0  # spent in chunks
    pending: metrics.Pending = dataclasses.field(default_factory=dict)
    tally: nonfinite.Tally = dataclasses.field(default_factory=nonfinite.Tally)
    reached: goals.Reached = dataclasses.field(default_factory=dict)
    actors: dict[str, Any] = dataclasses.field(default_factory=dict)  # counts of a run with actors

    @classmethod
    def restored(cls, stored: dict[str, Any]) -> Progress:
        """Reads the progress of a checkpoint, also of one from before there was a tally, or goals."""
        return cls(**{**stored, "tally": nonfinite.Tally(**stored.get("tally", {}))})


def total_iterations(total_steps: int, algo: Any) -> int:
    """Returns the number of whole iterations, rounded up, after the steps taken before learning starts."""
    return max(1, -(-(total_steps - env_steps(algo, 0)) // algo.iteration_steps))


def env_steps(algo: Any, iterations: int) -> int:
    """Returns the environment steps taken by the end of `iterations`, those of `algo.init` included."""
    return algo.warmup_steps + iterations * algo.iteration_steps
