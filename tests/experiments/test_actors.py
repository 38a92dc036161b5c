"""Actors within one process, and the rules by which rollouts become batches; Ray itself is in test_actors_ray.py."""

import dataclasses
import functools
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import ALGORITHMS
from experiments.actors import guardian, shares
from experiments.actors.collector import Collector, Rules
from experiments.actors.fleet import Call, FleetError, LocalFleet, LostError
from experiments.actors.meter import Counts, Meter
from experiments.actors.travel import Key, nbytes, to_device, to_host
from experiments.actors.worker import Rollout, Times, Version
from experiments.figures import timeline
from experiments.run import elsewhere
from experiments.run.programs import programs_of
from experiments.run.spec import Spec, initial_keys

_REPLAY = {"num_envs": 4, "num_steps": 2, "buffer_size": 2048, "batch_size": 4, "warmup_steps": 16}
SIZES = {
    "ppo": ("probe-truncation", {"num_envs": 4, "num_steps": 4, "num_minibatches": 2}),
    "impala": ("probe-truncation", {"num_envs": 4, "num_steps": 4, "num_minibatches": 2}),
    "dqn": ("probe-truncation", _REPLAY),
    "sac": ("Pendulum-v1", _REPLAY),
    "td3": ("Pendulum-v1", _REPLAY),
    "ddpg": ("Pendulum-v1", _REPLAY),
}


@functools.cache
def small(name: str, actors: int = 2, sync: bool = True) -> Spec:
    env, sizes = SIZES[name]
    config = ALGORITHMS[name].Config(total_steps=4096, hidden_sizes=(8,), **sizes)
    return Spec(env, {}, name, config, 3, 1, actors=actors, sync=sync)


def started(spec: Spec):
    """The algorithm, its programs and a learner with actors in this process."""
    algo = spec.build()
    programs = programs_of(spec, algo)
    envs = spec.config.num_envs // spec.actors
    fleet = LocalFleet(elsewhere.shares_of(spec, envs, local=False))
    programs.elsewhere = elsewhere.learner_of(spec, algo, programs, fleet)
    return algo, programs


def one_process(spec: Spec, algo, states, iterations):
    """The same split of the environments, as one plain loop."""
    state = jax.tree.map(lambda x: x[0], states)
    base = jax.random.fold_in(initial_keys(spec)[0], elsewhere._ACTING)
    environments = algo.environments(state)
    parts = [shares.part(environments, i, spec.actors) for i in range(spec.actors)]
    workers = [w.algo for w in LocalFleet(elsewhere.shares_of(spec, 2, local=False)).workers]
    collects, learn = [jax.jit(w.collect) for w in workers], jax.jit(algo.improve)
    for number in range(iterations):
        rows = []
        for i, collect in enumerate(collects):
            key = shares.rollout_key(base, i, number)
            parts[i], steps, _ = collect(state.actor, parts[i], key)
            rows.append(steps)
        batch = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *rows)
        state, _ = learn(state, batch)
    return state


def numbers(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    "name", [n if n == "ppo" else pytest.param(n, marks=pytest.mark.slow) for n in SIZES]
)
def test_synchronous_actors_are_one_process_with_the_same_split(name):
    spec = small(name)
    algo, programs = started(spec)
    states = programs.init(initial_keys(spec))
    expected = one_process(spec, algo, jax.tree.map(jnp.copy, states), 3)
    states, rows = programs.advance(states, 2)
    states, more = programs.advance(states, 1)
    for a, b in zip(numbers(states.params), numbers(expected.params), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-6, atol=1e-7)
    assert int(states.env_steps[0]) == algo.warmup_steps + 3 * algo.iteration_steps
    assert rows["actors/lag_max"].tolist() == [[0.0], [0.0]]
    assert more["actors/dropped"].tolist() == [[0.0]]


