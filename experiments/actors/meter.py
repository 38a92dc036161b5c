"""Durations, bytes and idle shares of a run with actors: per update, and of the whole run.

Actors are idle from the end of one rollout to the beginning of the next. The learner waits for rollouts, transfers
(fetches rollouts, joins them, sends parameters) and updates; `learner_other_s` is all else. So the shares of each add
up to its wall clock.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from typing import Any, NamedTuple

from experiments.actors.travel import nbytes
from experiments.actors.worker import Rollout

_KEPT_EVENTS = 20_000
_MEGA = 1e6  # bytes of a megabyte
LEARNER = -1  # the learner's number among the rows of a timeline


class Event(NamedTuple):
    """Something that took time, in seconds of the machine's clock."""

    row: int  # the actor's number, or LEARNER
    what: str  # act, wait, get, put, update
    began: float
    ended: float
    nbytes: int = 0


@dataclasses.dataclass
class Counts:
    """Numbers of events since the counts began; all of them add up.

    A rollout that was asked for is used, dropped, lost, refused or abandoned, or it is under way, or waits to be used.
    """

    updates: int = 0
    steps_acted: int = 0  # environment steps of all rollouts that arrived
    steps_learned: int = 0
    asked: int = 0
    rollouts: int = 0  # that arrived
    used: int = 0
    dropped: int = 0  # too old
    lost: int = 0  # their actor died
    refused: int = 0  # their actor was still gone
    abandoned: int = 0  # under way, or not yet used, when the learner was stopped
    restarts: int = 0
    rollout_bytes: int = 0
    parameter_bytes: int = 0
    acting_s: float = 0.0  # of all actors
    actor_wait_s: float = 0.0
    wait_s: float = 0.0  # of the learner
    get_s: float = 0.0
    put_s: float = 0.0
    join_s: float = 0.0
    update_s: float = 0.0
    recovery_s: float = 0.0  # from losses to the next rollout of the same actor
    lag: dict[str, int] = dataclasses.field(default_factory=dict)  # of used rollouts: lag to number

    def add(self, other: Counts) -> None:
        """Adds other counts to these."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name == "lag":
                both = collections.Counter(mine) + collections.Counter(theirs)
                self.lag = dict(sorted(both.items(), key=lambda item: int(item[0])))
            else:
                setattr(self, field.name, mine + theirs)


class Meter:
    """Measures a run with actors; its methods are called as things happen."""

    def __init__(self, steps_each: int):
        """`steps_each`: environment steps of a rollout."""
        self.steps_each = steps_each
        self.events: collections.deque[Event] = collections.deque(maxlen=_KEPT_EVENTS)
        self.latency_s: float | None = None  # of a call that does nothing
        self.dropped = 0
        self._now = Counts()
        self.total = Counts()
        self._lost_at: dict[int, float] = {}

    def resume(self, before: dict[str, Any]) -> None:
        """Goes on from the counts of a run that was stopped, whose unused rollouts are abandoned."""
        self.total = Counts(**before)
        self.total.abandoned += self.open_rollouts()

    def open_rollouts(self) -> int:
        """Returns the number of rollouts that were asked for and of which nothing has become yet."""
        t = self.total
        return t.asked - t.used - t.dropped - t.lost - t.refused - t.abandoned

    def asked_one(self) -> None:
        """An actor was asked for a rollout."""
        self._now.asked += 1

    def waited(self, began: float, ended: float) -> None:
        """The learner waited for rollouts."""
        self._now.wait_s += ended - began
        self.events.append(Event(LEARNER, "wait", began, ended))

    def received(self, rollout: Rollout, began: float, ended: float) -> None:
        """A rollout arrived, fetched between two moments."""
        size = nbytes(rollout.steps)
        now, times = self._now, rollout.times
        now.rollouts += 1
        now.steps_acted += self.steps_each
        now.rollout_bytes += size
        now.get_s += ended - began
        now.acting_s += times.ended - times.began
        now.actor_wait_s += max(times.began - times.idle_since, 0.0)
        self.events.append(Event(rollout.worker, "wait", times.idle_since, times.began))
        self.events.append(Event(rollout.worker, "act", times.began, times.ended))
        self.events.append(Event(LEARNER, "get", began, ended, size))
        if rollout.worker in self._lost_at:
            now.recovery_s += ended - self._lost_at.pop(rollout.worker)

    def used(self, rollout: Rollout, lag: int) -> None:
        """A rollout became part of a batch."""
        self._now.used += 1
        self._now.steps_learned += self.steps_each
        self._now.lag[str(lag)] = self._now.lag.get(str(lag), 0) + 1

    def lost_one(self, worker: int) -> None:
        """A rollout was lost, and its actor is started again."""
        self._now.lost += 1
        self._now.restarts += 1
        self._lost_at.setdefault(worker, time.time())

    def refused_one(self) -> None:
        """An actor that had been lost was asked for a rollout before it was back."""
        self._now.refused += 1

    def sent(self, size: int, began: float, ended: float) -> None:
        """A version of the policy was sent."""
        self._now.put_s += ended - began
        self._now.parameter_bytes += size
        self.events.append(Event(LEARNER, "put", began, ended, size))

    def joined(self, began: float, ended: float) -> None:
        """The rollouts of a batch were put together."""
        self._now.join_s += ended - began
        self.events.append(Event(LEARNER, "get", began, ended))

    def updated(self, began: float, ended: float) -> None:
        """The learner updated."""
        self._now.updates += 1
        self._now.update_s += ended - began
        self.events.append(Event(LEARNER, "update", began, ended))

    def row(self) -> dict[str, float]:
        """Returns the metrics since the row before, and begins the next."""
        now = self._now
        now.dropped, self.dropped = self.dropped, 0
        self.total.add(now)
        self._now = Counts()
        acted = now.acting_s + now.actor_wait_s
        moved, moving = now.rollout_bytes + now.parameter_bytes, now.get_s + now.put_s
        lags = {int(lag): n for lag, n in now.lag.items()}
        return {
            "actors/rollout_bytes": float(now.rollout_bytes),
            "actors/parameter_bytes": float(now.parameter_bytes),
            "actors/get_ms": 1e3 * now.get_s / max(now.rollouts, 1),
            "actors/put_ms": 1e3 * now.put_s,
            "actors/mb_per_s": moved / _MEGA / max(moving, 1e-9),
            "actors/acting_s": now.acting_s,
            "actors/waiting_s": now.actor_wait_s,
            "actors/idle": now.actor_wait_s / max(acted, 1e-9),
            "actors/lag_mean": sum(lag * n for lag, n in lags.items()) / max(now.used, 1),
            "actors/lag_max": float(max(lags, default=0)),
            "actors/dropped": float(now.dropped),
            "actors/lost": float(now.lost),
            "actors/restarts": float(now.restarts),
            "learner/waiting_s": now.wait_s,
            "learner/transfer_s": now.get_s + now.put_s + now.join_s,
            "learner/update_s": now.update_s,
        }

    def table(self, wall_s: float) -> dict[str, Any]:
        """Returns the figures of the whole run, for summary.json. `wall_s`: seconds of training."""
        t = self.total
        updates, rollouts = max(t.updates, 1), max(t.rollouts, 1)
        transfer = t.get_s + t.put_s + t.join_s
        acted = max(t.acting_s + t.actor_wait_s, 1e-9)
        moving = max(t.get_s + t.put_s, 1e-9)
        return {
            "wall_s": wall_s,
            "rollout_bytes": t.rollout_bytes / rollouts,
            "parameter_bytes": t.parameter_bytes / updates,
            "get_ms": 1e3 * t.get_s / rollouts,
            "put_ms": 1e3 * t.put_s / updates,
            "mb_per_s": (t.rollout_bytes + t.parameter_bytes) / _MEGA / moving,
            "bytes_per_s": (t.rollout_bytes + t.parameter_bytes) / max(wall_s, 1e-9),
            "latency_ms": None if self.latency_s is None else 1e3 * self.latency_s,
            "actor_acting_s": t.acting_s,
            "actor_waiting_s": t.actor_wait_s,
            "actor_idle": t.actor_wait_s / acted,
            "learner_waiting_s": t.wait_s,
            "learner_transfer_s": transfer,
            "learner_update_s": t.update_s,
            "learner_other_s": max(wall_s - t.wait_s - transfer - t.update_s, 0.0),
            "learner_idle": t.wait_s / max(wall_s, 1e-9),
            "lag": t.lag,
            "lag_mean": sum(int(k) * n for k, n in t.lag.items()) / max(t.used, 1),
            "lag_max": max(map(int, t.lag), default=0),
            "updates": t.updates,
            "asked": t.asked,
            "used": t.used,
            "dropped": t.dropped,
            "lost": t.lost,
            "refused": t.refused,
            "abandoned": t.abandoned,
            "open": self.open_rollouts(),
            "restarts": t.restarts,
            "recovery_s": t.recovery_s / t.restarts if t.restarts else None,
            "steps_acted_per_s": t.steps_acted / max(wall_s, 1e-9),
            "steps_learned_per_s": t.steps_learned / max(wall_s, 1e-9),
        }
