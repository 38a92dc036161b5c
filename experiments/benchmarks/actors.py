"""A run with actors, measured: durations, bytes, idle shares, and what a model of these predicts for more hosts.

The walker by PPO with its preset. First one process, which collects and updates in turn; then actors on this machine,
in step (`sync`) and at once, each for some seconds after a warm-up. What one actor in step costs makes the model
(`experiments.actors.cost`), whose predictions stand beside what was measured here, and go on where no machine was.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import jax

from agents.algorithm import CollectsApart
from envs.cores import usable_cores
from experiments.actors.cost import HOSTS, NETWORKS, Costs, gigabits_needed, most_hosts, predict
from experiments.actors.travel import to_host
from experiments.actors.worker import Version
from experiments.pages.markdown import table
from experiments.run import elsewhere
from experiments.run.presets import preset
from experiments.run.programs import Programs, programs_of
from experiments.run.spec import Spec, algorithm, initial_keys

COUNTS = (1, 2, 4, 8, 14)
_WARM_UP = 3  # iterations
_PATIENCE = 60.0  # seconds until a killed actor has to be back

Figures = dict[str, Any]


def bench_actors(
    seconds: float,
    save: Callable[[Figures], None] = lambda figures: None,
    env: str = "walker",
    algo: str = "ppo",
) -> Figures:
    """Returns all figures, and prints them as tables. `seconds`: length of one measurement."""
    spec = Spec(env, {}, algo, preset(env, algo, algorithm(algo).Config), 0, 1)
    figures: Figures = {"cores": usable_cores(), "single": one_process(spec, seconds)}
    print(f"one process: {figures['single']['steps_per_s']:,.0f} steps/s", flush=True)
    counts = [n for n in COUNTS if n <= usable_cores() and spec.config.num_envs % n == 0]
    for actors in counts:
        for sync in (True, False):
            name = f"{actors}{'-sync' if sync else ''}"
            one = dataclasses.replace(spec, actors=actors, sync=sync)
            kills = actors == counts[-1] and not sync
            figures[name] = with_actors(one, seconds, kills) | {"actors": actors, "sync": sync}
            save(figures)
            print(f"{name} actors: {figures[name]['steps_learned_per_s']:,.0f} steps/s", flush=True)
    costs = costs_of(figures["1-sync"], spec)
    figures["model"] = dataclasses.asdict(costs)
    figures["predicted"] = predictions(costs)
    save(figures)
    print(
        measured_table(figures), checked_table(figures, costs), predicted_table(costs), sep="\n\n"
    )
    return figures


def one_process(spec: Spec, seconds: float) -> Figures:
    """Measures training without actors, and the rollout's share of it."""
    algo = spec.build()
    programs = programs_of(spec, algo)
    states = programs.init(initial_keys(spec))
    states, _ = jax.block_until_ready(programs.advance(states, _WARM_UP))
    n, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        states, _ = jax.block_until_ready(programs.advance(states, 1))
        n += 1
    iteration_s = (time.perf_counter() - began) / n
    collect_s = None
    if isinstance(algo, CollectsApart):
        jax.block_until_ready(programs.collect(states))
        began = time.perf_counter()
        for _ in range(3):
            jax.block_until_ready(programs.collect(states))
        collect_s = (time.perf_counter() - began) / 3
    return {
        "iteration_s": iteration_s,
        "collect_s": collect_s,
        "steps_per_s": algo.iteration_steps / iteration_s,
    }


def with_actors(spec: Spec, seconds: float, kill: bool = False) -> Figures:
    """Measures training with actors; with `kill`, one is killed at last, and the seconds until it is back are measured.

    Raises FleetError where actors cannot be had.
    """
    algo = spec.build()
    programs = programs_of(spec, algo)
    states = programs.init(initial_keys(spec))
    elsewhere.start(spec, algo, programs, None)
    assert programs.elsewhere is not None
    try:
        states, _ = programs.advance(states, _WARM_UP)
        meter, began = programs.elsewhere.meter, time.perf_counter()
        meter.resume({})
        while time.perf_counter() - began < seconds:
            states, _ = programs.advance(states, 1)
        figures = accounted(meter.table(time.perf_counter() - began), spec.actors)
        figures |= _stored_bytes(programs, states)
        if kill:
            figures["recovery_s"] = _killed(programs, states)
        return figures
    finally:
        programs.close()


def accounted(figures: Figures, actors: int) -> Figures:
    """Returns figures with the shares of the wall clock that their parts add up to: 1 where nothing is left out."""
    wall = figures["wall_s"]
    acting = figures["actor_acting_s"] + figures["actor_waiting_s"]
    learning = sum(figures[f"learner_{part}_s"] for part in ("waiting", "transfer", "update"))
    return figures | {
        "actor_accounted": acting / (actors * wall),
        "learner_accounted": learning / wall,
    }


def _stored_bytes(programs: Programs, states: Any) -> Figures:
    """Returns the sizes of a rollout and of a version of the policy by another measure: that of Ray's object store."""
    assert programs.elsewhere is not None
    fleet = programs.elsewhere.fleet
    actor = to_host(jax.tree.map(lambda x: x[0], states.actor))
    version = fleet.send(Version(0, actor))
    call = fleet.ask(0, version, 0)
    fleet.wait([call], _PATIENCE)
    size = fleet.object_bytes  # type: ignore[attr-defined]
    return {"rollout_stored_bytes": size(call.handle), "parameter_stored_bytes": size(version)}


def _killed(programs: Programs, states: Any) -> float | None:
    """Kills an actor and returns the seconds until it is back; None where it is not."""
    assert programs.elsewhere is not None
    fleet, meter = programs.elsewhere.fleet, programs.elsewhere.meter
    os.kill(fleet.pids()[0], signal.SIGKILL)  # type: ignore[attr-defined]
    began = time.perf_counter()
    while time.perf_counter() - began < _PATIENCE:
        states, _ = programs.advance(states, 1)
        if meter.total.recovery_s:
            return meter.total.recovery_s
    return None


