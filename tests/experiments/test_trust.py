"""Files that a run names are executed again only where they are those with which this user began the run."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import agents
from experiments import load, play
from experiments.envs import inspect_envs
from experiments.grids.plan import choose_cells
from experiments.run import command, records, spec, trust
from experiments.suite import SuiteFlags
from tests.experiments import stub

MINE = """
import pathlib
import flax.struct
import envs
from envs.probes import TruncationOnly

pathlib.Path("ran").touch()

@flax.struct.dataclass
class Mine(TruncationOnly):
    weight: float = 1.0
"""
FLAGS = ["--algo", "stub", "--total-steps", "8", "--no-video", "--out", "run"]


@pytest.fixture(autouse=True)
def _stub(monkeypatch, tmp_path):
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    assert command.main(["--env", "mine.py:Mine", *FLAGS]) == 0
    (tmp_path / "ran").unlink()
    return tmp_path / "run"


def edit(run, **changes):
    file = run / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def refused(run, message, file):
    """By every way in, with the name of the file, and without executing it."""
    for way in (lambda: spec.open_run(run), lambda: load(run), lambda: play.play([str(run)])):
        with pytest.raises(ValueError, match=message) as error:
            way()
        assert f"would execute {file}, and did not" in str(error.value)
        assert "--trust" in str(error.value)
    assert not Path("ran").exists()


def fresh(folder):
    """A copy, which this process has not loaded yet."""
    folder.mkdir()
    return Path(shutil.copy("mine.py", folder / "mine.py"))


def test_ones_own_run_is_played_loaded_and_resumed_without_a_word(run, capsys):
    assert json.loads((run / "config.json").read_text())["files"].keys() == {
        f"{run.parent}/mine.py"
    }
    assert play.play([str(run), "--episodes", "2"]) == 0
    load(run)
    assert command.main(["--resume", str(run)]) == 0


def test_a_changed_file_is_not_run(run, capsys):
    file = run.parent / "mine.py"
    file.write_text(MINE + "\n# changed\n")
    refused(run, "another one than when the run began", file)
    assert command.main(["--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert "another one than when the run began" in error
    assert error.count("\n") == 1
    assert play.play([str(run), "--episodes", "2", "--trust"]) == 0
    load(run, trust=True)
    assert command.main(["--resume", str(run), "--trust"]) == 0


def test_a_file_in_a_folder_from_elsewhere_is_not_run(run, tmp_path):
    """Its config.json names a file that came with it, and that one's true hash."""
    shutil.copytree(run, tmp_path / "received")
    file = fresh(tmp_path / "received" / "code")
    sha = next(iter(json.loads((run / "config.json").read_text())["files"].values()))
    edit(tmp_path / "received", env=f"{file}:Mine", files={str(file): sha})
    refused(tmp_path / "received", "not begun by you on this machine", file)
    assert spec.open_run(tmp_path / "received", trust=True)[1].env.weight == 1.0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"files": None}, "does not say what the file was"),  # an older version's
        ({"seal": None}, "not begun by you"),
        ({"seal": "0" * 64}, "not begun by you"),
        ({"env_kwargs": {"weight": 2.0, "max_episode_steps": 3}}, "not begun by you"),
    ],
)
def test_what_was_edited_is_not_run(run, change, why):
    edit(run, **change)
    refused(run, why, run.parent / "mine.py")


def test_another_name_in_a_file_of_ones_own_is_not_run(run):
    """`Path` is in the file, too, and would be called with what config.json says."""
    edit(run, env=f"{run.parent}/mine.py:pathlib")
    refused(run, "not begun by you", run.parent / "mine.py")


