import csv
import json
import shutil

import numpy as np
import pytest

from experiments.analysis import sources
from experiments.analysis.curve import Curve, differing
from experiments.analysis.sources import METRIC, read
from experiments.run import folders
from tests.experiments.test_compare import make_run

HEAD = "env,algo,seed,env_steps,value\n"


def record(seed=0, evaluations=((0, 0.0, 4), (100, 10.0, 4)), **more):
    """As that of a run of `make_run`."""
    return {
        "env": "CartPole-v1", "algo": "ppo", "seed": seed, "env_kwargs": {}, "settings": {},
        "wall_clock_s": 2.0, "env_steps": 100, "evaluations": evaluations, "train_curve": [], **more,
    }  # fmt: skip


def write_records(path, *found):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"title": None, "records": found}))
    return path


def change(folder, name, **content):
    folders.write_json(folder / name, {**json.loads((folder / name).read_text()), **content})


def test_options_of_the_environment_are_known_of_a_curve(tmp_path):
    folder = make_run(tmp_path / "run", learning_rate=0.1)
    change(folder, "config.json", env_kwargs={"max_episode_steps": 200, "learning_rate": 7})
    (curve,) = read([folder], METRIC).curves
    assert curve.fields["max_episode_steps"] == 200
    assert (curve.fields["learning_rate"], curve.fields["env_learning_rate"]) == (0.1, 7)
    path = write_records(tmp_path / "records.json", record(env_kwargs={"max_episode_steps": 5}))
    (curve,) = read([path], METRIC).curves
    assert curve.fields["max_episode_steps"] == 5


def test_a_copy_of_a_run_counts_once(tmp_path):
    make_run(tmp_path / "runs/a", rate=0.1)
    shutil.copytree(tmp_path / "runs/a", tmp_path / "runs/b")
    make_run(tmp_path / "runs/c", rate=0.2)  # another run, of the same seed
    found = read([tmp_path / "runs"], METRIC)
    assert [c.source.name for c in found.curves] == ["a", "c"]
    (note,) = found.notes
    assert "runs/b repeats" in note
    assert note.endswith("does not count for CartPole-v1, ppo, seed 0")


def test_of_one_run_with_two_outcomes_the_first_counts(tmp_path):
    first = make_run(tmp_path / "a", values=(0.0, 1.0))
    second = make_run(tmp_path / "b", values=(0.0, 2.0))
    found = read([first, second], METRIC)
    assert [c.value[-1] for c in found.curves] == [1]
    assert "with other values" in found.notes[0]


def test_a_run_and_its_record_count_once(tmp_path):
    suite = tmp_path / "suite"
    make_run(suite / "run", rate=0.1, values=(0.0, 10.00001))
    path = write_records(suite / "records.json", record(), record(seed=1))
    found = read([suite], METRIC)
    assert [(c.fields["seed"], c.brief) for c in found.curves] == [(0, False), (1, True)]
    assert found.notes == []  # so it is in the folder of every suite
    (note,) = read([suite / "run", path], METRIC).notes
    assert "suite/records.json repeats" in note
    assert "other values" not in note


def test_two_files_with_the_same_records_count_once(tmp_path):
    both = [record(), record(settings={"rate": 0.1})]  # of two settings: one is at its default
    for name in ("one", "two"):
        write_records(tmp_path / name / "records.json", *both)
    found = read([tmp_path], METRIC)
    assert len(found.curves) == 2
    assert "two/records.json repeats" in found.notes[0]


def test_settings_in_which_curves_are_known_to_differ():
    def of(source="run", **settings):
        none = np.zeros(0)
        return Curve({"env": "X", "algo": "a", **settings}, none, none, none, True, tmp / source)

    tmp = sources.Path("somewhere")
    assert differing([of(rate=1, seed=0), of(rate=1, seed=1)]) == {}
    assert differing([of(rate=1), of(rate=2), of(rate=1)]) == {"rate": ["1", "2"]}
    assert differing([of(rate=1), of("others.csv")]) == {}
    # A record is silent of defaults; what a run's value is to a silent record is not known.
    silent = of("records.json")
    assert differing([of(rate=1), silent]) == {}
    told = differing([of("records.json", rate=1), silent])
    assert told == {"rate": ["1", "the default"]}


