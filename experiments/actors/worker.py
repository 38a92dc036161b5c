"""An actor: its environments, the policy that it was last sent, and one rollout at a time."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.actors.shares import apex_epsilon, rollout_key
from experiments.actors.travel import to_device, to_host


class Version(NamedTuple):
    """A policy as actors are sent it: parameters, and the statistics that belong to them."""

    number: int  # updates before it
    actor: Any  # the learner's `state.actor`, in NumPy


class Times(NamedTuple):
    """Moments of a rollout, in seconds of the machine's clock."""

    idle_since: float  # the end of the rollout before
    began: float
    ended: float


class Rollout(NamedTuple):
    """A rollout as it travels."""

    worker: int
    number: int  # of this actor's rollouts
    version: int
    steps: Any  # NumPy leaves [T, N / actors, ...]
    metrics: dict[str, float]
    times: Times
    fresh: bool = False  # its environments are others than those of the rollout before
    pid: int = 0  # of the actor's process


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of a run that an actor does."""

    build: Callable[[], Any]  # makes the learner, whose `collect` acts
    index: int
    actors: int
    envs: int  # environments of this actor
    seed: tuple[int, ...]  # data of the key from which its random numbers follow
    cores: Sequence[int] = ()  # it may run on; (): any


class Worker:
    """An actor. Calls follow one another: it acts, or it waits."""

    def __init__(self, share: Share):
        if share.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, share.cores)
        self.share = share
        self.algo = as_actor(share.build(), share.index, share.actors)
        self.key = jax.random.wrap_key_data(jax.numpy.asarray(share.seed, np.uint32))
        self._collect = jax.jit(self.algo.collect, donate_argnums=(1,))
        self._environments: Any = None
        self._idle_since = time.time()

    def ping(self) -> int:
        """Returns the process's id, and does nothing."""
        return os.getpid()

    def begin(self, environments: Any) -> None:
        """Takes over environments, leaves [N / actors, ...]; without this, it starts fresh ones."""
        self._environments = to_device(environments)

    def environments(self) -> Any:
        """Returns the environments as they are, in NumPy."""
        return to_host(self._environments)

    def rollout(self, version: Version, number: int) -> Rollout:
        """Returns a rollout by a version of the policy. `number` decides its random numbers."""
        began = time.time()
        key = rollout_key(self.key, self.share.index, number)
        fresh = self._environments is None
        if fresh:
            # A process that has died has lost its own. Another key: this one's rollout is collected below.
            fresh_key = jax.random.fold_in(key, os.getpid())
            self._environments = jax.jit(self.algo.fresh, static_argnums=1)(
                fresh_key, self.share.envs
            )
        actor = to_device(version.actor)
        self._environments, steps, metrics = self._collect(actor, self._environments, key)
        steps, metrics = to_host(steps), jax.device_get(metrics)
        ended = time.time()
        rollout = Rollout(
            self.share.index,
            number,
            version.number,
            steps,
            {name: float(x) for name, x in metrics.items()},
            Times(self._idle_since, began, ended),
            fresh,
            os.getpid(),
        )
        self._idle_since = ended
        return rollout


def as_actor(algo: Any, index: int, actors: int) -> Any:
    """Returns the learner as an actor explores with it: one that acts by epsilon has one of its own."""
    if actors == 1 or not hasattr(algo.config, "epsilon_fraction"):
        return algo
    config = dataclasses.replace(
        algo.config, epsilon_end=apex_epsilon(index, actors), epsilon_fraction=0.0
    )
    return type(algo)(config, algo.env)
