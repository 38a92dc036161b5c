# ruff: noqa: F811  fixtures are imported
"""Suites beside files that are damaged, or somebody else's."""

import json
from pathlib import Path

import pytest

from experiments import suite
from experiments.grids import board, grid
from experiments.grids.grid import Cell, PlannedRun
from experiments.run import records
from experiments.run.folders import write_json
from tests.experiments.test_records import make_run
from tests.experiments.test_suite import _here, launched  # noqa: F401

BOTH = ["--envs", "probe-constant", "probe-action", "--algos", "stub", "--seeds", "1"]
BOTH += ["--total-steps", "40", "--out", "out"]


def finished(top):
    for env in ("probe-constant", "probe-action"):
        make_run(top / f"out/{env}/stub/seeds_0-0", env=env, seeds=1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", "{}", "probe-action/stub/seeds_0-0/summary.json lacks compile_s"),
        ("summary.json", "", "summary.json cannot be read"),
        ("summary.json", "[" * 10**5, "summary.json cannot be read: it is nested too deeply"),
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", '{"env": 3}', "config.json lacks"),
        ("metrics.jsonl", "\xff{", "metrics.jsonl is damaged"),
        ("metrics.jsonl", '{"env_steps": 1, "eval/return": "x"}\n', "eval/return must be a finite"),
    ],
)
def test_a_damaged_run_is_the_failure_of_its_cell_only(
    launched,
    tmp_path,
    capsys,
    name,
    content,
    message,
):
    finished(tmp_path)
    path = tmp_path / "out/probe-action/stub/seeds_0-0" / name
    path.write_text(content + ("\n" if name == "metrics.jsonl" else ""), encoding="latin-1")
    assert suite.suite(BOTH) == 1
    said = capsys.readouterr().out
    assert "left out: " in said
    assert message in said
    kept = records.read(tmp_path / "out/records.json")[1]
    assert [r["env"] for r in kept] == ["probe-constant"]
    assert launched == []
    assert path.exists()


def test_names_that_end_alike_are_in_one_grid(tmp_path):
    for file in ("a.py", "b.py"):
        Path(file).write_text("from envs.probes import ConstantReward as Robot")
    envs = ("CartPole-v1", "gym:CartPole-v1", "a.py:Robot", "b.py:Robot")
    cells = grid.placed(grid.product(envs, ["stub"], total_steps=40))
    grid.check(cells)
    folders = [str(cell.folder) for cell in cells]
    assert folders == [
        f"{name}/stub" for name in ("CartPole-v1", "gym-CartPole-v1", "a.py-Robot", "b.py-Robot")
    ]
    with pytest.raises(ValueError, match="CartPole-v1 with stub is in the grid twice"):
        grid.check(grid.placed(grid.product(["CartPole-v1", "CartPole-v1"], ["stub"])))


@pytest.mark.parametrize(
    ("name", "content"), [("suite.json", "[]"), ("suite.json", "mine"), ("records.json", "{}")]
)
def test_what_others_wrote_is_not_overwritten(launched, tmp_path, name, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} was not written by this command"):
        suite.suite(BOTH)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == content


def test_settings_that_are_none_are_one_line(launched, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/suite.json").write_text('{\n "a/b": [\n 3\n]}')
    with pytest.raises(ValueError, match=r"suite\.json: a/b\[0\] must be a text, got 3"):
        suite.suite(BOTH)


def test_a_folder_of_somebody_else_is_not_cleared(launched, tmp_path, capsys):
    thesis = tmp_path / "out/probe-action/stub/seeds_0-0/thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("mine")
    assert suite.suite(BOTH) == 1
    assert thesis.read_text() == "mine"
    assert "thesis.tex is no file of a run, and stays" in capsys.readouterr().out
    assert len(launched) == 1


@pytest.mark.parametrize("text", ["[]\n", '"x"\n', '{"env_steps": "x"}\n', "[" * 10**5 + "\n", ""])
def test_progress_of_damaged_metrics_is_none(tmp_path, text):
    run = PlannedRun(Cell("probe-constant", "stub", total_steps=40), 0, 1)
    folder = make_run(tmp_path / run.folder, seeds=1)
    (folder / "metrics.jsonl").write_text(text)
    for total in ("x", None, -1, 10.5):
        config = json.loads((folder / "config.json").read_text())
        config["config"]["total_steps"] = total
        write_json(folder / "config.json", config)
        assert board.total_steps(tmp_path, run) == 40
    assert board.done_steps(tmp_path, run) == 0