def test_a_run_of_another_user_is_not_run(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    refused(run, "not begun by you", run.parent / "mine.py")


def test_without_a_home_training_goes_on_and_play_asks(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "no").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no"))
    assert command.main(["--env", "mine.py:Mine", *FLAGS]) == 0
    with pytest.raises(ValueError, match="not begun by you"):
        load(tmp_path / "run")
    load(tmp_path / "run", trust=True)


def test_the_key_is_ones_own(run):
    key = Path(os.environ["XDG_CONFIG_HOME"]) / "stride" / "key"
    assert key.stat().st_mode & 0o077 == 0
    assert len(key.read_bytes()) == 32


def test_a_module_of_gymnasium_is_found_without_importing_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "far_pkg").mkdir()
    (tmp_path / "far_pkg" / "__init__.py").write_text("raise SystemExit('executed')\n")
    (tmp_path / "far_pkg" / "far.py").write_text("raise SystemExit('executed')\n")
    (tmp_path / "far_alone.py").write_text("raise SystemExit('executed')\n")
    for module, file in (("far_pkg.far", "far_pkg/far.py"), ("far_alone", "far_alone.py")):
        found = trust.named_files(f"gym:{module}:X-v0", {}, ())
        assert list(found.values()) == [tmp_path / file]
        config = {"env": f"gym:{module}:X-v0", "env_kwargs": {}}
        with pytest.raises(ValueError, match=f"would execute {tmp_path / file}, and did not"):
            trust.require_trusted(tmp_path, config, False)
    assert trust.named_files("gym:X-v0", {}, ()) == {}
    assert trust.named_files("gym:nowhere:X-v0", {}, ()) == {}
    trust.require_trusted(tmp_path, {"env": "gym:CartPole-v1", "env_kwargs": {}}, False)


def test_files_in_options_and_imports_count(tmp_path):
    (tmp_path / "a.py").touch()
    (tmp_path / "b.py").touch()
    found = trust.named_files("tokens-sort", {"reward": "a.py:score"}, ("b.py",))
    assert set(found.values()) == {tmp_path / "a.py", tmp_path / "b.py"}


def test_a_tokens_task_of_a_file_counts(tmp_path):
    (tmp_path / "task.py").touch()
    config = {"env": f"{tmp_path}/task.py:Task", "env_kwargs": {}, "domain": "tokens"}
    with pytest.raises(ValueError, match=r"would execute .*task\.py, and did not"):
        trust.require_trusted(tmp_path, config, False)


def test_records_of_a_run_execute_nothing(run):
    (run.parent / "mine.py").write_text("raise SystemExit('executed')\n")
    (found,) = records.record(run)
    assert "--env mine.py:Mine --algo stub" in found["command"]
    assert "--weight 1.0" in found["command"]


def test_trust_without_resume_says_what_it_is_for(capsys):
    assert command.main(["--env", "probe-constant", "--trust"]) == 2
    assert "--trust goes with --resume" in capsys.readouterr().err


REGISTERS = """
import pathlib
import envs
from envs.probes import TruncationOnly
pathlib.Path("ran").touch()
envs.register("{name}", TruncationOnly)
"""


def test_an_environment_of_an_imported_file(tmp_path, capsys):
    (tmp_path / "names.py").write_text(REGISTERS.format(name="of-names-py"))
    assert command.main(["--env", "of-names-py", *FLAGS]) == 2
    assert "unknown environment" in capsys.readouterr().err
    assert command.main(["--import", "names.py", "--env", "of-names-py", *FLAGS]) == 0
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["imports"] == [f"{tmp_path}/names.py"]
    assert stored["files"].keys() == {f"{tmp_path}/names.py"}
    load("run")
    assert command.main(["--resume", "run"]) == 0
    assert command.main(["--resume", "run", "--import", "names.py"]) == 0
    (tmp_path / "other.py").touch()
    capsys.readouterr()
    assert command.main(["--resume", "run", "--import", "other.py"]) == 2
    assert f"--import {tmp_path}/other.py contradicts the run" in capsys.readouterr().err
    (tmp_path / "ran").unlink()
    (tmp_path / "names.py").write_text(REGISTERS.format(name="changed"))
    refused(tmp_path / "run", "another one than", tmp_path / "names.py")
    (found,) = records.record(tmp_path / "run")
    assert "--import names.py --env of-names-py" in found["command"]


