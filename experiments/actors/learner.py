"""The learning half of a run with actors: it takes the place of the compiled chunk of iterations."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from agents.algorithm import LearnsApart
from experiments.actors import shares
from experiments.actors.collector import Collector, Rules
from experiments.actors.fleet import Fleet, LostError
from experiments.actors.meter import Meter
from experiments.actors.travel import nbytes, to_device, to_host
from experiments.actors.worker import Rollout, Version

# Updates by which a rollout may be behind: PPO's ratio is clipped, V-trace's weighted, a replay buffer's data are old.
MAX_LAG = {"ppo": 1, "impala": 4}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The division of a run among actors. `envs`: environments of an actor."""

    actors: int
    envs: int
    rules: Rules


def plan(algo: LearnsApart, name: str, actors: int, sync: bool) -> Plan:
    """Returns the plan of a run of the algorithm called `name`."""
    replays = algo.buffer_bytes() > 0  # type: ignore[attr-defined]
    rules = Rules(sync=sync, max_lag=MAX_LAG.get(name), one_of_each=replays)
    return Plan(actors, algo.config.num_envs // actors, rules)  # type: ignore[attr-defined]


class Elsewhere:
    """Learns from the rollouts of a fleet. One seed: the states have a leading axis of 1."""

    def __init__(
        self,
        algo: LearnsApart,
        learn: Callable[[Any, Any], tuple[Any, dict[str, Any]]],
        fleet: Fleet,
        plan: Plan,
        meter: Meter,
        compile_s: Callable[[], float] = lambda: 0.0,
    ):
        """See `Elsewhere`.

        Args:
          learn: (states, steps) to (states, metrics), `algo.improve` over the axis of seeds; compiled at its
            first call.
          compile_s: seconds spent compiling so far, which are no part of an update.
        """
        self.algo, self.fleet, self.plan, self.meter = algo, fleet, plan, meter
        self._learn, self._compile_s = learn, compile_s
        self.collector: Collector | None = None  # from the first iteration on

    def advance(self, states: Any, n: int) -> tuple[Any, dict[str, np.ndarray]]:
        """Returns the states after `n` iterations, and metrics [n, 1]."""
        rows = []
        for _ in range(n):
            states, row = self._iterate(states)
            rows.append(row)
        return states, {name: np.array([[row[name]] for row in rows]) for name in rows[0]}

    def settled(self, states: Any) -> Any:
        """Returns the states with the actors' environments, so that a synchronous run that is resumed from them goes on
        as if it had never been stopped. Asynchronous actors, which are under way, begin with fresh ones."""
        if not self.plan.rules.sync or self.collector is None:
            return states
        try:
            environments = shares.together(self.fleet.environments(), axis=0)
        except LostError:  # an actor has died with its own: those of the last checkpoint stay
            return states
        environments = jax.tree.map(lambda x: x[None], to_device(environments))
        return self.algo.with_environments(states, environments)

    def close(self) -> None:
        """Ends the actors."""
        self.fleet.close()

    def _begin(self, states: Any) -> Collector:
        """Hands the environments over, and the first version of the policy."""
        state = jax.tree.map(lambda x: x[0], states)
        iteration = self._iteration(state)
        if self.plan.rules.sync or iteration == 0:
            environments = to_host(self.algo.environments(state))
            for i in range(self.plan.actors):
                self.fleet.begin(i, shares.part(environments, i, self.plan.actors))
        first = iteration if self.plan.rules.sync else 0
        return Collector(self.fleet, self.plan.rules, self.meter, first)

    def _iteration(self, state: Any) -> int:
        steps = int(state.env_steps) - self.algo.warmup_steps  # type: ignore[attr-defined]
        return steps // self.algo.iteration_steps  # type: ignore[attr-defined]

    def _iterate(self, states: Any) -> tuple[Any, dict[str, float]]:
        """Returns the states after one batch and one update, and the metrics of both."""
        if self.collector is None:
            self.collector = self._begin(states)
            self._publish(states)
        rollouts = self.collector.batch()
        states = self._interrupted(states, rollouts)
        began = time.time()
        steps = shares.together([rollout.steps for rollout in rollouts], axis=1)
        steps = jax.tree.map(lambda x: x[None], steps)
        self.meter.joined(began, time.time())
        began, compiled = time.time(), self._compile_s()
        states, metrics = jax.block_until_ready(self._learn(states, steps))
        self.meter.updated(began + self._compile_s() - compiled, time.time())
        self._publish(states)
        acted = shares.joined_metrics([r.metrics for r in rollouts], self.plan.envs)
        learned = {name: float(x[0]) for name, x in jax.device_get(metrics).items()}
        return states, acted | learned | self.meter.row()

    def _interrupted(self, states: Any, rollouts: list[Rollout]) -> Any:
        """Returns the states told of environments that were lost, where that matters: in a replay buffer."""
        interrupted = getattr(self.algo, "interrupted", None)
        for rollout in rollouts:
            if rollout.fresh and interrupted:
                begin = rollout.worker * self.plan.envs
                columns = begin, begin + self.plan.envs
                states = jax.vmap(lambda state, at=columns: interrupted(state, *at))(states)
        return states

    def _publish(self, states: Any) -> None:
        assert self.collector is not None
        began = time.time()
        state = jax.tree.map(lambda x: x[0], (states.actor, states.env_steps))
        number = (int(state[1]) - self.algo.warmup_steps) // self.algo.iteration_steps  # type: ignore[attr-defined]
        actor = to_host(state[0])
        self.collector.publish(Version(number, actor))
        self.meter.sent(nbytes(actor), began, time.time())
