"""Folders of runs: names of any kind, two at once, full disks, and starts that fail."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

import agents
from experiments import cli, load, play
from experiments.console import locks
from experiments.console.locks import FolderBusyError, exclusive_lock
from experiments.evaluation import evaluator
from experiments.run import checkpoints, folders, loop, schema, summary, tracking
from experiments.run.whole import write_whole
from tests.experiments import stub

ROOT = Path(__file__).parents[2]
FLAGS = ["--env", "probe-truncation", "--algo", "stub", "--total-steps", "8", "--no-video"]
NAMES = [
    "lr[3e-4]",
    "[!a]",
    "a*b?c",
    "back\\slash",
    "two  blanks",
    "new\nline",
    'it\'s "so"',
    "é日本",
    "100%",
    "~",
    "dots...",
    "gs:",
    "{x}$HOME`ls`;&|",
    ":smile:",
    "half \udcff",
]


@pytest.fixture(autouse=True)
def _stub(monkeypatch, tmp_path):
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def _finished(tmp_path_factory):
    """A finished run, made once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(agents.ALGORITHMS, "stub", stub.Stub)
        patch.chdir(tmp_path_factory.mktemp("finished"))
        assert cli.main([*FLAGS, "--out", "run"]) == 0
        return Path("run").resolve()


@pytest.fixture
def _run(_finished, _stub):
    """Puts a copy of the finished run into the working folder."""
    shutil.copytree(_finished, "run")


@pytest.mark.parametrize("name", NAMES)
def test_signs_in_the_path_of_a_checkpoint(tmp_path, monkeypatch, name):
    """In the folder's own name, in one above it, and in the working folder's."""
    template = {"x": jax.ShapeDtypeStruct((3,), np.float32)}
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    for folder in (Path("checkpoints"), Path("..", name, name)):
        checkpoints.save(folder, 7, {"x": np.arange(3, dtype=np.float32)}, {})
        state, _, steps = checkpoints.restore(folder, template, pytest.fail)
        assert steps == 7
        assert state["x"].tolist() == [0, 1, 2]
    assert sorted(p.name for p in (tmp_path / name).iterdir()) == sorted(["checkpoints", name])


@pytest.mark.parametrize("name", ["lr[3e-4]", "back\\slash", "\u00e9\n:smile:  -x"])
def test_brackets_in_path(capsys, name):
    assert cli.main([*FLAGS, "--out", name]) == 0
    load(name)
    assert play.play([name, "--episodes", "2"]) == 0
    assert cli.main(["--resume", name]) == 0
    assert [p.name for p in Path().iterdir()] == [name]
    assert capsys.readouterr().err == ""


def test_a_checkpoint_that_could_not_be_read_again_is_an_error_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_MANIFEST", Path("state", "nowhere"))
    with pytest.raises(OSError, match="cannot be written: it could not be read again"):
        checkpoints.save(tmp_path, 1, {"x": np.ones(3)}, {})


def test_where_no_link_can_be_made_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("a privilege is not held")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(OSError, match="a path of letters, digits") as error:
        checkpoints.save(tmp_path / "[a]", 1, {"x": np.ones(3)}, {})
    assert "\n" not in str(error.value)
    checkpoints.save(tmp_path / "a", 1, {"x": np.ones(3)}, {})


@pytest.mark.parametrize(
    "name", ["plain", "two  blanks", "new\nline", "it's", "-x", "\\", "é", "$(ls)", "half \udcff"]
)
def test_a_printed_path_can_be_pasted(name):
    code = "import os,sys; sys.stdout.buffer.write(os.fsencode(sys.argv[1]))"
    line = f'{sys.executable} -c "{code}" {folders.quoted(name)}'
    said = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert os.path.normpath(os.fsdecode(said)) == os.path.normpath(name)
    assert said[:1] != b"-"


def test_same_second_default_folders_are_two(monkeypatch):
    """Two runs of the same name, begun in the same second, by threads that start together."""
    folder, barrier, found = Path("results/runs/x"), threading.Barrier(8), []

    def begin():
        barrier.wait()
        found.append(folders.reserve(folder))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(p.name for p in found) == ["x", *(f"x-{i}" for i in range(2, 9))]
    with monkeypatch.context() as patch:
        patch.setattr(folders, "default_folder", lambda *_: folder)
        assert cli.main(FLAGS) == cli.main(FLAGS) == 0
    assert Path("results/runs/x-9/summary.json").exists()
    assert Path("results/runs/x-10/summary.json").exists()


