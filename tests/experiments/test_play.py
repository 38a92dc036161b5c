import pytest

import agents
from experiments import play
from experiments.run import command, folders
from tests.experiments import stub


@pytest.fixture(autouse=True)
def _stub(monkeypatch, tmp_path):
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)
    monkeypatch.chdir(tmp_path)


def run(tmp_path, source):
    (tmp_path / "mine.py").write_text(source)
    flags = "--env mine.py:Mine --algo stub --total-steps 8 --out run --no-video"
    assert command.main(flags.split()) == 0


MINE = """
import flax.struct
import numpy as np
from envs.probes import TruncationOnly

@flax.struct.dataclass
class Mine(TruncationOnly):
    render_fps = 20

    def render(self, state, width, height):
        {draws}
"""
GREY = MINE.format(draws="return np.full((height, width, 3), 99, np.uint8)")


def test_an_environment_that_draws_itself_is_shown_from_any_folder(tmp_path, monkeypatch, capsys):
    run(tmp_path, GREY)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert play.play([str(tmp_path / "run"), "--episodes", "2"]) == 0
    assert "return 2.0" in capsys.readouterr().out
    assert (tmp_path / "run" / "play.gif").exists()


def test_the_viewer_wants_physics(tmp_path, monkeypatch):
    run(tmp_path, GREY)
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(ValueError, match="Mine has no physics"):
        play.play(["run", "--viewer"])


def test_drawing_that_fails_does_not_fail_the_run(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(MINE.format(draws="return 1 / 0"))
    assert (
        command.main(
            ["--env", "mine.py:Mine", "--algo", "stub", "--total-steps", "8", "--out", "run"]
        )
        == 0
    )
    captured = capsys.readouterr()
    assert f"no video: {tmp_path}/mine.py, line 11: ZeroDivisionError" in captured.err
    assert (tmp_path / "run" / "summary.json").exists()


def test_drawing_that_fails_is_one_line(tmp_path):
    run(tmp_path, MINE.format(draws="return 1 / 0"))
    with pytest.raises(ValueError, match=r"\Ano video: .*mine.py, line 11: ZeroDivisionError"):
        play.play(["run", "--episodes", "2"])
    assert not list((tmp_path / "run").glob("play*"))


LATE = """
    def observation(self, state):
        return jnp.where(state[1] == 2, jnp.nan, state[0])
"""


def test_observations_that_are_not_finite_are_said(tmp_path, capsys):
    run(tmp_path, GREY.replace("import numpy", "import jax.numpy as jnp\nimport numpy") + LATE)
    capsys.readouterr()
    assert play.play(["run", "--episodes", "2"]) == 0
    said = capsys.readouterr().err
    assert "evaluation: observation is not finite, which ended 2 of 2 episodes" in said


def test_of_a_run_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="is not a run"):
        play.play([str(tmp_path)])
    folders.create(tmp_path / "run", stub.spec().to_json())
    with pytest.raises(ValueError, match="no index 4"):
        play.play(["run", "--seed-index", "4"])


@pytest.mark.parametrize("name", ["thesis.mp4", "thesis.gif"])
def test_a_video_of_somebody_else_is_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} exists already and is not overwritten"):
        play.play(["run", "--out", "thesis"])
    assert (tmp_path / name).read_text() == "mine"