def test_points_that_are_not_finite_are_left_out(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        HEAD + "X,a,0,0,1\nX,a,0,10,nan\nX,a,0,nan,7\nX,a,0,20,inf\nX,a,0,5,2\nX,a,1,0,nan\n"
    )
    found = read([path], METRIC)
    curve, lost = found.curves
    assert (curve.steps.tolist(), curve.value.tolist()) == ([0, 5], [1, 2])
    assert curve.diverged  # the last point of all was infinite
    assert lost.diverged
    assert lost.steps.tolist() == []
    assert "X, a, seed 0: 3 of 5 points are not finite" in found.notes[0]
    assert "X, a, seed 1: 1 of 1 points are not finite" in found.notes[2]


def test_a_curve_is_in_order_and_the_last_of_a_step_counts(tmp_path):
    folder = make_run(tmp_path / "run", values=())
    rows = [{"env_steps": s, METRIC: float(v)} for v, s in enumerate((200, 100, 200))]
    folders.append_rows(folder / "metrics.jsonl", rows)
    found = read([folder], METRIC)
    assert found.curves[0].steps.tolist() == [100, 200]
    assert found.curves[0].value.tolist() == [1, 2]
    assert "1 points are at the steps of later ones" in found.notes[0]


def test_a_folder_of_many_kinds_is_read_whole(tmp_path):
    make_run(tmp_path / "all/run")
    (tmp_path / "all/run/inner.csv").write_text(HEAD + "Y,inner,0,0,1\n")  # belongs to the run
    (tmp_path / "all/others.csv").write_text(HEAD + "X,theirs,0,0,1\n")
    write_records(tmp_path / "all/kept/records.json", record(seed=9))
    tensorboardx = pytest.importorskip("tensorboardX")
    with tensorboardx.SummaryWriter(str(tmp_path / "all/X/sb3/0")) as writer:
        writer.add_scalar(METRIC, 1.0, 0)
    found = read([tmp_path / "all"], METRIC)
    algos = {(c.fields["algo"], str(c.fields["seed"])) for c in found.curves}
    assert algos == {("ppo", "0"), ("sb3", "0"), ("ppo", "9"), ("theirs", "0")}


def test_what_cannot_be_read_among_others_is_left_out(tmp_path):
    top = tmp_path / "all"
    good, bad = make_run(top / "good"), make_run(top / "bad")
    (bad / "config.json").write_text("{")
    (top / "scores.csv").write_text("env,algo,metric,iqm\n")
    found = read([top], METRIC)
    assert [c.source for c in found.curves] == [good]
    assert any("bad/config.json cannot be read" in note for note in found.notes)
    assert any("scores.csv lacks the column seed" in note for note in found.notes)
    for named in (bad, top / "scores.csv"):  # itself
        with pytest.raises(ValueError, match=r"cannot be read|lacks the column"):
            read([good, named], METRIC)
    shutil.rmtree(good)
    with pytest.raises(ValueError, match=r"no value of eval/return: left out: .*bad/config.json"):
        read([top], METRIC)


def test_the_metric_of_a_csv_is_what_one_says_it_is(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\ufeff" + HEAD + "X,a,0,0,1\n", encoding="utf-8")  # as spreadsheets write it
    assert read([path], METRIC).notes == []
    (note,) = read([path], "loss").notes
    assert "a.csv has a single column of values, which is taken for loss" in note


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", HEAD.encode() + b"X,a,0,0," + b"1" * 200_000, "a.csv cannot be read: field"),
        ("a.csv", b"\x89PNG\xff", "a.csv cannot be read: it is not text in UTF-8"),
        ("records.json", record(wall_clock_s=...), "CartPole-v1, ppo, seed 0: lacks wall_clock_s"),
        (
            "records.json",
            record(evaluations=[[1]]),
            r"seed 0: evaluations\[0\] must be a list of 3",
        ),
        ("records.json", record(evaluations=[[1, {}]]), r"seed 0: evaluations\[0\] must be a list"),
        ("records.json", record(settings=[1]), "seed 0: settings must be a table"),
        (
            "run",
            {"a": 1},
            r"metrics\.jsonl, row of env step 0: eval/return must be a finite number",
        ),
        ("run", "abc", r"metrics\.jsonl, row of env step 0: eval/return must be a finite number"),
    ],
)
def test_damage_is_told_in_a_line_that_names_the_file(tmp_path, name, content, message):
    path = tmp_path / name
    if name == "run":
        make_run(path, values=(content,))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_records(path, {k: v for k, v in content.items() if v is not ...})
    with pytest.raises(ValueError, match=message) as told:
        read([path], METRIC)
    assert name in str(told.value)
    assert "\n" not in str(told.value)
    assert csv.field_size_limit() == 131072
