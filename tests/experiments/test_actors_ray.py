"""Actors as Ray's: equal to actors in this process, and what is left when something dies. Needs the extra `ray`."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # as the command sets it, before Ray's import
pytest.importorskip("ray")

from experiments.actors import existing
from experiments.actors.fleet import FleetError
from experiments.run import elsewhere
from experiments.run.programs import programs_of
from experiments.run.spec import initial_keys
from tests.experiments.test_actors import SIZES, numbers, small, started

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
# Two actors also where the tests have one core.
MAIN = """
import sys
from experiments.actors import cluster
cluster.usable_cores = lambda: 2
from experiments import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def of_ray(spec):
    algo = spec.build()
    programs = programs_of(spec, algo)
    elsewhere.start(spec, algo, programs, None)
    return programs


def processes() -> set[int]:
    """Ids of all processes of any Ray of ours, by the folder in their command lines."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if folder.name.isdigit() and ("stride-ray-" in line or line.startswith("ray::")):
            found.add(int(folder.name))
    return found


def left_behind(before: set[int], folders: set[Path], seconds: float = 30.0):
    """Waits until nothing new is there; returns what still is after some seconds."""
    end = time.monotonic() + seconds
    while True:
        left = processes() - before, set(Path("/tmp").glob("stride-ray-*")) - folders
        if not any(left) or time.monotonic() > end:
            return left
        time.sleep(0.5)


@pytest.fixture
def nothing_left():
    before, folders = processes(), set(Path("/tmp").glob("stride-ray-*"))
    yield
    assert left_behind(before, folders) == (set(), set())


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("name", SIZES)
def test_synchronous_actors_equal_those_of_one_process(name):
    spec = small(name)
    _, local = started(spec)
    expected, rows = local.advance(local.init(initial_keys(spec)), 3)
    programs = of_ray(spec)
    try:
        states, found = programs.advance(programs.init(initial_keys(spec)), 3)
    finally:
        programs.close()
    for a, b in zip(numbers(states.params), numbers(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    for name in ("train/return", "train/episodes"):
        np.testing.assert_allclose(found[name], rows[name], rtol=1e-6)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("name", "sync"), [("ppo", False), ("ppo", True), ("dqn", False)])
def test_a_killed_actor_is_lost_and_training_goes_on(name, sync):
    spec = small(name, sync=sync)
    programs = of_ray(spec)
    learner = programs.elsewhere
    try:
        states, _ = programs.advance(programs.init(initial_keys(spec)), 2)
        before = set(learner.fleet.pids())
        os.kill(min(before), signal.SIGKILL)
        end = time.monotonic() + 90
        while learner.meter.total.recovery_s == 0 and time.monotonic() < end:
            states, _ = programs.advance(states, 1)
        states, _ = programs.advance(states, 3)
        counts = learner.meter.total
        assert len(set(learner.fleet.pids()) - before) == 1
    finally:
        programs.close()
    assert counts.lost == counts.restarts == 1
    assert 0 < counts.recovery_s < 90
    assert counts.used == spec.actors * counts.updates
    assert int(states.env_steps[0]) == (
        learner.algo.warmup_steps + counts.updates * learner.algo.iteration_steps
    )
    assert all(np.isfinite(x).all() for x in numbers(states.params))


@pytest.mark.usefixtures("nothing_left")
def test_an_environment_that_only_this_process_knows_is_one_line(monkeypatch):
    import envs

    monkeypatch.setitem(envs._FACTORIES, "here-only", envs._FACTORIES["probe-truncation"])
    spec = small("ppo")
    spec = type(spec)(**{**vars(spec), "env": "here-only"})
    with pytest.raises(FleetError, match=r"unknown environment.*must come from a file"):
        of_ray(spec)


def command(out, *more):
    flags = "--env CartPole-v1 --algo ppo --no-video --actors 2 --num-envs 8 --num-steps 16"
    flags += " --num-minibatches 2 --num-epochs 1 --total-steps 400000"
    words = [sys.executable, "-c", MAIN, *(more or [*flags.split(), "--out", str(out)])]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def under_way(out, process, rows=2):
    """Waits until a run has written some rows."""
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        file = out / "metrics.jsonl"
        if file.exists() and len(file.read_text().splitlines()) >= rows:
            return
        time.sleep(0.2)
    pytest.fail(f"the run did not begin: {process.communicate(timeout=60)[0]!r}")


def listening() -> set[str]:
    """Addresses of all listening sockets of this machine, in /proc's hexadecimal."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return {row.split()[1] for row in lines if row.split()[3] == "0A"}


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_nothing_else(tmp_path, number):
    out, before = tmp_path / "run", listening()
    process = command(out)
    under_way(out, process)
    # 0100007F is 127.0.0.1: nothing is heard from elsewhere.
    assert all(x.startswith("0100007F") for x in listening() - before)
    process.send_signal(number)
    text = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 128 + number, text
    assert "resume with: python -m experiments.train --resume" in text
    steps = [json.loads(x)["env_steps"] for x in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


@pytest.mark.usefixtures("nothing_left")
def test_a_killed_learner_takes_its_actors_with_it_and_the_run_resumes(tmp_path):
    out = tmp_path / "run"
    before, folders = processes(), set(Path("/tmp").glob("stride-ray-*"))
    process = command(out)
    under_way(out, process)
    process.kill()
    process.communicate(timeout=60)
    assert left_behind(before, folders) == (set(), set())
    again = command(out, "--resume", str(out))
    text = again.communicate(timeout=400)[0].decode()
    assert again.returncode == 0, text
    summary = json.loads((out / "summary.json").read_text())
    assert summary["env_steps"] >= 400_000
    assert (out / "timeline.png").exists()
    table = summary["actors"]
    assert table["used"] == 2 * table["updates"] == 2 * summary["env_steps"] / (8 * 16)
    ends = ("used", "dropped", "lost", "refused", "abandoned", "open")
    assert table["asked"] == sum(table[name] for name in ends)
    parts = ("waiting", "transfer", "update", "other")
    assert sum(table[f"learner_{part}_s"] for part in parts) == pytest.approx(
        summary["env_steps"] / summary["steps_per_second"], rel=0.02
    )


def test_the_size_of_what_travels_is_the_size_of_the_arrays():
    spec = small("ppo")
    programs = of_ray(spec)
    try:
        states, _ = programs.advance(programs.init(initial_keys(spec)), 2)
        table = programs.elsewhere.meter.table(1.0)
    finally:
        programs.close()
    shapes = jax.eval_shape(
        programs.elsewhere.algo.collect,
        jax.eval_shape(lambda s: s.actor, jax.tree.map(lambda x: x[0], states)),
        jax.tree.map(lambda x: x[0], states.stream),
        jax.random.key(0),
    )[1]
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)) / spec.actors
    assert table["rollout_bytes"] == pytest.approx(size, rel=0.2)
    assert table["latency_ms"] > 0


