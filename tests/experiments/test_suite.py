import contextlib
import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import agents
import envs
from experiments import cli, suite
from experiments.grids import board, grid, launch
from experiments.run import arguments, folders, loop, records, summary
from tests.experiments import stub
from tests.experiments.test_records import make_run

ROOT = Path(__file__).parents[2]
ALGORITHMS = ["ppo", "a2c", "reinforce", "trpo", "grpo", "dqn", "pqn", "sac", "td3", "ddpg"]
PROBE = ["--envs", "probe-truncation", "--algos", "stub", "--total-steps", "400", "--out", "out"]


class Refusing(stub.Stub):
    def __init__(self, config, env):
        raise ValueError("Refusing wants other actions")


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)
    monkeypatch.setitem(agents.ALGORITHMS, "refusing", Refusing)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(
        summary, "draw_curve", lambda folder, spec: folder
    )  # takes as long as all else


class Ended:
    """A process that ran to its end when it was started."""

    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code

    def send_signal(self, number):
        """Nobody is there any more."""


@pytest.fixture
def launched(monkeypatch):
    """Arguments of the runs started, each within this process."""
    found = []

    def start_process(command, log, lock):
        assert command[:3] == [sys.executable, "-m", "experiments.train"]
        found.append(command[3:])
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            return Ended(cli.main(command[3:]))

    monkeypatch.setattr(launch, "start_process", start_process)
    return found


@pytest.fixture
def scripted(monkeypatch):
    """The processes started: they compute nothing and end when told."""
    found = []

    class Process:
        def __init__(self, command):
            self.command, self.signals, self.code = command, [], None
            found.append(self)

        def poll(self):
            return self.code

        def send_signal(self, number):
            self.signals.append(number)

    monkeypatch.setattr(launch, "start_process", lambda command, log, lock: Process(command))
    return found


def rows(folder):
    """Metrics without the clock's."""
    found = folders.read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in r.items() if k != "wall_clock_s" and k[:5] != "time/"} for r in found]


def seeds_on_record():
    return [(r["env"], r["seed"]) for r in records.read(Path("out/records.json"))[1]]


def test_done_is_skipped_and_seeds_accumulate(launched, capsys):
    assert suite.suite([*PROBE, "--seeds", "2"]) == 0
    (arguments,) = launched
    assert "--no-video" in arguments
    folder = Path("out/probe-truncation/stub")
    assert folders.read_config(folder / "seeds_0-1")["seeds"] == 2
    assert seeds_on_record() == [("probe-truncation", 0), ("probe-truncation", 1)]
    assert "probe-truncation/stub/seeds_0-1: return " in capsys.readouterr().out

    assert suite.suite([*PROBE, "--seeds", "2"]) == 0
    assert len(launched) == 1
    assert "1 runs finished already, 0 to do" in capsys.readouterr().out

    assert suite.suite([*PROBE, "--seeds", "5", "--seeds-per-run", "2"]) == 0
    assert len(launched) == 3
    names = [p.name for p in sorted(folder.iterdir()) if p.is_dir()]
    assert names == ["seeds_0-1", "seeds_2-3", "seeds_4-4"]
    assert [seed for _, seed in seeds_on_record()] == [0, 1, 2, 3, 4]


def test_what_was_stopped_goes_on(launched, monkeypatch, capsys):
    start_process, advance = launch.start_process, loop.Loop.advance
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-4)

    def stopped_soon(training, n):
        if training.progress.iteration > 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(training, n)

    def stopping(*arguments):
        process = start_process(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)  # now to the suite
        return process

    argv = [*PROBE[:-2], "--out", "whole", "--seeds", "1"]
    assert suite.suite(argv) == 0
    with monkeypatch.context() as patched:
        patched.setattr(loop.Loop, "advance", stopped_soon)
        patched.setattr(launch, "start_process", stopping)
        two = [*PROBE, "--seeds", "2", "--seeds-per-run", "1"]
        assert suite.suite(two) == 143
    assert len(launched) == 2  # the second seed was not begun
    assert f"resume with: python -m experiments.suite {' '.join(two)}" in capsys.readouterr().out
    folder = Path("out/probe-truncation/stub/seeds_0-0")
    assert not (folder / "summary.json").exists()
    assert suite.suite(two) == 0
    assert launched[2] == ["--resume", str(folder), "--no-video"]
    assert rows(folder) == rows(Path("whole/probe-truncation/stub/seeds_0-0"))
    assert "resumed at env step" in folder.with_name("seeds_0-0.log").read_text()


