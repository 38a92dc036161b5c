"""Sessions in which actors are killed, or hang, at random moments of acting and waiting."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time
from typing import Any

import jax
import numpy as np

from experiments.actors import cluster
from experiments.actors.meter import Meter
from experiments.actors.worker import Rollout
from experiments.run import elsewhere
from experiments.run.programs import Programs, programs_of
from experiments.run.spec import Spec, algorithm, initial_keys
from experiments.studies.faults.session import (
    ACTORS,
    ALGO,
    ENV,
    PATIENCE,
    SETTINGS,
    Fault,
    Session,
    checked,
    counted,
    seconds_until_gone,
)

HANG_SECONDS = 5.0  # after which an actor is given up, here; a run gives it 120
_MOST_SECONDS = 2.0  # of training before a fault
_WARM_UP = 3  # iterations


class Watching(Meter):
    """A meter that knows which rollouts were used, and from which process an actor's newest came."""

    def __init__(self, steps_each: int):
        super().__init__(steps_each)
        self.used_rollouts: list[tuple[int, int]] = []
        self.process: dict[int, int] = {}  # of an actor

    def received(self, rollout: Rollout, began: float, ended: float) -> None:
        """See `Meter.received`."""
        super().received(rollout, began, ended)
        self.process[rollout.worker] = rollout.pid

    def used(self, rollout: Rollout, lag: int) -> None:
        """See `Meter.used`."""
        super().used(rollout, lag)
        self.used_rollouts.append((rollout.worker, rollout.number))


def session(number: signal.Signals, faults: int, seed: int) -> Session:
    """Returns a session in which actors are sent a signal: SIGKILL, or SIGSTOP, which lets them hang."""
    config = algorithm(ALGO).Config(**SETTINGS)
    spec = Spec(ENV, {}, ALGO, config, seed, 1, actors=ACTORS)
    algo = spec.build()
    programs = programs_of(spec, algo)
    states = programs.init(initial_keys(spec))
    elsewhere.start(spec, algo, programs, None)
    folders = cluster.folders_of(os.getpid())
    learner = programs.elsewhere
    assert learner is not None
    meter = learner.meter = Watching(programs.iteration_steps // ACTORS)
    rules = dataclasses.replace(learner.plan.rules, hang_seconds=HANG_SECONDS)
    rng = random.Random(seed)
    found: list[Fault] = []
    try:
        states, _ = programs.advance(states, _WARM_UP)
        assert learner.collector is not None
        learner.collector.rules = rules  # from now on: at first, actors compile
        while len(found) < faults:
            states, struck = _strike(programs, states, meter, number, rng)
            found += struck
    finally:
        programs.close()
    counts = meter.total
    left = seconds_until_gone(folders)
    checks = checked(counts, meter, int(states.env_steps[0]), meter.steps_each) | {
        "no rollout is used twice": len(set(meter.used_rollouts)) == len(meter.used_rollouts),
        "every fault is noticed": counts.restarts >= faults,
        "parameters are finite": all(
            np.isfinite(x).all() for x in map(np.asarray, jax.tree.leaves(states.params))
        ),
        "no process and no file is left": bool(folders) and left is not None,
    }
    return Session(found, counted(counts, meter), checks)


def _strike(
    programs: Programs, states: Any, meter: Watching, number: signal.Signals, rng: random.Random
) -> tuple[Any, list[Fault]]:
    """Trains, sends each actor the signal, each at a moment of its own, and trains until rollouts come from the
    processes that take their places. Returns the states and the faults."""
    began = time.monotonic()
    at = {actor: rng.uniform(0.0, _MOST_SECONDS) for actor in range(ACTORS)}
    before: dict[int, int] = {}  # processes that were sent it
    struck: dict[int, float] = {}
    back: dict[int, float] = {}
    while len(back) < ACTORS and time.monotonic() - began < PATIENCE:
        for actor in at:
            if actor not in before and time.monotonic() - began > at[actor]:
                before[actor], struck[actor] = meter.process[actor], time.monotonic()
                os.kill(before[actor], number)
        states, _ = programs.advance(states, 1)
        for actor in before.keys() - back.keys():
            if meter.process[actor] != before[actor]:
                back[actor] = time.monotonic() - struck[actor]
    return states, [Fault(at[actor], back.get(actor)) for actor in at]
