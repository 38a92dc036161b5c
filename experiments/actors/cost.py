"""A model of what a run with actors costs: computing, transfer, waiting.

One learner, K hosts that act. Of one update:

    collect   a / K        seconds in which K hosts together collect a batch that takes one of them `a` seconds
    transfer  max(B, K P) / bandwidth + latency
                           the batch's B bytes come in by the learner's own link, P bytes of parameters go out to
                           each host; both directions at once
    update    u            seconds in which the learner learns from the batch

    sync      T = collect + transfer + update            one waits for the other
    async     T = max(collect, transfer, update)         all three go on at once, and the slowest decides

With `grow` each host brings a batch of its own: B, u and the steps of an update are K times those of one, and
collecting takes `a`. On one machine, whose `cores` all share, T is at least the work of all, K collectors and the
learner, divided by the cores. One process without actors takes a + u.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

_BITS = 8e-9  # gigabits of a byte
NETWORKS = (1.0, 10.0, 100.0)  # gigabits a second
HOSTS = (1, 2, 4, 8, 16, 32, 64)

Bound = Literal["collect", "transfer", "update", "cores", "all in turn"]


@dataclasses.dataclass(frozen=True)
class Costs:
    """The costs of one update of a run, measured with one actor."""

    collect_s: float  # a: one host collects the whole batch
    update_s: float  # u
    batch_bytes: float  # B
    parameter_bytes: float  # P
    latency_s: float = 0.0  # of a call, there and back
    batch_steps: float = 1.0  # environment steps of the batch


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The model's prediction for a number of hosts."""

    hosts: int
    seconds: float  # T, of an update
    steps_per_s: float
    speed_up: float  # over one process that collects and updates in turn
    efficiency: float  # speed-up over the number of hosts
    bound: Bound  # what T is made of: the slowest part
    actor_idle: float  # share of the time in which a host waits
    learner_idle: float  # share of the time in which the learner does not update


def predict(
    costs: Costs,
    hosts: int,
    gigabits: float | None,
    *,
    sync: bool = False,
    grow: bool = False,
    cores: int | None = None,
) -> Prediction:
    """Returns the prediction for a number of hosts.

    Args:
      gigabits: bandwidth of the learner's link, in gigabits a second; None: no limit, as on one machine.
      grow: each host brings a batch of its own.
      cores: of the one machine on which all run; None: every host has its own.
    """
    size = hosts if grow else 1
    collect = costs.collect_s if grow else costs.collect_s / hosts
    update = costs.update_s * size
    traffic = max(costs.batch_bytes * size, costs.parameter_bytes * hosts)
    transfer = costs.latency_s + (0.0 if gigabits is None else traffic * _BITS / gigabits)
    parts: dict[Bound, float] = {"collect": collect, "transfer": transfer, "update": update}
    if cores is not None:
        parts["cores"] = (costs.collect_s * size + update) / cores
    bound: Bound = max(parts, key=lambda name: parts[name])
    seconds = parts[bound]
    if sync:
        bound, seconds = "all in turn", collect + transfer + update
        if cores is not None and hosts > cores:
            seconds += costs.collect_s * size / cores - collect
    steps = costs.batch_steps * size
    alone = costs.batch_steps / (costs.collect_s + costs.update_s)
    speed_up = steps / seconds / alone
    return Prediction(
        hosts,
        seconds,
        steps / seconds,
        speed_up,
        speed_up / hosts,
        bound,
        max(1.0 - collect / seconds, 0.0),
        max(1.0 - update / seconds, 0.0),
    )


def most_hosts(costs: Costs, gigabits: float, *, grow: bool = False, limit: int = 4096) -> int:
    """Returns the largest number of hosts that gains more from another one than the link or the learner takes: as long
    as collecting is the slowest part. 0: not even one host is what the others wait for."""
    hosts = 0
    while hosts < limit:
        found = predict(costs, hosts + 1, gigabits, grow=grow)
        if found.bound != "collect":
            break
        hosts += 1
    return hosts


def gigabits_needed(costs: Costs, hosts: int, *, grow: bool = False) -> float:
    """Returns the bandwidth, in gigabits a second, from which on the link is not the slowest part."""
    free = predict(costs, hosts, None, grow=grow)
    size = hosts if grow else 1
    traffic = max(costs.batch_bytes * size, costs.parameter_bytes * hosts)
    return traffic * _BITS / max(free.seconds - costs.latency_s, 1e-12)