def test_a_dying_run_does_not_stop_the_rest(launched, capsys):
    Path("g.toml").write_text(
        '[[cells]]\nenvs = ["probe-delayed"]\nalgos = ["stub"]\nseeds = 1\n'
        "flags = { break-at = 3 }\n"
        + '[[cells]]\nenvs = ["probe-constant"]\nalgos = ["refusing", "stub"]\nseeds = 1\n'
        "total_steps = 40\n"
    )
    assert suite.suite(["g.toml", "--out", "out"]) == 1
    assert len(launched) == 3
    assert seeds_on_record() == [("probe-constant", 0)]
    said = capsys.readouterr().out
    why = "loss/policy is not finite at env step"
    assert f"probe-delayed/stub/seeds_0-0 failed, exit code 1: {why}" in said
    assert "probe-constant/refusing/seeds_0-0: not applicable: Refusing wants other" in said
    assert why in Path("out/probe-delayed/stub/seeds_0-0.log").read_text()
    # Not applicable is no failure.
    assert suite.suite(["g.toml", "--out", "out", "--envs", "probe-constant"]) == 0


def test_a_run_killed_before_its_first_checkpoint_starts_afresh(launched):
    folder = Path("out/probe-truncation/stub/seeds_0-1")
    (folder / "seed_0").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert suite.suite([*PROBE, "--seeds", "2"]) == 0
    assert "--out" in launched[0]
    assert [seed for _, seed in seeds_on_record()] == [0, 1]


def test_a_finished_run_stays_so_without_its_checkpoints(launched):
    suite.suite([*PROBE, "--seeds", "2"])
    shutil.rmtree("out/probe-truncation/stub/seeds_0-1/checkpoints")
    assert suite.suite([*PROBE, "--seeds", "3"]) == 0
    assert len(launched) == 2
    assert [seed for _, seed in seeds_on_record()] == [0, 1, 2]


def test_other_settings_do_not_mix_with_what_is_there(launched):
    suite.suite([*PROBE, "--seeds", "1"])
    with pytest.raises(
        ValueError, match=r"has runs with .*--total-steps 400, not .*--total-steps 800"
    ):
        suite.suite([*PROBE, "--total-steps", "800", "--seeds", "2"])
    assert len(launched) == 1


def test_smoke_is_short_and_apart(launched):
    assert (
        suite.suite(
            [*PROBE[:4], "--total-steps", "9999999", "--out", "out", "--seeds", "5", "--smoke"]
        )
        == 0
    )
    config = folders.read_config(Path("out-smoke/probe-truncation/stub/seeds_0-1"))
    assert config["config"]["total_steps"] <= 5000
    assert not Path("out").exists()


def test_jobs_run_side_by_side_and_signals_go_to_each_once(scripted, monkeypatch, capsys):
    def step(seconds):
        """What happens while the suite sleeps."""
        running = [p for p in scripted if p.code is None]
        assert len(running) <= 2
        first, *rest = scripted
        if len(scripted) == 2 and first.code is None:
            make_run(Path("out/probe-delayed/stub/seeds_0-0"), env="probe-delayed", seeds=1)
            first.code = 0
        elif not any(p.signals for p in scripted):
            os.kill(os.getpid(), signal.SIGINT)
        elif all(len(p.signals) == 1 for p in rest):
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            for p in rest:
                p.code = 137

    monkeypatch.setattr(launch, "time", SimpleNamespace(sleep=step))
    argv = ["--envs", "probe-delayed", "probe-constant", "probe-action", "probe-truncation"]
    argv += ["--algos", "stub", "--seeds", "1", "--jobs", "2", "--out", "out"]
    assert suite.suite(argv) == 130
    assert [p.signals for p in scripted] == [[], [2, 15], [2, 15]]
    assert capsys.readouterr().out.count("waiting for the runs to save") == 1


def test_a_run_ended_by_a_signal_of_its_own_is_a_failure(scripted, monkeypatch, capsys):
    killed = SimpleNamespace(sleep=lambda _: setattr(scripted[0], "code", -9))
    monkeypatch.setattr(launch, "time", killed)
    assert suite.suite([*PROBE, "--seeds", "1"]) == 1
    assert "failed, ended by SIGKILL: it printed nothing" in capsys.readouterr().out