def costs_of(figures: Figures, spec: Spec) -> Costs:
    """Returns the costs of an update from what one actor in step was measured at."""
    updates = max(figures["updates"], 1)
    return Costs(
        collect_s=figures["actor_acting_s"] / updates,
        update_s=figures["learner_update_s"] / updates,
        batch_bytes=figures["rollout_bytes"],
        parameter_bytes=figures["parameter_bytes"],
        latency_s=figures["learner_transfer_s"] / updates,
        batch_steps=float(spec.config.num_envs * spec.config.num_steps),
    )


def predictions(costs: Costs) -> list[Figures]:
    """Returns the predictions for all numbers of hosts and networks, hosts that share a batch and hosts that bring
    their own."""
    return [
        {"gigabits": gigabits, "grow": grow, **dataclasses.asdict(found)}
        for grow in (False, True)
        for gigabits in NETWORKS
        for found in (predict(costs, hosts, gigabits, grow=grow) for hosts in HOSTS)
    ]


_ROWS: tuple[tuple[str, str, float, int], ...] = (  # what, figure, factor, digits
    ("steps learned from, 1/s", "steps_learned_per_s", 1.0, 0),
    ("steps acted, 1/s", "steps_acted_per_s", 1.0, 0),
    ("rollout, MB", "rollout_bytes", 1e-6, 2),
    ("the same in Ray's object store, MB", "rollout_stored_bytes", 1e-6, 2),
    ("parameters, MB", "parameter_bytes", 1e-6, 2),
    ("the same in Ray's object store, MB", "parameter_stored_bytes", 1e-6, 2),
    ("traffic, MB/s", "bytes_per_s", 1e-6, 1),
    ("while something is fetched or sent, MB/s", "mb_per_s", 1.0, 0),
    ("fetching a rollout, ms", "get_ms", 1.0, 2),
    ("sending parameters, ms", "put_ms", 1.0, 2),
    ("empty call, ms", "latency_ms", 1.0, 2),
    ("actors idle, share", "actor_idle", 1.0, 2),
    ("learner waiting, share", "learner_idle", 1.0, 2),
    ("acting and waiting of the actors, share of their wall clock", "actor_accounted", 1.0, 3),
    (
        "waiting, transfer and update of the learner, share of the wall clock",
        "learner_accounted",
        1.0,
        3,
    ),
    ("lag, mean", "lag_mean", 1.0, 2),
    ("lag, largest", "lag_max", 1.0, 0),
    ("dropped rollouts", "dropped", 1.0, 0),
    ("seconds to recover from a kill", "recovery_s", 1.0, 1),
)


def measured_table(figures: Figures) -> str:
    """Returns what was measured as a Markdown table, a column for each number of actors."""
    runs = [name for name, run in figures.items() if isinstance(run, dict) and "sync" in run]
    alone = figures["single"]["steps_per_s"]
    rows = []
    for what, name, factor, digits in _ROWS:
        cells = [figures[run].get(name) for run in runs]
        rows.append([what, *("" if x is None else f"{x * factor:,.{digits}f}" for x in cells)])
    rates = [figures[run]["steps_learned_per_s"] / alone for run in runs]
    rows.insert(2, ["speed-up over one process", *(f"{x:.2f}" for x in rates)])
    pairs = zip(rates, runs, strict=True)
    rows.insert(3, ["efficiency", *(f"{x / figures[run]['actors']:.2f}" for x, run in pairs)])
    heads = [
        f"{figures[run]['actors']}, {'in step' if figures[run]['sync'] else 'at once'}"
        for run in runs
    ]
    return "\n".join(table(["actors", *heads], rows, str))


def checked_table(figures: Figures, costs: Costs) -> str:
    """Returns the model's rates beside the measured ones, as a Markdown table."""
    rows = []
    for run in figures.values():
        if not isinstance(run, dict) or "sync" not in run:
            continue
        found = predict(costs, run["actors"], None, sync=run["sync"], cores=figures["cores"])
        measured = run["steps_learned_per_s"]
        kind = "in step" if run["sync"] else "at once"
        rows.append(
            [
                f"{run['actors']}, {kind}",
                f"{measured:,.0f}",
                f"{found.steps_per_s:,.0f}",
                f"{found.steps_per_s / measured:.2f}",
                found.bound,
            ]
        )
    heads = ["actors", "measured, steps/s", "model", "ratio", "slowest part"]
    return "\n".join(table(heads, rows, str))


def predicted_table(costs: Costs) -> str:
    """Returns the model's speed-ups for hosts and networks as Markdown, and where a network no longer suffices."""
    lines = []
    for grow in (False, True):
        rows = []
        for hosts in HOSTS:
            found = [predict(costs, hosts, gigabits, grow=grow) for gigabits in NETWORKS]
            cells = [f"{x.speed_up:.1f} ({x.bound})" for x in found]
            rows.append([str(hosts), *cells, f"{gigabits_needed(costs, hosts, grow=grow):.2f}"])
        what = "each host brings a batch of its own" if grow else "hosts share one batch"
        heads = [f"{x:g} Gbit/s" for x in NETWORKS]
        ends = ", ".join(f"{most_hosts(costs, x, grow=grow)} at {x:g} Gbit/s" for x in NETWORKS)
        lines += [
            f"Predicted speed-up over one process, {what}:",
            "\n".join(table(["hosts", *heads, "Gbit/s needed"], rows, str)),
            f"Hosts up to which collecting is the slowest part: {ends}.",
        ]
    return "\n\n".join(lines)