def test_same_second_same_out_leaves_the_others_files_alone(capsys, monkeypatch):
    """The second comes when the first has locked the folder and written nothing yet, then when it has."""
    with exclusive_lock(Path("run"), "another process"):
        assert cli.main([*FLAGS, "--out", "run", "--rate", "0.1"]) == 2
        error = capsys.readouterr().err
        assert error == "error: another process is at work in run\n"
        assert [p.name for p in Path("run").iterdir()] == [locks.NAME]
        folders.create(Path("run"), stub.spec().to_json())
        before = Path("run/config.json").read_bytes()
        # As if it had looked before.
        with monkeypatch.context() as patch:
            patch.setattr(folders, "refuse_taken", lambda *_: None)
            assert cli.main([*FLAGS, "--out", "run", "--rate", "0.1"]) == 2
        assert Path("run/config.json").read_bytes() == before
    assert cli.main([*FLAGS, "--out", "run", "--rate", "0.1"]) == 2
    error = capsys.readouterr().err
    assert "choose another --out" in error
    assert "--resume" not in error
    assert Path("run/config.json").read_bytes() == before


def test_the_hint_goes_on_with_the_same_run_only(capsys):
    assert cli.main([*FLAGS, "--out", "a run"]) == 0
    capsys.readouterr()
    assert cli.main([*FLAGS, "--out", "a run"]) == 2
    assert "--resume 'a run' continues it" in capsys.readouterr().err
    assert cli.main([*FLAGS, "--out", "a run", "--seed", "1"]) == 2
    assert "--resume" not in capsys.readouterr().err


@pytest.mark.parametrize("missing", [(), ("fcntl",), ("fcntl", "msvcrt")])
def test_the_lock_without_fcntl(tmp_path, monkeypatch, missing):
    for name in missing:
        monkeypatch.setattr(locks, name, None)
    with (
        exclusive_lock(tmp_path / "run", "another process"),
        pytest.raises(FolderBusyError, match="another process is at work in"),
        exclusive_lock(tmp_path / "run", "another process"),
    ):
        pass
    with exclusive_lock(tmp_path / "run", "another process"):
        folders.create(tmp_path / "run", stub.spec().to_json())
        with pytest.raises(FileExistsError):
            folders.refuse_taken(tmp_path / "run", {})


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    take, path = locks._take, tmp_path / locks.NAME
    left = [1]

    def taken(lock, _):
        if left.pop() if left else False:
            path.unlink()
        return take(lock, path)

    monkeypatch.setattr(locks, "_take", taken)
    with exclusive_lock(tmp_path, "another process") as lock:
        assert os.path.samestat(path.stat(), os.fstat(lock.fileno()))


@pytest.mark.parametrize(
    "source",
    [
        "def transition(self, state, action, key): return state[::-1] if action > 0 else 1 / 0",
        "def reward(self, state, action, next_state): return {}",
    ],
)
def test_a_start_that_fails_can_be_begun_again(tmp_path, capsys, source):
    head = "import flax.struct\nfrom envs.probes import TruncationOnly\n\n"
    head += "@flax.struct.dataclass\nclass Mine(TruncationOnly):\n    "
    (tmp_path / "mine.py").write_text(head + source + "\n")
    flags = [*FLAGS, "--env", f"{tmp_path}/mine.py:Mine", "--out", "run", "--algo", "ppo"]
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever JAX makes of it
        assert cli.main(flags) == 0
    assert not Path("run").exists()
    assert cli.main([*FLAGS, "--out", "run"]) == 0


def test_a_failure_after_learning_keeps_the_run(monkeypatch):
    def fail(*_):
        raise RuntimeError("no summary")

    with monkeypatch.context() as patch:
        patch.setattr(summary, "summarise", fail)
        with pytest.raises(RuntimeError, match="no summary"):
            cli.main([*FLAGS, "--out", "run"])
    assert checkpoints.steps(Path("run/checkpoints"))[0] == 8
    assert cli.main(["--resume", "run"]) == 0