def test_the_last_line_is_the_last_starts_error():
    log = Path("run.log")
    log.write_text("$ first\nerror: long ago\n$ second\nTraceback\n\nKeyError: 'x'\n")
    assert launch.last_line(log) == "KeyError: 'x'"
    with log.open("a") as f:
        f.write("error: no room\nwarning: on leaving\n")
    assert launch.last_line(log) == "no room"


def test_two_suites_do_not_share_a_folder(launched):
    Path("out").mkdir()
    with Path("out/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another suite"):
            suite.suite(PROBE)
    assert not launched


GRID = '[[cells]]\nenvs = ["probe-delayed"]\nalgos = ["stub"]\n'
BAD = [
    ("", None, "which runs"),
    ("--envs probe-delayed", None, "which runs"),
    ("--envs probe-delaid --algos stub", None, "did you mean probe-delayed?"),
    ("--envs probe-delayed --algos stubb", None, "did you mean stub?"),
    ("--envs probe-delayed --algos stub stub", None, "twice"),
    ("--envs probe-delayed --algos stub --seeds 0", None, "seeds must be at least 1"),
    ("--envs probe-delayed --algos stub --first-seed -1", None, "first_seed must be at least 0"),
    ("--envs probe-delayed --algos stub --total-steps 0", None, "total_steps must be at least 1"),
    ("--envs probe-delayed --algos stub --jobs 0", None, "--jobs must be at least 1"),
    ("--envs probe-delayed --algos stub --seeds-per-run 0", None, "--seeds-per-run must be"),
    ("--envs probe-delayed --algos stub --sedes 3", None, "did you mean --seeds?"),
    ("clasic", None, "did you mean classic?"),
    ("nowhere/g.toml", None, "there is no grid file"),
    ("g.toml", "[[cells", "is not TOML"),
    ("g.toml", "", "has no [[cells]]"),
    ("g.toml", "cells = 3", "has no [[cells]]"),
    ("g.toml", "sedes = 3\n" + GRID, "unknown key 'sedes'"),
    ("g.toml", GRID + "sedes = 3", "unknown key 'sedes': did you mean seeds?"),
    ("g.toml", GRID + 'seeds = "3"', "seeds must be of type int"),
    ("g.toml", GRID + "seeds = true", "seeds must be of type int"),
    ("g.toml", '[[cells]]\nenvs = ["probe-delayed"]', "needs algos"),
    ("g.toml", '[[cells]]\nenvs = [3]\nalgos = ["stub"]', "needs envs"),
    ("g.toml", GRID + "flags = { ratte = 1 }", "unknown flag ratte: did you mean rate?"),
    ("g.toml", GRID + "flags = { num-envs = 0 }", "num_envs must be at least 1, got 0"),
    ("g.toml", GRID + "flags = { seeds = 4 }", "the flag seeds is the grid's own"),
    ("g.toml", GRID + 'flags = { rate = "x" }', "'x' is not a number"),
    ("g.toml", GRID + "total_steps = 3000000000", "total_steps must be below 2147483648"),
    ("g.toml --envs probe-constant", GRID, "the grid has no env 'probe-constant'"),
]


