"""Which rollouts make the next batch: the oldest first, none twice, and none that is too old.

A batch is one rollout of each actor's worth of environments, as many as there are actors. `sync`: one from each actor,
by the newest version, in the actors' order. Else actors go on while the learner learns, and a batch is made of the
oldest rollouts there are, whoever collected them; or, where rows of a replay buffer must stay an environment's own, of
the oldest of each actor. The lag of a rollout is the number of updates since its version, when it is used; above
`max_lag` it is dropped and counted.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from experiments.actors.fleet import Call, Fleet, FleetError, LostError
from experiments.actors.meter import Meter
from experiments.actors.worker import Rollout, Version

_RETRY_SECONDS = 0.5  # after an actor was lost, until it is asked again
_MOST_FAILURES = 60  # of an actor, one after another
_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Rules:
    """Rules by which rollouts become batches."""

    sync: bool = False
    max_lag: int | None = None  # updates; None: no bound
    one_of_each: bool = False  # a batch has one rollout of each actor
    in_flight: int = 1  # rollouts that an actor is asked for beforehand
    hang_seconds: float = 120.0  # an actor that takes longer for a rollout is ended
    start_seconds: float = (
        300.0  # the same, of a process's first rollout: it may have to start, and to compile
    )


class Collector:
    """Asks actors for rollouts, and deals batches out."""

    def __init__(self, fleet: Fleet, rules: Rules, meter: Meter, first: int = 0):
        self.fleet, self.rules, self.meter = fleet, rules, meter
        self.version = -1
        self._reference: Any = None
        self._calls: list[Call] = []
        self._ready: list[Rollout] = []
        actors = range(fleet.actors)
        self._next = [first for _ in actors]  # number of each actor's next rollout
        self._again: list[int | None] = [None for _ in actors]  # a number that was lost
        self._ask_at = [0.0 for _ in actors]
        self._failures = [0 for _ in actors]
        self._at_work = [False for _ in actors]  # a rollout has come since it was started
        self._ended: set[tuple[int, int]] = set()  # actors and rollouts that were given up

    def publish(self, version: Version) -> None:
        """Makes a version the one that actors are asked to act by."""
        self._reference = self.fleet.send(version)
        self.version = version.number

    def batch(self) -> list[Rollout]:
        """Returns the rollouts of the next batch, in the order of its columns. Raises FleetError where an actor fails
        again and again, and whatever an actor's program raised."""
        while True:
            self._ask()
            chosen = self._choose()
            if chosen is not None:
                return chosen
            self._receive()

    def _ask(self) -> None:
        for worker in range(self.fleet.actors):
            while self._may_ask(worker):
                number = self._again[worker]
                if number is None:
                    number = self._next[worker]
                    self._next[worker] += 1
                self._again[worker] = None
                self._calls.append(self.fleet.ask(worker, self._reference, number))
                self.meter.asked_one()

    def _may_ask(self, worker: int) -> bool:
        if time.monotonic() < self._ask_at[worker]:
            return False
        calls = sum(call.worker == worker for call in self._calls)
        if self.rules.sync:
            # One rollout for each version, whose number it has.
            lost = self._again[worker] is not None
            return calls == 0 and (lost or self._next[worker] <= self.version)
        waiting = sum(rollout.worker == worker for rollout in self._ready)
        return calls < self.rules.in_flight and calls + waiting <= self.rules.in_flight

    def _choose(self) -> list[Rollout] | None:
        """Returns the rollouts of a batch, or None where there are not enough."""
        fresh = []
        for rollout in self._ready:
            lag = self.version - rollout.version
            if self.rules.max_lag is not None and lag > self.rules.max_lag:
                self.meter.dropped += 1
            else:
                fresh.append(rollout)
        # By version, and of equal ones by their arrival: sorting is stable.
        self._ready = sorted(fresh, key=lambda rollout: rollout.version)
        wanted = self.fleet.actors
        if self.rules.sync or self.rules.one_of_each:
            first = {r.worker: r for r in reversed(self._ready)}
            chosen = [first[worker] for worker in sorted(first)]
        else:
            chosen = self._ready[:wanted]
        if len(chosen) < wanted:
            return None
        taken = {id(rollout) for rollout in chosen}
        self._ready = [rollout for rollout in self._ready if id(rollout) not in taken]
        for rollout in chosen:
            self.meter.used(rollout, self.version - rollout.version)
        return chosen

    def _receive(self) -> None:
        began = time.time()
        done = self.fleet.wait(self._calls, _POLL_SECONDS) if self._calls else []
        if not self._calls:
            time.sleep(_POLL_SECONDS)
        self.meter.waited(began, time.time())
        for call in done:
            self._calls.remove(call)
            began = time.time()
            try:
                rollout = self.fleet.fetch(call)
            except LostError as error:
                self._lost(call, error)
                continue
            self._failures[call.worker] = 0
            self._at_work[call.worker] = True
            self.meter.received(rollout, began, time.time())
            self._ready.append(rollout)
        for call in self._calls:
            rules, at_work = self.rules, self._at_work[call.worker]
            most = rules.hang_seconds * rules.in_flight if at_work else rules.start_seconds
            late = time.monotonic() - call.asked_at > most
            if late and call[:2] not in self._ended:
                self._ended.add(call[:2])
                self.fleet.end(call.worker)

    def _lost(self, call: Call, error: LostError) -> None:
        """Counts a rollout that was lost, and has the actor asked for it again when it is back."""
        if self._failures[call.worker] == 0:
            self.meter.lost_one(call.worker)
        else:
            self.meter.refused_one()
        self._failures[call.worker] += 1
        self._ended.discard(call[:2])
        self._at_work[call.worker] = False
        if self._failures[call.worker] > _MOST_FAILURES:
            raise FleetError(f"actor {call.worker} does not come back: {error}")
        # Asked for again by its number: in step with the others, or none of its random numbers is left out.
        self._again[call.worker] = call.number
        self._ask_at[call.worker] = time.monotonic() + _RETRY_SECONDS