def test_discarding_leaves_what_others_put_there(tmp_path):
    folder = tmp_path / "run"
    folders.create(folder, stub.spec(seeds=2).to_json())
    (folder / "notes.txt").write_text("mine")
    folders.discard(folder, 2)
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("flag", ["--out=", "--resume="])
def test_an_empty_folder_name_is_one_line(tmp_path, capsys, flag):
    assert cli.main([*FLAGS, flag]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


FULL = """
import resource, sys
from experiments import cli
import agents
from tests.experiments import stub
agents.ALGORITHMS["stub"] = stub.Stub
resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, {bytes}))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("size", "file"),
    [(100, "config.json"), pytest.param(2000, "curve.png", marks=pytest.mark.slow)],
)
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, size, file):
    """No file may have more than so many bytes."""
    command = [sys.executable, "-c", FULL.format(bytes=size), *FLAGS, "--out", "run"]
    own = {"PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own})
    assert done.stderr == f"error: run/{file}: File too large\n"
    if file == "config.json":
        assert done.returncode == 2
        assert not (tmp_path / "run").exists()
    else:
        assert done.returncode == 1
        assert "when that is fixed, resume with: " in done.stdout


FULL_CHECKPOINT = """
import resource
from pathlib import Path
import numpy as np
from experiments.run import checkpoints
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
checkpoints.save(Path("run[1]"), 1, {"x": np.random.default_rng(0).random(9999)}, {})
"""


def test_a_full_disk_at_a_checkpoint_is_one_line(tmp_path):
    command = [sys.executable, "-c", FULL_CHECKPOINT]
    own = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own})
    # Nothing before the traceback of this test's own program, whose last line is the error.
    assert done.stderr.startswith("Traceback")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"OSError: the checkpoint {tmp_path}/run[1]/1 cannot be written: ")
    assert "File too large" in last


def test_rows_that_cannot_be_written_name_their_file(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as error:
        folders.append_rows(tmp_path / "metrics.jsonl", [{"env_steps": 1}])
    assert error.value.filename == str(tmp_path / "metrics.jsonl")
    assert error.value.errno == errno.ENOSPC


PRINTS = """
import sys
from experiments.console import streams
streams.make_lasting()
for i in range(2000):
    print("± 日本", i)
print("done", file=sys.stderr)
open(sys.argv[1], "w").write("finished")
"""


@pytest.mark.parametrize(
    "redirect", ["| head -1", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "> /dev/full", "| true"]
)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_a_closed_or_full_stdout_fails_nothing(tmp_path, redirect, encoding):
    script = tmp_path / "prints.py"
    script.write_text(PRINTS)
    line = f"set -o pipefail; {sys.executable} {script} finished {redirect}"
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0
    assert Path("finished").read_text() == "finished"
    assert done.stderr.strip() in (b"done", b"")
    if redirect == "| head -1" and encoding != "latin-1":
        assert done.stdout.startswith(
            b"+- \\u65e5" if encoding == "ascii" else "± ".encode(encoding)
        )


SHADOWS = {"package": "agents/__init__.py", "module": "envs.py"}


@pytest.mark.parametrize(("kind", "command"), [("package", "train"), ("module", "play")])
def test_folders_of_the_same_name(tmp_path, kind, command):
    file = tmp_path / SHADOWS[kind]
    file.parent.mkdir(exist_ok=True)
    file.touch()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    module = ["-m", f"experiments.{command}", "--help"]
    done = subprocess.run([sys.executable, *module], capture_output=True, text=True, env=env)
    found = tmp_path / SHADOWS[kind].partition("/")[0]
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {found} would be taken for the '{found.stem}'")
    assert f"python -P -m experiments.{command}" in done.stderr
    imported = [sys.executable, "-c", "import experiments"]
    done = subprocess.run(imported, capture_output=True, text=True, env=env)
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {found} would be taken")


def test_resume_keeps_no_video_and_track(tmp_path, monkeypatch):
    started, videos = [], []
    monkeypatch.setattr(tracking, "require", lambda kind: None)
    monkeypatch.setattr(
        tracking, "start", lambda kind, *_: started.append(kind) or (lambda i, rows: None)
    )
    monkeypatch.setattr(summary, "write_video", lambda *_: videos.append(1) or [])
    assert cli.main([*FLAGS, "--track", "wandb", "--out", "run"]) == 0
    assert cli.main(["--resume", "run"]) == 0
    assert (started, videos) == (["wandb", "wandb"], [])
    assert cli.main(["--resume", "run", "--video", "--track", "none"]) == 0
    assert (started[-1], videos) == ("none", [1])


def edited(**changes):
    config = json.loads(Path("run/config.json").read_text())
    for name, value in changes.items():
        table, _, field = name.rpartition("__")
        where = config[table] if table else config
        if value is None:
            del where[field]
        else:
            where[field] = value
    Path("run/config.json").write_text(json.dumps(config))


@pytest.mark.usefixtures("_run")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config__rate": None}, "config.json lacks config.rate: what this version does without"),
        ({"config__rate": "0.5"}, "config.json: config.rate must be a finite number, got '0.5'"),
        ({"config__num_envs": 4.0}, "config.num_envs must be a whole number, got 4.0"),
        ({"config__num_envs": True}, "config.num_envs must be a whole number, got True"),
        ({"config__num_envs": 0}, "config.json: num_envs must be at least 1"),
        ({"config__more": 1}, "config.json: config.more is no setting of this version"),
        ({"domain": None}, "config.json lacks domain"),
        ({"domain": "games"}, "config.json: domain must be 'control' or 'tokens', got 'games'"),
        ({"algo": "stubb"}, "config.json: unknown algorithm 'stubb'"),
        ({"seeds": 0}, "config.json: seeds must be a whole number of at least 1, got 0"),
        ({"video": "no"}, "config.json: video must be true or false, got 'no'"),
        ({"imports": "a.py"}, "config.json: imports must be a list, got 'a.py'"),
        ({"env_kwargs__max_episode_steps": "x"}, "env_kwargs.max_episode_steps must be a whole"),
        ({"env_kwargs__more": 1}, "does not take these options"),
    ],
)
def test_a_config_with_a_missing_or_mistyped_field(capsys, change, message):
    edited(**change)
    capsys.readouterr()
    assert cli.main(["--resume", "run"]) == 2
    assert message in capsys.readouterr().err
    for way in (lambda: play.play(["run"]), lambda: load("run")):
        with pytest.raises(ValueError, match=r"run/config\.json|does not take") as error:
            way()
        assert message in str(error.value)


@pytest.mark.usefixtures("_run")
def test_an_unknown_kind_of_tracking_in_a_config(capsys):
    edited(track="paper")
    capsys.readouterr()
    assert cli.main(["--resume", "run"]) == 2
    assert "track must be 'none' or 'tensorboard' or 'wandb'" in capsys.readouterr().err


@pytest.mark.usefixtures("_run")
def test_an_option_that_the_config_lacks_is_the_default_with_a_word(capsys):
    edited(env_kwargs__max_episode_steps=None)
    load("run")
    assert "run/config.json lacks env_kwargs.max_episode_steps" in capsys.readouterr().err


@pytest.mark.usefixtures("_run")
def test_a_resume_without_metrics_is_one_line(capsys):
    Path("run/metrics.jsonl").unlink()
    capsys.readouterr()
    assert cli.main(["--resume", "run"]) == 2
    error = capsys.readouterr().err
    assert "run/metrics.jsonl lacks the rows" in error
    assert error.count("\n") == 1


def test_a_resume_without_the_row_from_before_training_is_one_line(capsys, monkeypatch):
    """As a run of tokens writes it, of which the summary tells."""
    at_start = dataclasses.replace(evaluator.evaluator("control"), at_start=True)
    monkeypatch.setattr(loop, "evaluator", lambda domain: at_start)
    assert cli.main([*FLAGS, "--out", "run"]) == 0
    first, *rest = Path("run/metrics.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(first)["env_steps"] == 0
    Path("run/metrics.jsonl").write_text("".join(rest))
    capsys.readouterr()
    assert cli.main(["--resume", "run"]) == 2
    assert "run/metrics.jsonl lacks the row from before training" in capsys.readouterr().err


def test_every_algorithms_config_survives_its_own_schema():
    from experiments.run import kinds

    for learners in (agents.ALGORITHMS, agents.TOKEN_ALGORITHMS):
        for learner in learners.values():
            stored = folders.plain(vars(learner.Config()))
            kinds.require_settings(stored, learner.Config, Path("config.json"))
    assert kinds.kind_of(tuple[int, ...]) == schema.ListOf(schema.Whole())
    assert kinds.kind_of(float | None) == schema.Maybe(schema.Number())


def test_files_are_written_whole_or_not_at_all(tmp_path):
    def make(stem, fails=False):
        paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".mp4", ".gif")]
        for path in paths:
            path.write_text("half")
        if fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        return paths

    stem = tmp_path / "new[1]" / "a:b%d"
    with pytest.raises(OSError, match="No space") as error:
        write_whole(lambda fresh: make(fresh, fails=True), stem)
    assert error.value.filename == str(stem)
    assert not stem.parent.exists()
    found = write_whole(make, stem)
    assert sorted(stem.parent.iterdir()) == sorted(found)
    assert [path.name for path in found] == ["a:b%d.mp4", "a:b%d.gif"]
    (tmp_path / "full.mp4").mkdir()
    with pytest.raises(OSError, match=r"full\.mp4'"):
        write_whole(make, tmp_path / "full")