@pytest.mark.parametrize(("argv", "content", "message"), BAD)
def test_bad_input_is_one_line_before_anything_runs(launched, tmp_path, argv, content, message):
    if content is not None:
        Path("g.toml").write_text(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError) as error:  # noqa: PT011  the message is looked at below
        suite.suite(argv.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not launched
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", [path.stem for path in grid.SHIPPED.glob("*.toml")])
def test_shipped_grids_name_what_there_is(name, monkeypatch):
    for algo in ALGORITHMS:
        monkeypatch.setitem(agents.ALGORITHMS, algo, agents.ALGORITHMS.get(algo, stub.Stub))
    cells = grid.load(name)
    grid.check(cells)
    assert {cell.algo for cell in cells} <= {*ALGORITHMS, *agents.TOKEN_ALGORITHMS}
    assert {cell.env for cell in cells} <= {*envs.names()}


def test_flags_of_a_grid_become_those_of_a_run():
    Path("g.toml").write_text(
        GRID + "total_steps = 100\nflags = { rate = 1e-3, max_episode_steps = 5 }"
    )
    (cell,) = grid.load("g.toml")
    grid.check([cell])
    expected = (
        "--env probe-delayed --algo stub --total-steps 100 --rate 0.001 --max-episode-steps 5"
    )
    assert cell.argv() == expected.split()
    assert arguments.as_flags({"a_b": [1, 2], "c": True, "d_e": False, "f": None}) == (
        ["--a-b", "1", "2", "--c", "--no-d-e", "--f", "None"]
    )


def test_the_board_tells_how_far_and_how_long(monkeypatch):
    clock, text = [100.0], io.StringIO()
    monkeypatch.setattr(board.time, "monotonic", lambda: clock[0])
    cell = grid.Cell("probe-constant", "stub", total_steps=1000)
    early, late = grid.PlannedRun(cell, 0, 2), grid.PlannedRun(cell, 2, 1)
    folder = Path("out") / early.folder
    (folder / "seed_0").mkdir(parents=True)
    file = folder / "seed_0" / "metrics.jsonl"
    file.write_text('{"env_steps": 100}\n')  # before this session
    shown = board.Board(Path("out"), [early, late], Console(file=text, width=200))
    assert shown.time_left() is None
    file.write_text('{"env_steps": 100}\n{"env_steps": 400}\n{"env_st')  # a row half written
    clock[0] += 60.0
    shown.update([early])
    # 2 x 300 steps in a minute; of 3000 there are 2200 left.
    assert shown.time_left() == pytest.approx(60 * 2200 / 600)
    line = text.getvalue()
    assert "0 of 2 runs  800 of 3 k steps  1 min 00 s, 3 min 40 s left" in line
    assert "probe-constant/stub 40%" in line
    shown.dropped(early, "gone")
    assert shown.time_left() is None
    assert board.last_row(Path("nothing")) == {}


def test_on_a_terminal_there_is_one_live_line():
    text = io.StringIO()
    cell = grid.Cell("probe-constant", "stub", total_steps=1000)
    run = grid.PlannedRun(cell, 0, 1)
    console = Console(file=text, force_terminal=True, width=160)
    with board.Board(Path("out"), [run], console) as shown:
        shown.looked_at = -1e9
        shown.update([run])
        shown.say("said in between")
    assert "0 of 1 runs" in text.getvalue()
    assert "said in between" in text.getvalue()


STEPS = 200_000


def communicate(process):
    try:
        return process.communicate(timeout=200)[0]
    except subprocess.TimeoutExpired:
        process.terminate()  # killed, it would leave its run behind
        return process.communicate()[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_real_suite_stops_and_goes_on(tmp_path, number):
    command = [sys.executable, "-m", "experiments.suite", "--envs", "probe-delayed"]
    command += [
        "--algos",
        "ppo",
        "--seeds",
        "2",
        "--total-steps",
        str(STEPS),
        "--out",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=environment, **pipes)
    folder = tmp_path / "out" / "probe-delayed" / "ppo" / "seeds_0-1"
    deadline = time.monotonic() + 200
    while not folders.read_rows(folders.metrics_file(folder, 2, 0)):
        assert process.poll() is None, communicate(process)
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    said = communicate(process)
    assert process.returncode == 128 + number, said
    assert "resume with: python -m experiments.suite --envs probe-delayed" in said
    assert "stopped; resume with" in folder.with_name("seeds_0-1.log").read_text()
    before = folders.read_rows(folders.metrics_file(folder, 2, 0))
    process = subprocess.Popen(command, env=environment, **pipes)
    said = communicate(process)
    assert process.returncode == 0, said
    after = folders.read_rows(folders.metrics_file(folder, 2, 0))
    assert after[: len(before)] == before
    total = folders.read_config(folder)["config"]["total_steps"]
    assert after[-1]["env_steps"] == total >= STEPS > before[-1]["env_steps"]
    assert [r["seed"] for r in records.read(tmp_path / "out" / "records.json")[1]] == [0, 1]


def test_token_tasks_are_trained_by_their_own_program():
    (cell,) = grid.product(["tokens-sort-4"], ["dr-grpo"], total_steps=1000)
    grid.check([cell])
    assert cell.argv() == ["--task", "sort-4", "--algo", "dr-grpo", "--total-steps", "1000"]
    assert arguments.program(cell.domain) == "experiments.tokens"
    with pytest.raises(ValueError, match="unknown algorithm 'sac'"):
        grid.check(grid.product(["tokens-sort"], ["sac"]))