def test_an_algorithm_of_an_imported_file(tmp_path):
    source = (
        "import agents\nfrom tests.experiments import stub\nagents.ALGORITHMS['mine'] = stub.Stub\n"
    )
    (tmp_path / "mine_first.py").write_text(source)
    flags = ["--algo", "mine", *FLAGS[2:]]
    try:
        assert command.main(["--import", "mine_first.py", "--env", "probe-constant", *flags]) == 0
        for way in (
            lambda: callable(load("run")),
            lambda: play.play(["run"]) == 0,
            lambda: command.main(["--resume", "run"]) == 0,
        ):
            # As in a new process.
            del agents.ALGORITHMS["mine"]
            del sys.modules[next(name for name in sys.modules if name.startswith("mine_first_"))]
            assert way()
    finally:
        agents.ALGORITHMS.pop("mine", None)


def test_an_algorithm_of_a_file(tmp_path, capsys):
    source = "from tests.experiments import stub\nclass Own(stub.Stub): pass\n"
    (tmp_path / "own.py").write_text(source)
    one_flag = ["--algo", "own.py:Own", *FLAGS[2:]]
    name = f"{tmp_path}/own.py:Own"
    try:
        assert command.main(["--env", "probe-constant", *one_flag]) == 0
        stored = json.loads((tmp_path / "run" / "config.json").read_text())
        assert (stored["algo"], stored["imports"]) == ("Own", [name])
        assert stored["files"].keys() == {f"{tmp_path}/own.py"}
        (kept,) = records.record(tmp_path / "run")
        assert "--import own.py:Own --env probe-constant --algo Own" in kept["command"]
        for way in (
            lambda: callable(load("run")),
            lambda: play.play(["run"]) == 0,
            lambda: command.main(["--resume", "run"]) == 0,
            lambda: command.main(["--resume", "run", "--algo", "own.py:Own"]) == 0,
            lambda: command.main(["--resume", "run", "--algo", "Own"]) == 0,
        ):
            # As in a new process.
            del agents.ALGORITHMS["Own"]
            del sys.modules[next(name for name in sys.modules if name.startswith("own_"))]
            assert way()
        (tmp_path / "own.py").write_text(source + "\n")
        refused(tmp_path / "run", "another one than", tmp_path / "own.py")
    finally:
        agents.ALGORITHMS.pop("Own", None)


@pytest.mark.parametrize(
    ("algo", "message"),
    [
        ("own.py:Onw", "own.py has no algorithm 'Onw': did you mean Own?"),
        (
            "own.py:Half",
            "Half in {}/own.py is not an algorithm: it lacks buffer_bytes, learned, step",
        ),
        ("own.py:ppo", "stride has an algorithm ppo; rename the class"),
        ("own.py", "own.py needs the name of a class, FILE.py:NAME"),
        ("none.py:Own", "there is no file {}/none.py"),
    ],
)
def test_a_file_without_the_algorithm_is_one_line(tmp_path, capsys, algo, message):
    source = (
        "from tests.experiments import stub\nclass Own(stub.Stub): pass\nclass ppo(Own): pass\n"
        "class Half:\n    Config = init = 0\n"
    )
    (tmp_path / "own.py").write_text(source)
    assert command.main(["--env", "probe-constant", "--algo", algo, *FLAGS[2:]]) == 2
    error = capsys.readouterr().err
    assert message.format(tmp_path) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_checker_and_a_suite_take_imports(tmp_path, capsys):
    (tmp_path / "names.py").write_text(REGISTERS.format(name="of-a-suite"))
    assert inspect_envs(["--check", "of-a-suite", "--import", "names.py"]) == 0
    flags = SuiteFlags(envs=("of-a-suite",), algos=("stub",), imports=("names.py",))
    (cell,) = choose_cells(flags)
    assert cell.argv()[:4] == ["--import", f"{tmp_path}/names.py", "--env", "of-a-suite"]


@pytest.mark.parametrize(
    ("source", "message"),
    [(None, "there is no file"), ("1 / 0", "names2.py, line 1: ZeroDivisionError")],
)
def test_a_file_that_cannot_be_imported_is_one_line(tmp_path, capsys, source, message):
    if source:
        (tmp_path / "names2.py").write_text(source)
    assert command.main(["--import", "names2.py", "--env", "walker", *FLAGS]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
