import json
import math
import subprocess

import numpy as np
import pytest

from experiments.run import folders
from experiments.run.provenance import commit_of, short_commit

CONFIG = {"env": "e", "env_kwargs": {}, "algo": "a", "config": {}, "seed": 0, "seeds": 1}


def test_rows_later_than_the_checkpoint_and_half_a_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"env_steps": n, "x": 0.1 * n} for n in (10, 20, 30)]
    folders.append_rows(path, rows)
    with path.open("a") as f:
        f.write('{"env_steps": 40, "x": 0.')
    folders.truncate_rows(path, 30)
    assert folders.read_rows(path) == rows
    folders.truncate_rows(path, 25)
    assert folders.read_rows(path) == rows[:2]
    folders.append_rows(path, rows[2:])
    assert folders.read_rows(path) == rows


def test_damaged_lines_are_counted_and_cost_no_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"env_steps": n} for n in (10, 20, 30)]
    good = [json.dumps(row) for row in rows]
    bad = ["{bad", "3", '{"a": 1}', '{"env_steps": null}', '{"env_steps": "7"}']
    path.write_text("\n".join([bad[0], good[0], *bad[1:], "", good[1], good[2], '{"env_st']))
    assert folders.read_lines(path) == (rows, len(bad))
    assert folders.truncate_rows(path, 20) == len(bad)
    assert folders.read_lines(path) == (rows[:2], 0)
    assert folders.truncate_rows(path, 20) == 0


def test_a_run_that_wrote_nothing_yet_can_be_truncated(tmp_path):
    path = tmp_path / "metrics.jsonl"
    folders.truncate_rows(path, 0)
    assert folders.read_rows(path) == []


def test_nothing_is_overwritten(tmp_path):
    folders.create(tmp_path / "a", CONFIG)
    before = (tmp_path / "a" / "config.json").read_text()
    with pytest.raises(FileExistsError, match="not overwritten; --resume"):
        folders.create(tmp_path / "a", CONFIG)
    with pytest.raises(FileExistsError, match="not overwritten: choose another --out") as error:
        folders.create(tmp_path / "a", {**CONFIG, "seed": 1})
    assert "--resume" not in str(error.value)  # it would go on with somebody else's run
    assert (tmp_path / "a" / "config.json").read_text() == before
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists"):
        folders.create(tmp_path / "file", CONFIG)


def test_config_says_what_made_the_run_but_not_on_whose_machine(tmp_path):
    import socket

    folders.create(tmp_path / "a", CONFIG)
    text = (tmp_path / "a" / "config.json").read_text()
    config = json.loads(text)
    assert config["versions"]["jax"]
    assert config["machine"]["cores"] >= 1
    assert socket.gethostname() not in text
    assert str(tmp_path) not in text


def test_a_page_says_that_files_were_changed_since_the_commit():
    assert short_commit("0123456789abcdef0123-dirty") == "0123456789ab-dirty"
    assert short_commit("0123456789abcdef0123") == "0123456789ab"
    assert short_commit(None) == "unknown"


def test_results_that_a_study_writes_do_not_make_its_commit_dirty(tmp_path):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    for name in ("results/numbers.json", "agents/code.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    (tmp_path / "results/numbers.json").write_text("2")
    assert len(commit_of(tmp_path / "agents")) == 40
    (tmp_path / "agents/code.py").write_text("2")
    assert commit_of(tmp_path / "agents").endswith("-dirty")
    assert commit_of(tmp_path / "results", "numbers.json").endswith("-dirty")


def test_reading_what_is_no_run_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="not a run"):
        folders.read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        folders.read_config(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="lacks algo"):
        folders.read_config(tmp_path)


def test_json_gets_null_for_what_it_cannot_say():
    found = folders.plain(
        {"a": math.nan, "b": (np.float32(1.5), np.int32(2)), "c": math.inf, "d": True}
    )
    assert found == {"a": None, "b": [1.5, 2], "c": None, "d": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": 3}, "env must be a name, got 3"),
        ({"algo": ["ppo"]}, "algo must be a name"),
        ({"env_kwargs": []}, "env_kwargs must be a table of settings"),
        ({"config": [1]}, "config must be a table of settings"),
        ({"seed": "x"}, "seed must be a whole number of at least 0, got 'x'"),
        ({"seeds": True}, "seeds must be a whole number"),
    ],
)
def test_a_config_of_other_kinds_is_one_line(tmp_path, change, message):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(ValueError, match=message):
        folders.read_config(tmp_path)
    (tmp_path / "config.json").write_text("3")
    with pytest.raises(ValueError, match="has no settings in it: 3"):
        folders.read_config(tmp_path)
