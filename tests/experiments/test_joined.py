"""Several processes of one run: flags, the meeting before JAX joins them, and, slowly, the whole command."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.run import joined, roll_call

ROOT = Path(__file__).parents[2]
WORDS = ["--env", "CartPole-v1"]


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("h:1", 2, 2), r"--process-id must be between 0 and 1 \(--num-processes 2\), got 2"),
        (("h:1", -1, 2), "--process-id must be between 0 and 1 .*, got -1"),
        (("h:1", 0, 1), "--num-processes must be at least 2, got 1"),
        (("h", 0, 2), "--coordinator h is none: HOST:PORT of process 0 is wanted"),
        (("h:99999", 0, 2), "--coordinator h:99999 is none"),
        (("h:1", None, 2), "go together: --process-id is missing"),
        ((None, 0, None), "go together: --coordinator is missing"),
    ],
)
def test_impossible_places_are_one_line(given, line):
    with pytest.raises(ValueError, match=line):
        joined.place(*given)


def test_a_run_of_one_process_has_no_place():
    assert joined.place(None, None, None) is None
    assert joined.place("h:1", 1, 2) == ("h:1", 1, 2)


def test_processes_are_compared_without_their_numbers():
    assert joined.shared_words(["--a", "--process-id", "1", "--b"]) == ["--a", "--b"]
    assert joined.shared_words(["--process-id=0", "--b"]) == ["--b"]


def met(*processes, seconds=5.0):
    """Returns for each of the processes (number, of, words) that meet None, or the line of an error."""
    address, lines = free_address(), [None] * len(processes)

    def one(i):
        try:
            roll_call.meet(address, *processes[i], seconds)
        except ValueError as error:
            lines[i] = str(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(processes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return lines


def test_processes_meet():
    assert met((0, 3, WORDS), (2, 3, WORDS), (1, 3, WORDS)) == [None] * 3


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ((1, 2, ["--env", "Pendulum-v1"]), "process 1 was started with other flags than process 0"),
        ((1, 3, WORDS), "process 1 has --num-processes 3, and process 0 has 2"),
    ],
)
def test_processes_that_differ_are_refused_on_both_sides(other, line):
    assert all(line in said for said in met((0, 2, WORDS), other))


def test_two_processes_of_one_number_are_refused():
    lines = met((0, 3, WORDS), (1, 3, WORDS), (1, 3, WORDS))
    assert lines == ["two processes have --process-id 1"] * 3


def test_whoever_does_not_come_is_named():
    lines = met((0, 3, WORDS), (2, 3, WORDS), seconds=0.5)
    assert all("of 3 processes these have not come to" in line for line in lines)
    assert all(line.endswith(": 1") for line in lines)


def test_an_address_where_nobody_answers_is_one_line():
    line = met((1, 2, WORDS), seconds=0.3)[0]
    assert "process 0 does not answer there (Connection refused)" in line


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b'{"line": null}\n', b'{"process": 1}\n']
)
def test_what_else_calls_is_not_counted(said):
    address = free_address()
    host, _, port = address.rpartition(":")
    failed = []

    def zero():
        try:
            roll_call.meet(address, 0, 2, WORDS, 1.0)
        except ValueError as error:
            failed.append(str(error))

    thread = threading.Thread(target=zero)
    thread.start()
    for _ in range(50):
        try:
            with socket.create_connection((host, int(port)), 1) as there:
                there.sendall(said)
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    thread.join(10)
    assert failed == [f"of 2 processes these have not come to {address}: 1"]


FLAGS = "--env InvertedPendulum-v5 --algo ppo --no-video --num-envs 8 --num-steps 16 --devices 2"
FLAGS += " --num-minibatches 2 --num-epochs 1 --hidden-sizes 8 --total-steps 1280"


def begin(out, *more, host_devices=1):
    words = [sys.executable, "-m", "experiments.train", *FLAGS.split(), "--out", str(out), *more]
    flags = f"--xla_force_host_platform_device_count={host_devices}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    return subprocess.Popen(
        words,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "wall_clock_s"} for row in found]


@pytest.mark.slow
def test_two_processes_train_as_one_of_two_devices(tmp_path):
    """Its physics is a call to the host, of each process for its own part."""
    join = ["--coordinator", free_address(), "--num-processes", "2", "--process-id"]
    alone = begin(tmp_path / "alone", host_devices=2)
    both = [begin(tmp_path / "both", *join, str(i)) for i in (0, 1)]
    said = [process.communicate(timeout=400)[0] for process in (alone, *both)]
    assert [process.returncode for process in (alone, *both)] == [0, 0, 0], "\n".join(said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "both"]
    one, two = rows(tmp_path / "alone"), rows(tmp_path / "both")
    assert len(one) == len(two) > 2
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert b[name] == (a[name] if a[name] is None else pytest.approx(a[name], rel=1e-5))
    assert (tmp_path / "both" / "summary.json").exists()


@pytest.mark.slow
def test_devices_that_have_no_part_are_one_line(tmp_path):
    join = ["--coordinator", free_address(), "--num-processes", "2", "--process-id"]
    both = [begin(tmp_path / "both", *join, str(i), "--devices", "1") for i in (0, 1)]
    for process in both:
        said = process.communicate(timeout=200)[0]
        assert process.returncode == 2, said
        assert "--devices 1: 2 processes have 2 devices together" in said
    assert not (tmp_path / "both").exists()