def test_a_synchronous_run_goes_on_from_its_states_as_if_it_had_not_been_stopped():
    spec = small("ppo")
    _, programs = started(spec)
    states, _ = programs.advance(programs.init(initial_keys(spec)), 1)
    kept = jax.tree.map(jnp.copy, programs.elsewhere.settled(states))
    states, rows = programs.advance(states, 1)
    _, again = started(spec)
    resumed, same = again.advance(kept, 1)
    for a, b in zip(numbers(states.params), numbers(resumed.params), strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("train/return", "train/episodes", "loss/policy"):
        np.testing.assert_array_equal(rows[name], same[name])


def test_metrics_of_rollouts_are_those_of_one_rollout_of_all_environments():
    """By hand: 2 environments each; the second actor's step 4 of [[0, 1], [2, 3]] is the whole's number 8 of 8."""
    parts = [
        {"train/return": 3.0, "train/episodes": 1.0, "train/nonfinite": 1.0, "reward/x": 1.0},
        {"train/return": 9.0, "train/episodes": 2.0, "train/nonfinite": 1.0, "reward/x": 2.0},
    ]
    parts[0] |= {"nonfinite/first": 0.0, "nonfinite/env": 0.0}
    parts[1] |= {"nonfinite/first": 4.0, "nonfinite/env": 1.0}
    assert shares.joined_metrics(parts, 2) == {
        "train/return": 7.0,
        "train/episodes": 3.0,
        "train/nonfinite": 2.0,
        "reward/x": 1.5,
        "nonfinite/first": 8.0,
        "nonfinite/env": 3.0,
    }


def test_epsilons_of_ape_x():
    assert [round(shares.apex_epsilon(i, 3), 6) for i in range(3)] == [0.4, 0.016191, 0.000655]
    assert shares.apex_epsilon(0, 1) == 0.4


def test_trees_travel_with_their_keys():
    tree = {"x": jnp.arange(6.0).reshape(2, 3).T, "key": jax.random.key(3), "n": jnp.int32(7)}
    there = to_host(tree)
    assert isinstance(there["key"], Key)
    assert there["x"].flags.c_contiguous
    assert there["n"].shape == ()
    assert nbytes(there) == 24 + 8 + 4
    back = to_device(there)
    np.testing.assert_array_equal(back["x"], tree["x"])
    assert back["key"] == tree["key"]


class Plan(NamedTuple):
    """A pretended actor's answer to a call: how long it takes, in calls to `wait`; lost or not."""

    turns: int = 1
    lost: bool = False


class Pretended:
    """A fleet whose rollouts come in the order, and with the losses, that a test wants."""

    def __init__(self, actors, plans=()):
        self.actors, self.plans = actors, dict(plans)
        self.sent, self.ended, self.turn = [], [], 0

    def send(self, version):
        self.sent.append(version.number)
        return version.number

    def ask(self, worker, version, number):
        plan = self.plans.pop((worker, number), Plan())
        return Call(worker, number, time.monotonic(), (version, plan, self.turn + plan.turns))

    def wait(self, calls, timeout):
        self.turn += 1
        return [call for call in calls if call.handle[2] <= self.turn]

    def fetch(self, call):
        version, plan, _ = call.handle
        if plan.lost:
            raise LostError("killed")
        steps = np.zeros(2)
        return Rollout(call.worker, call.number, version, steps, {}, Times(0.0, 1.0, 3.0))

    def end(self, worker):
        self.ended.append(worker)


def collected(fleet, rules, updates):
    """(worker, number, version) of each batch, and the meter."""
    meter = Meter(steps_each=8)
    collector = Collector(fleet, rules, meter)
    batches = []
    for version in range(updates):
        collector.publish(Version(version, None))
        batches.append([(r.worker, r.number, r.version) for r in collector.batch()])
        meter.row()
    return batches, meter


@pytest.fixture
def _at_once(monkeypatch):
    monkeypatch.setattr("experiments.actors.collector._RETRY_SECONDS", 0.0)
    monkeypatch.setattr("experiments.actors.collector._POLL_SECONDS", 0.0)


@pytest.mark.usefixtures("_at_once")
class TestCollector:
    def test_in_step_each_batch_is_one_rollout_of_each_by_the_newest_policy(self):
        plans = {(0, 1): Plan(turns=3)}
        batches, meter = collected(Pretended(2, plans), Rules(sync=True), 3)
        assert batches == [[(0, n, n), (1, n, n)] for n in range(3)]
        assert meter.total.lag == {"0": 6}

    def test_at_once_actors_are_one_update_behind_and_none_is_used_twice(self):
        batches, meter = collected(Pretended(2), Rules(max_lag=1), 6)
        flat = [rollout[:2] for batch in batches for rollout in batch]
        assert len(set(flat)) == len(flat) == 12
        assert meter.total.lag == {"0": 2, "1": 10}
        assert meter.total.dropped == 0

    def test_what_is_too_old_is_dropped_and_counted(self):
        """Actor 1's first rollout takes as long as four of the other's."""
        plans = {(1, 0): Plan(turns=9)}
        batches, meter = collected(Pretended(2, plans), Rules(max_lag=1), 8)
        assert (1, 0) not in {rollout[:2] for batch in batches for rollout in batch}
        assert meter.total.dropped == 1
        assert max(map(int, meter.total.lag)) == 1
        # Steps add up: what arrived was used, dropped, or is waiting.
        waiting = meter.total.rollouts - meter.total.used - meter.total.dropped
        assert 0 <= waiting <= 4
        assert meter.total.steps_learned == 8 * meter.total.used == 8 * 16

    def test_rows_of_a_replay_buffer_stay_with_their_environments(self):
        plans = {(1, 0): Plan(turns=4)}
        batches, _ = collected(Pretended(2, plans), Rules(one_of_each=True), 4)
        assert [[r[0] for r in batch] for batch in batches] == [[0, 1]] * 4
        numbers = [[r[1] for r in batch] for batch in batches]
        assert numbers == [[n, n] for n in range(4)]

    @pytest.mark.parametrize("rules", [Rules(sync=True), Rules(max_lag=1)])
    def test_a_lost_rollout_is_counted_and_training_goes_on(self, rules):
        fleet = Pretended(2, {(0, 1): Plan(lost=True), (1, 3): Plan(lost=True)})
        batches, meter = collected(fleet, rules, 6)
        assert len(batches) == 6
        assert meter.total.lost == meter.total.restarts == 2
        # All that was asked for is accounted for; some may be under way.
        assert meter.total.asked == meter.total.used + 2 + meter.open_rollouts()
        assert 0 <= meter.open_rollouts() <= 4
        flat = [rollout[:2] for batch in batches for rollout in batch]
        assert len(set(flat)) == len(flat)

    def test_an_actor_that_hangs_is_ended_once(self):
        fleet = Pretended(2, {(1, 1): Plan(turns=5)})
        collected(fleet, Rules(sync=True, hang_seconds=0.0), 2)
        assert fleet.ended.count(1) == 1

    @pytest.mark.parametrize(("start_seconds", "ended"), [(300.0, 0), (0.0, 1)])
    def test_an_actor_that_starts_is_given_more_time(self, start_seconds, ended):
        fleet = Pretended(2, {(1, 0): Plan(turns=5)})
        rules = Rules(sync=True, hang_seconds=0.0, start_seconds=start_seconds)
        collected(fleet, rules, 1)
        assert fleet.ended.count(1) == ended

    def test_an_actor_that_never_comes_back_ends_the_run_in_one_line(self):
        class Dead(Pretended):
            def fetch(self, call):
                raise LostError("no core is left")

        with pytest.raises(FleetError, match="actor 0 does not come back: no core is left"):
            collected(Dead(1), Rules(), 1)


def test_what_was_under_way_when_the_learner_died_is_abandoned():
    meter = Meter(steps_each=16)
    meter.resume(dataclasses.asdict(Counts(asked=9, used=4, dropped=1, lost=1, refused=1)))
    assert meter.total.abandoned == 2
    assert meter.open_rollouts() == 0


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_a_guardian_ends_what_writes_to_its_folder_when_the_run_is_gone(tmp_path):
    folder = tmp_path / "ray"
    folder.mkdir()
    log = folder / "log"
    with log.open("w") as file:
        ours = subprocess.Popen(["sleep", "60"], stdout=file)
    with log.open() as file:
        readers = subprocess.Popen(["sleep", "60"], stdin=file)
    os.kill(ours.pid, signal.SIGSTOP)  # it would hear nothing else than the signal that kills
    watching = guardian.begin(folder)
    mine = (folder / "of the run").open("w")
    assert guardian.processes_of(folder) == [ours.pid]
    assert guardian.processes_of(folder, "ray::") == []
    watching.stdin.close()  # as the system does when the run is killed
    assert watching.wait(20) == 0
    assert ours.wait(5) == -signal.SIGKILL
    assert not folder.exists()
    mine.close()
    assert readers.poll() is None
    readers.kill()
    readers.wait()


def test_shares_of_time_add_up_to_the_wall_clock():
    meter = Meter(steps_each=16)
    rollout = Rollout(0, 0, 0, np.zeros(1000, np.float32), {}, Times(10.0, 11.0, 14.0))
    meter.asked_one()
    meter.received(rollout, 14.5, 15.0)
    meter.waited(10.0, 14.5)
    meter.joined(15.0, 15.5)
    meter.used(rollout, 0)
    meter.updated(15.5, 19.5)
    meter.sent(500, 19.5, 20.0)
    row = meter.row()
    assert row["actors/idle"] == 0.25
    assert row["actors/rollout_bytes"] == 4000
    assert row["actors/mb_per_s"] == pytest.approx(4500 / 1e6 / 1.0)
    table = meter.table(wall_s=10.5)
    parts = ("waiting", "transfer", "update", "other")
    assert sum(table[f"learner_{part}_s"] for part in parts) == pytest.approx(10.5)
    assert table["learner_other_s"] == pytest.approx(0.5)
    assert table["actor_acting_s"] + table["actor_waiting_s"] == 4.0
    assert table["steps_learned_per_s"] == pytest.approx(16 / 10.5)
    again = Meter(steps_each=16)
    again.resume(dataclasses.asdict(meter.total))
    assert again.total == meter.total != Counts()


def test_a_picture_of_one_second(tmp_path):
    events = [(-1, "update", 0.1 * i, 0.1 * i + 0.05, 0) for i in range(30)]
    events += [(0, "act", 0.2 * i, 0.2 * i + 0.15, 0) for i in range(15)]
    events += [(-1, "get", 0.3, 0.32, 2_000_000), (-1, "put", 1.5, 1.51, 100_000)]
    shown = timeline.window(events)
    assert all(0 <= began <= ended <= 1 for _, _, began, ended, _ in shown)
    assert {what for _, what, *_ in shown} == {"update", "act", "put"}
    path = timeline.timeline(events, tmp_path / "timeline.png", "walker, ppo")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"actors": -1}, "--actors must not be negative"),
        ({"actors": 0, "sync": True}, "--sync goes with --actors"),
        ({"actors": 3}, "--actors 3 do not divide --num-envs 4 into equal parts"),
        ({"actors": 2, "seeds": 2}, "--actors goes with --seeds 1, got 2"),
        ({"actors": 2, "devices": 2}, "--actors goes with --devices 1, got 2"),
        ({"algo": "trpo"}, "--actors goes with ppo, impala, dqn, sac, td3, ddpg, not with trpo"),
    ],
)
def test_bad_input_is_one_line(changes, line):
    with pytest.raises(ValueError, match=line):
        elsewhere.require(dataclasses.replace(small("ppo"), **changes), None)


