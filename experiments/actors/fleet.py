"""The learner's way to its actors; and actors within its own process, which are the same program without Ray."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from experiments.actors.worker import Rollout, Share, Version, Worker


class LostError(Exception):
    """Raised where a rollout was lost: its actor died, or was ended because it hung."""


class FleetError(Exception):
    """Raised where there is no going on with the actors; the message is one line for people to read."""


class Call(NamedTuple):
    """A rollout that was asked for."""

    worker: int
    number: int
    asked_at: float  # monotonic seconds
    handle: Any  # the fleet's own


class Fleet(Protocol):
    """The actors of a run, by number."""

    actors: int

    def send(self, version: Version) -> Any:
        """Returns a reference to a version of the policy, which was sent once for all actors."""

    def ask(self, worker: int, version: Any, number: int) -> Call:
        """Asks an actor for a rollout by the version that a reference stands for, and returns at once."""

    def wait(self, calls: Sequence[Call], timeout: float) -> list[Call]:
        """Returns the calls that are done, in the order of their end; waits for one, at most `timeout` seconds."""

    def fetch(self, call: Call) -> Rollout:
        """Returns the rollout of a call that is done. Raises LostError where there is none, and whatever the actor's
        program raised."""

    def end(self, worker: int) -> None:
        """Ends an actor that does not answer; another takes its place, with fresh environments."""

    def begin(self, worker: int, environments: Any) -> None:
        """Hands environments over to an actor."""

    def environments(self) -> list[Any]:
        """Returns the environments of all actors, in NumPy. Raises LostError where one does not answer."""

    def close(self) -> None:
        """Ends all actors. May be called again."""


class LocalFleet:
    """Actors within this process, which act one after another when they are asked."""

    def __init__(self, shares: Sequence[Share]):
        self.actors = len(shares)
        self.workers = [Worker(share) for share in shares]

    def send(self, version: Version) -> Version:
        """Returns the version itself."""
        return version

    def ask(self, worker: int, version: Version, number: int) -> Call:
        """See `Fleet.ask`; the rollout is collected now."""
        return Call(worker, number, time.monotonic(), self.workers[worker].rollout(version, number))

    def wait(self, calls: Sequence[Call], timeout: float) -> list[Call]:
        """Returns all calls."""
        return list(calls)

    def fetch(self, call: Call) -> Rollout:
        """See `Fleet.fetch`."""
        return call.handle

    def end(self, worker: int) -> None:
        """Does nothing: what hangs here hangs all."""

    def begin(self, worker: int, environments: Any) -> None:
        """See `Fleet.begin`."""
        self.workers[worker].begin(environments)

    def environments(self) -> list[Any]:
        """See `Fleet.environments`."""
        return [worker.environments() for worker in self.workers]

    def close(self) -> None:
        """Does nothing."""
