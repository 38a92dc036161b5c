import json
import sys

import pytest

import agents
import envs
from experiments.envs import inspect_envs, listing
from experiments.run import command, folders, spec
from experiments.user_envs import load
from tests.experiments import stub

ROBOT = """
import flax.struct
from beside import LIMIT
from envs.base import Env
from envs.probes import TruncationOnly

@flax.struct.dataclass
class Robot(TruncationOnly):
    weight: float = 1.0  # of a kilogram
    rate: float = 3.0  # a name that the learner has too
    max_episode_steps: int = flax.struct.field(pytree_node=False, default=LIMIT)

def make(tall: bool = False):
    if tall:
        raise ValueError("too tall")
    return Robot(weight=2.0)

class Plain(TruncationOnly):
    pass

class Bare:
    def initial(self, key): ...

@flax.struct.dataclass
class Half(Env):
    observation_space = None

    def initial(self, key): ...

def fails():
    return 1 / 0

number = 3
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    (tmp_path / "robot.py").write_text(ROBOT)
    (tmp_path / "beside.py").write_text("LIMIT = 7\n")
    (tmp_path / "broken.py").write_text("x = 1\ny = x.z\n")
    (tmp_path / "typo.py").write_text("def f(:\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    return tmp_path


BAD = [
    ("nowhere.py:Robot", "there is no file"),
    ("robot.py:Robt", "has no 'Robt': did you mean Robot?"),
    ("robot.py:xyz", "has no 'xyz': choose from"),
    ("robot.py", "robot.py needs the name of a class, FILE.py:NAME: choose from"),
    ("beside.py:Robot", "no class in it derives from envs.base.Env"),
    ("broken.py:Robot", "broken.py, line 2: AttributeError: 'int' object has no attribute 'z'"),
    ("typo.py:Robot", "typo.py, line 1: SyntaxError"),
    ("leaves.py:Robot", "leaves.py, line 2: SystemExit: 3"),
    ("robot.py:number", "number in"),
    ("robot.py:Plain", "put @flax.struct.dataclass above class Plain"),
    (
        "robot.py:Bare",
        "makes a Bare, not an environment: derive the class from envs.base.Env; it lacks",
    ),
    ("robot.py:Half", "lacks observation_space, action_space, max_episode_steps, transition"),
    ("robot.py:fails", "line 31: ZeroDivisionError: division by zero"),
    ("robot.py:make --tall", "too tall"),
    ("robot.py:Robot --max-episode-steps 0", "max_episode_steps must be an integer of at least 1"),
    ("robot.py:Robot --wieght 2", "did you mean --weight?"),
    ("robot.py:Robot --env-rate inf", "--env-rate must be finite"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[flags for flags, _ in BAD])
def test_bad_input_is_one_line(folder, capsys, flags, message):
    assert command.main(["--algo", "stub", "--env", *flags.split()]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (folder / "results").exists()


def test_a_file_trains_and_is_resumed_and_loaded_from_any_folder(folder, monkeypatch, capsys):
    flags = "--algo stub --env robot.py:Robot --weight 2.5 --env-rate 4 --rate 0.25 --total-steps 8"
    path, kept, algo, _, note = command.prepare(flags.split(), None)
    assert path.name.startswith("Robot-stub-s0-")
    assert (algo.env.weight, algo.env.rate, algo.config.rate) == (2.5, 4.0, 0.25)
    assert algo.env.max_episode_steps == 7  # of the file beside it
    assert "--rate is not the environment's: its own is --env-rate" in note
    assert command.main([*flags.split(), "--out", "run"]) == 0
    stored = json.loads((folder / "run" / "config.json").read_text())
    assert stored["env"] == f"{folder / 'robot.py'}:Robot"
    assert stored["env_kwargs"] == {"weight": 2.5, "rate": 4.0, "max_episode_steps": 7}
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    again = command.prepare(["--resume", "../run", "--env", "../robot.py:Robot"], None)
    assert again[1] == kept
    assert type(again[2].env) is type(algo.env)
    assert spec.open_run(folder / "run")[1].env.weight == 2.5
    for flag in ("--weight 3", "--env-rate 5", "--env ../robot.py:make"):
        assert command.main(["--resume", "../run", *flag.split()]) == 2
    assert "--env-rate 5.0 contradicts" in capsys.readouterr().err


def test_defaults_that_were_not_stored_are_no_contradiction(folder):
    kept = spec.Spec("probe-truncation", {}, "stub", stub.StubConfig(total_steps=8), 0, 1)
    folders.create(folder / "run", kept.to_json())
    resumed = command.prepare(["--resume", "run"], None)[1]
    assert resumed.env_kwargs == {"max_episode_steps": 3}


def test_a_file_is_loaded_once_and_shadows_nothing(folder):
    (folder / "json.py").write_text("import beside\nMARK = beside.LIMIT\n")
    module = load.load(folder / "json.py")
    assert load.load(folder / "json.py") is module
    assert module.MARK == 7
    assert sys.modules["json"] is json
    assert module.__name__.startswith("json_")


@pytest.mark.parametrize(
    ("env", "short"),
    [("walker", "walker"), ("/a/b.py:C", "C"), ("gym:ns/X-v0", "X-v0"), ("gym:X-v3", "X-v3")],
)
def test_short_names_make_sane_folders(env, short):
    assert spec.short_name(env) == short


def test_the_checkers_command_says_what_fails(folder, capsys):
    (folder / "bad.py").write_text(
        "import flax.struct\nfrom envs.probes import TruncationOnly\n\n"
        "@flax.struct.dataclass\nclass Bad(TruncationOnly):\n"
        "    def transition(self, state, action, key):\n"
        "        return state if action > 0 else state[::-1]\n"
    )
    assert inspect_envs(["--check", "bad.py:Bad"]) == 1
    out = capsys.readouterr().out
    assert "initial: ok" in out
    assert "FAIL: a Python if, while, and, or, not, min or max" in out
    assert f"{folder / 'bad.py'}, line 7" in out
    assert "wait until that is fixed" in out
    for wrong in ("nothing", "bad.py:Baad", "gym:CartPole-v1"):
        with pytest.raises(ValueError, match=r"unknown|has no|runs on the host"):
            inspect_envs(["--check", wrong])


def test_the_listing_has_every_environment(monkeypatch):
    few = {name: envs._FACTORIES[name] for name in ("walker", "probe-constant", "CartPole-v1")}
    monkeypatch.setattr(envs, "_FACTORIES", {**few, "gone": "envs.nowhere:Gone"})
    table = listing()
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows[0] == ("CartPole-v1", "4 float32", "2 choices", "500", "-")
    assert rows[3] == ("walker", "31 float32", "6 float32", "400", "native, mjx")
    assert "cannot be made: No module named 'envs.nowhere'" in rows[1][1]