def test_options_that_are_no_plain_data_cannot_be_sent():
    spec = dataclasses.replace(small("ppo"), env_kwargs={"engine": object()})
    with pytest.raises(
        ValueError, match=r"cannot be sent to actors .*options must be plain values"
    ):
        elsewhere.as_bytes(spec)


def test_without_ray_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--actors needs Ray: pip install 'stride-rl\[ray\]'"):
        elsewhere.require(small("ppo"), None)


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("nowhere", "--address nowhere is none: HOST:PORT is wanted"),
        ("127.0.0.1:1", "--address 127.0.0.1:1: nobody answers there"),
    ],
)
def test_an_address_is_tried_before_anything_is_begun(monkeypatch, address, line):
    monkeypatch.setattr("experiments.actors.cluster.require_ray", lambda: None)
    with pytest.raises(ValueError, match=line):
        elsewhere.require(small("ppo"), address)


def test_an_address_at_which_something_else_answers_is_one_line(monkeypatch):
    monkeypatch.setattr("experiments.actors.cluster.require_ray", lambda: None)
    monkeypatch.setattr("experiments.actors.existing._CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"--address {address}: what answers there is no Ray"):
            elsewhere.require(small("ppo"), address)


def test_more_actors_than_cores_are_refused(monkeypatch):
    monkeypatch.setattr("experiments.actors.cluster.require_ray", lambda: None)
    monkeypatch.setattr("experiments.actors.cluster.usable_cores", lambda: 1)
    with pytest.raises(ValueError, match="--actors 2 are more than the 1 cores here"):
        elsewhere.require(small("ppo"), None)