def test_an_address_without_ray_behind_it_is_one_line():
    with pytest.raises(ValueError, match="nobody answers there"):
        existing.require_answer("127.0.0.1:9")


@pytest.fixture
def ray_cluster():
    """The address of a cluster of one machine, which asks for a token that a user has, and a user's home with it and
    without it."""
    folder = Path(tempfile.mkdtemp(prefix="stride-test-", dir="/tmp"))  # sockets want short paths
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    token = folder / "has" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text("0123456789abcdef" * 4)
    words = f"start --head --block --port {address.rpartition(':')[2]} --node-ip-address 127.0.0.1"
    words += f" --num-cpus 2 --include-dashboard=false --object-store-memory {10**8}"
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words.split(), "--temp-dir", folder / "ray"],
        env=os.environ | {"HOME": str(folder / "has")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield address, folder / "has", folder / "lacks"
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(folder)


STATE = """
import sys, ray
from ray._private.state import actors
ray.init(address=sys.argv[1], log_to_driver=False)
print(*[a["State"] for a in actors().values()], ray.available_resources()["CPU"])
"""


def test_an_address_joins_a_cluster_and_leaves_it_as_it_was(ray_cluster, tmp_path):
    address, has_token, lacks_token = ray_cluster
    flags = "--env CartPole-v1 --algo ppo --no-video --actors 2 --num-envs 8 --num-steps 16"
    flags += " --num-minibatches 2 --num-epochs 1 --total-steps 4096"
    train = [sys.executable, "-m", "experiments.train", *flags.split(), "--address", address]

    def run(words, home):
        environment = os.environ | {"HOME": str(home)}
        return subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )

    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(ValueError):
            existing.require_answer(address)
            break
    done = run([*train, "--out", str(tmp_path / "run")], has_token)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["actors"]["used"] > 0
    # Without the cluster's token nobody is let in.
    done = run([*train, "--out", str(tmp_path / "none")], lacks_token)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: --address {address}")
    assert not (tmp_path / "none").exists()
    environment = {"RAY_AUTH_MODE": "token", "HOME": str(has_token)}
    state = subprocess.run(
        [sys.executable, "-c", STATE, address],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert state.stdout.split() == ["DEAD", "DEAD", "2.0"], state.stderr
