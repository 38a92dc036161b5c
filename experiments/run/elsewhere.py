"""A run whose acting is done elsewhere: `--actors K`, see `experiments.actors`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from agents.algorithm import LearnsApart
from experiments.actors import cluster, existing
from experiments.actors.fleet import FleetError
from experiments.actors.learner import Elsewhere, plan
from experiments.actors.meter import Meter
from experiments.actors.worker import Share
from experiments.run.programs import Programs
from experiments.run.spec import Spec, execute, initial_keys

LEARNERS = ("ppo", "impala", "dqn", "sac", "td3", "ddpg")  # whose rollouts others may collect
# Folded into the run's key, from which the learner's own random numbers follow.
_ACTING = 7
_HINT = " (one that only this process knows must come from a file, say --import FILE.py)"


def require(spec: Spec, address: str | None) -> None:
    """Raises ValueError, in one line, where a run cannot have actors."""
    if spec.actors < 0:
        raise ValueError(f"--actors must not be negative, got {spec.actors}")
    if spec.actors == 0:
        for name, given in (("sync", spec.sync), ("address", address is not None)):
            if given:
                raise ValueError(f"--{name} goes with --actors")
        return
    if spec.domain == "tokens" or spec.algo not in LEARNERS:
        raise ValueError(f"--actors goes with {', '.join(LEARNERS)}, not with {spec.algo}")
    for name, most in (("seeds", spec.seeds), ("devices", spec.devices)):
        if most > 1:
            raise ValueError(f"--actors goes with --{name} 1, got {most}")
    envs = spec.config.num_envs
    if envs % spec.actors:
        raise ValueError(f"--actors {spec.actors} do not divide --num-envs {envs} into equal parts")
    cluster.require_ray()
    if address is None:
        cluster.require_cores(spec.actors)
    else:
        existing.require_answer(address)
    as_bytes(spec)


def start(spec: Spec, algo: LearnsApart, programs: Programs, address: str | None) -> None:
    """Starts the actors of a run, from which `programs` learn from now on. Raises FleetError and ValueError, in one
    line, where they cannot be had."""
    envs = spec.config.num_envs // spec.actors
    try:
        fleet = cluster.RayFleet(shares_of(spec, envs, address is None), address)
    except FleetError as error:
        raise FleetError(f"{error}{_HINT if 'unknown' in str(error) else ''}") from None
    programs.elsewhere = learner_of(spec, algo, programs, fleet)
    programs.elsewhere.meter.latency_s = fleet.latency()


def learner_of(spec: Spec, algo: LearnsApart, programs: Programs, fleet: Any) -> Elsewhere:
    """Returns the learning half of a run with a fleet."""
    found = plan(algo, spec.algo, spec.actors, spec.sync)
    meter = Meter(programs.iteration_steps // spec.actors)
    learn = programs.learn(algo)
    return Elsewhere(algo, learn, fleet, found, meter, lambda: programs.compile_s)


def shares_of(spec: Spec, envs: int, local: bool) -> list[Share]:
    """Returns the part of each actor; on this machine each is bound to a core."""
    key = jax.random.fold_in(initial_keys(spec)[0], _ACTING)
    seed = tuple(int(x) for x in np.asarray(jax.random.key_data(key)))
    build = builder(spec)
    return [
        Share(build, i, spec.actors, envs, seed, cluster.cores_of(i) if local else ())
        for i in range(spec.actors)
    ]


def builder(spec: Spec) -> Callable[[], Any]:
    """Returns what makes the run's learner in another process, from plain data."""
    return functools.partial(rebuilt, as_bytes(spec))


def as_bytes(spec: Spec) -> bytes:
    """Returns a spec as it is sent. Raises ValueError, in one line, where it is not plain data."""
    try:
        return json.dumps(spec.to_json()).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"this run cannot be sent to actors ({error}): the environment's options must be plain values"
        ) from None


def rebuilt(spec: bytes) -> Any:
    """Returns the learner of a spec that was sent."""
    stored = json.loads(spec)
    execute(stored.get("imports", ()))
    return Spec.from_json(stored).build()
