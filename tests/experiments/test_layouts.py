"""Logs and tables as other libraries write them."""

import csv
import json

import numpy as np
import pytest

from experiments.analysis import layouts
from experiments.analysis.sources import METRIC, read
from experiments.compare import compare
from experiments.pages import explorer
from tests.experiments.test_compare import make_run, series, table

tensorboardx = pytest.importorskip("tensorboardX")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_events(folder, tag, points=((0, 1.0), (100, 2.0)), **more):
    with tensorboardx.SummaryWriter(str(folder), **more) as writer:
        for step, value in points:
            writer.add_scalar(tag, value, step)


def write_rows(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def of(*paths, metric=METRIC, **more):
    found = read([*map(layouts.Path, paths)], metric, **more)
    return {
        (c.fields["env"], c.fields["algo"], str(c.fields["seed"])): c.value.tolist()
        for c in found.curves
    }


@pytest.mark.parametrize(
    ("folder", "tag", "expected"),
    [
        ("logs/Hopper-v5/mine/0", METRIC, ("Hopper-v5", "mine", "0")),
        ("logs/Hopper-v5/mine/seed_3", METRIC, ("Hopper-v5", "mine", "3")),
        ("tb/PPO_1", "rollout/ep_rew_mean", ("tb", "PPO", "1")),
        ("tb/Hopper-v5/RecurrentPPO_2", "eval/mean_reward", ("Hopper-v5", "RecurrentPPO", "2")),
        ("tb/Hopper-v5/first_run_2", "rollout/ep_rew_mean", ("Hopper-v5", "first_run", "2")),
        ("tb/ppo/Hopper-v5_3", "eval/mean_reward", ("Hopper-v5", "ppo", "3")),
        (
            "runs/Hopper-v4__ppo_continuous_action__7__1700000000",
            "charts/episodic_return",
            ("Hopper-v4", "ppo_continuous_action", "7"),
        ),
        (
            "logs/CartpoleBalance-20250101-120000",
            "eval/episode_reward",
            ("CartpoleBalance", "playground", "20250101-120000"),
        ),
        (
            "logs/Go1JoystickFlatTerrain-20250101-120000-wide",
            "eval/episode_reward",
            ("Go1JoystickFlatTerrain", "playground, wide", "20250101-120000"),
        ),
    ],
)
def test_event_files_say_what_they_are_of(folder, tag, expected):
    write_events(folder, tag)
    for path in (folder, folder.split("/")[0]):
        assert of(path) == {expected: [1, 2]}


@pytest.mark.parametrize(
    "folder",
    [
        "a/b/c",  # three names can be anything
        "runs/experiment/0",
        "tb/ppo/0",
        "X/ppo/old_0",
        "lightning_logs/version_0",
        "copied/tensorboard/seed_0",
        "2024/01/02",
    ],
)
def test_other_folders_are_refused_by_name(folder, tmp_path):
    write_events(folder, METRIC)
    for path in (folder, folder.split("/")[0]):
        with pytest.raises(ValueError, match=folder.split("/")[-1]) as told:
            of(path)
        assert "\n" not in str(told.value)
        assert "expected ENV/ALGO/SEED" in str(told.value) or "give the run's folder" in str(
            told.value
        )
    assert of(f"Hopper-v5/ppo/3={folder}") == {("Hopper-v5", "ppo", "3"): [1, 2]}
    write_events("good/Hopper-v5/ppo/0", METRIC)
    found = read([tmp_path], METRIC)
    assert len(found.curves) == 1
    assert any(f"left out: {tmp_path / folder}" in note for note in found.notes)


def test_folders_of_two_libraries_are_not_mixed(tmp_path):
    for seed in (1, 2):
        write_events(f"all/runs/Hopper-v4__ppo__{seed}__170000000{seed}", "charts/episodic_return")
        write_events(f"all/tb/PPO_{seed}", "rollout/ep_rew_mean")
    assert set(of("all")) == {
        ("Hopper-v4", "ppo", "1"), ("Hopper-v4", "ppo", "2"), ("tb", "PPO", "1"), ("tb", "PPO", "2"),
    }  # fmt: skip
    notes = read([tmp_path / "all"], METRIC).notes
    assert sum("name no environment; all are taken for one, 'tb'" in note for note in notes) == 2
    assert any("a return in training, with exploration, is taken for" in note for note in notes)


def test_tensorboard_of_a_run_of_ours_is_of_that_run(tmp_path):
    make_run(tmp_path / "runs/a", seed=5)
    write_events(tmp_path / "runs/a/tensorboard/seed_0", METRIC, ((0, 7.0), (9, 8.0)))
    assert of("runs") == {("CartPole-v1", "ppo", "5"): [0, 10]}
    for path in ("runs/a/tensorboard", "runs/a/tensorboard/seed_0"):
        assert of(path) == {("CartPole-v1", "ppo", "5"): [7, 8]}


def test_config_json_of_others_is_no_run_of_ours(tmp_path):
    write_events("logs/CartpoleBalance-20250101-120000", "eval/episode_reward")
    path = tmp_path / "logs/CartpoleBalance-20250101-120000/checkpoints/config.json"
    path.parent.mkdir()
    path.write_text('{"ctrl_dt": 0.01}')
    assert set(of("logs")) == {("CartpoleBalance", "playground", "20250101-120000")}
    assert not any("config.json" in note for note in read([tmp_path / "logs"], METRIC).notes)


def write_sb3(folder, *kinds):
    folder.mkdir(parents=True, exist_ok=True)
    if "progress" in kinds:
        head = ["time/total_timesteps", "rollout/ep_rew_mean", "time/time_elapsed", "loss"]
        write_rows(
            folder / "progress.csv", head, [64, 1.0, 3, ""], [128, 2.0, 6, 0.1], [192, "", 9, 1]
        )
    if "evaluations" in kinds:
        np.savez(
            folder / "evaluations.npz",
            timesteps=np.array([100, 200]),
            results=np.array([[1.0, 3.0], [5.0, 7.0]]),
            ep_lengths=np.ones((2, 2), int),
        )
    if "monitor" in kinds:
        for i, rows in enumerate(([(1.0, 10, 2.5), (3.0, 10, 6.0)], [(2.0, 20, 4.0)])):
            text = '#{"t_start": 1700.0, "env_id": "Hopper-v4"}\nr,l,t\n'
            text += "".join(f"{r},{n},{t}\n" for r, n, t in rows)
            (folder / f"{i}.monitor.csv").write_text(text)


@pytest.mark.parametrize(
    ("kinds", "steps", "values"),
    [
        (["progress"], [64, 128], [1, 2]),
        (["evaluations"], [100, 200], [2, 6]),
        (["monitor"], [10, 30, 40], [1, 2, 3]),
        (["progress", "evaluations", "monitor"], [100, 200], [2, 6]),
        (["progress", "monitor"], [64, 128], [1, 2]),
    ],
)
def test_files_of_stable_baselines3(tmp_path, kinds, steps, values):
    write_sb3(tmp_path / "logs/ppo/Hopper-v4_1", *kinds)
    files = sorted((tmp_path / "logs/ppo/Hopper-v4_1").iterdir())
    for path in (tmp_path / "logs", files[0]):
        (curve,) = read([path], METRIC).curves
        assert curve.name == "Hopper-v4, ppo, seed 1"
        assert (curve.steps.tolist(), curve.value.tolist()) == (steps, values)
    if kinds == ["progress"]:
        assert curve.seconds.tolist() == [3, 6]
        assert of("logs", metric="loss") == {("Hopper-v4", "ppo", "1"): [0.1, 1]}


def test_a_monitor_names_its_environment(tmp_path):
    write_sb3(tmp_path / "tb/PPO_4", "monitor")
    assert set(of("tb")) == {("Hopper-v4", "PPO", "4")}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("progress.csv", b"", r"progress\.csv has no time/total_timesteps"),
        (
            "progress.csv",
            b"a,b\n1,2\n",
            r"progress\.csv has no time/total_timesteps; there is a, b",
        ),
        (
            "progress.csv",
            b"time/total_timesteps,rollout/ep_rew_mean\n1,x\n",
            r"progress\.csv, line 2: not a number",
        ),
        ("progress.csv", b"\xff\xfe", "not text in UTF-8"),
        ("monitor.csv", b"#{\nr,l,t\n", r"monitor\.csv, line 1"),
        ("monitor.csv", b"#{}\nr,l,t\n1,x,2\n", r"monitor\.csv, line 3: l: not a number"),
        ("monitor.csv", b"#{}\nr,l\n1,2\n", r"monitor\.csv, line 3: t: not a number"),
        ("evaluations.npz", b"PK", r"evaluations\.npz is no evaluations\.npz"),
        ("evaluations.npz", b"", r"evaluations\.npz is no evaluations\.npz"),
    ],
)
def test_damaged_files_of_stable_baselines3_are_one_line(tmp_path, name, content, message):
    folder = tmp_path / "Hopper-v4/PPO_1"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as told:
        read([folder], METRIC)
    assert "\n" not in str(told.value)


def test_evaluations_of_other_shapes_are_one_line(tmp_path):
    folder = tmp_path / "Hopper-v4/PPO_1"
    folder.mkdir(parents=True)
    for arrays in (
        {"timesteps": np.arange(3)},
        {"timesteps": np.arange(3), "results": np.ones((2, 2))},
        {"timesteps": np.arange(2), "results": np.ones(2)},
        {"timesteps": np.arange(2), "results": np.array([["a"], ["b"]])},
        {"timesteps": np.arange(1), "results": np.array([[{}]], object)},
    ):
        np.savez(folder / "evaluations.npz", **arrays)
        with pytest.raises(ValueError, match=r"evaluations\.npz is no evaluations\.npz"):
            read([folder], METRIC)


def test_charts_of_weights_and_biases(tmp_path):
    runs = ["Hopper-v4__ppo__1__170", "Hopper-v4__ppo__2__171"]
    metric = "charts/episodic_return"
    head = [f"{run} - {metric}{end}" for run in runs for end in ("", "__MIN", "__MAX")]
    rows = [["global_step", *head], [100, 1, 0, 9, "", "", ""], [200, 2, 0, 9, 5, 0, 9]]
    write_rows(tmp_path / "wandb_export.csv", *rows)
    assert of("wandb_export.csv") == {
        ("Hopper-v4", "ppo", "1"): [1, 2], ("Hopper-v4", "ppo", "2"): [5],
    }  # fmt: skip
    write_rows(tmp_path / "g.csv", ["global_step", f"exp_name: ppo - {metric}"], [100, 1])
    with pytest.raises(ValueError, match="does not say environment, algorithm and seed"):
        of("g.csv")
    write_rows(tmp_path / "t.csv", ["Relative Time (Wall)", head[0]], [100, 1])
    with pytest.raises(ValueError, match=r"first column is 'Relative Time \(Wall\)'"):
        of("t.csv")


def test_histories_of_a_run(tmp_path):
    head = ["global_step", "charts/episodic_return", "_runtime"]
    write_rows(
        tmp_path / "Hopper-v4__sac__3__170.csv", head, [10, 1.0, 5], [20, "", 6], [30, 4.0, 7]
    )
    assert of("Hopper-v4__sac__3__170.csv") == {("Hopper-v4", "sac", "3"): [1, 4]}
    head = ["env_id", "exp_name", "seed", "global_step", "charts/episodic_return"]
    write_rows(tmp_path / "all.csv", head, ["X-v0", "a", 1, 0, 2.0], ["X-v0", "a", 2, 0, 3.0])
    assert of("all.csv") == {("X-v0", "a", "1"): [2], ("X-v0", "a", "2"): [3]}
    head = ["num_steps", "eval/episode_reward", "eval/episode_reward_std"]
    write_rows(tmp_path / "ant/brax/0/progress_of_brax.csv", head, [0, 1.0, 0.1], [10, 9.0, 0.1])
    assert of("ant") == {("ant", "brax", "0"): [1, 9]}
    write_rows(tmp_path / "brax.csv", head, [0, 1.0, 0.1])
    with pytest.raises(ValueError, match=r"brax\.csv lacks the column env, and its name"):
        of("brax.csv")
    assert of("ant/brax/5=brax.csv") == {("ant", "brax", "5"): [1]}


def test_score_matrices_of_rliable(tmp_path):
    matrix = [[1.0, 2.0], [3.0, 4.0], [5.0, None]]
    (tmp_path / "scores.json").write_text(json.dumps({"DQN": matrix, "C51": {"Pong": [7, 8]}}))
    found = of("scores.json")
    assert found["task 1", "DQN", "2"] == [5]
    assert found["Pong", "C51", "1"] == [8]
    assert found["task 2", "DQN", "2"] == []  # null: diverged
    write_rows(tmp_path / "IQN.csv", ["Pong", "Alien"], [1, 2], [3, 4])
    assert of("IQN.csv")["Alien", "IQN", "1"] == [4]
    write_rows(
        tmp_path / "long.csv",
        ["algorithm", "task", "run", "score"],
        ["A", "Pong", 0, 2],
        ["A", "Pong", 1, 4],
    )
    assert of("long.csv") == {("Pong", "A", "0"): [2], ("Pong", "A", "1"): [4]}
    assert compare(["long.csv", "--out", "out"]) == 0
    rows = table(tmp_path / "out/scores.csv")
    assert set(rows) == {("Pong", "A", "final")}
    assert rows["Pong", "A", "final"]["mean"] == "3"
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize(
    "content",
    [[], {}, {"A": 3}, {"A": [[1], [1, 2]]}, {"A": [["x"]]}, {"A": {"t": 3}}, {"A": [{}]}],
)
def test_json_that_holds_no_scores_is_one_line(tmp_path, content):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a\.json") as told:
        of("a.json")
    assert "\n" not in str(told.value)


def test_event_files_of_a_resumed_run(tmp_path):
    """The first process reached 100 at step 1000; the second went on from step 500, and is bad."""
    folder = tmp_path / "tb/MyEnv-v0/myalgo/0"
    before = [(s, s / 10.0) for s in range(0, 1001, 100)]
    after = [(s, -50.0) for s in range(550, 1551, 100)]
    for points, more in ((before, {}), (after, {"purge_step": 500, "filename_suffix": ".b"})):
        with tensorboardx.SummaryWriter(str(folder), **more) as writer:
            for tag in (METRIC, "rollout/ep_rew_mean"):
                for step, value in points:
                    writer.add_scalar(tag, value, step)
    found = read([tmp_path / "tb"], METRIC)
    (curve,) = found.curves
    assert curve.steps.tolist() == [0, 100, 200, 300, 400, *range(550, 1551, 100)]
    assert curve.value.max() == 40
    assert any("6 points do not count, as the run was taken up again" in n for n in found.notes)


def test_event_files_whose_steps_go_back_without_a_word(tmp_path):
    folder = tmp_path / "tb/MyEnv-v0/myalgo/0"
    write_events(folder, METRIC, [(s, 9.0) for s in (0, 100, 200, 300)], filename_suffix=".a")
    write_events(folder, METRIC, [(s, 1.0) for s in (150, 250)], filename_suffix=".b")
    (curve,) = read([tmp_path / "tb"], METRIC).curves
    assert (curve.steps.tolist(), curve.value.tolist()) == ([0, 100, 150, 250], [9, 9, 1, 1])


def test_names_that_end_alike(tmp_path):
    lines = [f"{env},a,{s},{t},{sign * t}" for env, sign in (("X-v0", 1), ("gym:X-v0", -1))
             for s in (0, 1) for t in (0, 10)]  # fmt: skip
    (tmp_path / "x.csv").write_text("\n".join(["env,algo,seed,env_steps,value", *lines]))
    assert compare(["x.csv", "--out", "out"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == [
        "curves-X-v0.png", "curves-gym-X-v0.png",
    ]  # fmt: skip
    page = (tmp_path / "out/README.md").read_text()
    assert "![X-v0](curves-X-v0.png)" in page
    assert "![gym:X-v0](curves-gym-X-v0.png)" in page


def test_two_folders_of_equal_settings_side_by_side(tmp_path):
    for name, last in (("old", 10.0), ("new", 20.0)):
        for seed in (0, 1):
            make_run(tmp_path / name / str(seed), seed=seed, values=(0.0, last))
            path = tmp_path / name / str(seed) / "config.json"
            config = json.loads(path.read_text()) | {"commit": name * 8}
            path.write_text(json.dumps(config))
    notes = read([tmp_path / "old", tmp_path / "new"], METRIC).notes
    assert any("--by env,algo,commit or NAME=PATH sets them side by side" in n for n in notes)
    assert compare(["before=old", "after=new", "--out", "out"]) == 0
    found = table(tmp_path / "out/scores.csv")
    assert found["CartPole-v1", "ppo, before", "final"]["mean"] == "10"
    assert found["CartPole-v1", "ppo, after", "final"]["mean"] == "20"
    assert compare(["old", "new", "--by", "env,algo,commit", "--out", "out"]) == 0
    found = table(tmp_path / "out/scores.csv")
    assert found["CartPole-v1", "ppo, commit newnewnewnew", "final"]["mean"] == "20"
    assert found["CartPole-v1", "ppo, commit oldoldoldold", "final"]["seeds"] == "2"
    with pytest.raises(ValueError, match="there is no nowhere"):
        compare(["x=nowhere", "--out", "out"])


def test_a_seed_that_diverged_or_stopped_short_is_marked_and_not_scored(tmp_path, capsys):
    flat = {0: 1, 500: 1, 1000: 1}
    name = series(
        tmp_path / "x.csv",
        a_0=flat,
        a_1=flat,
        a_2={0: 1, 500: 90},
        b_0=flat,
        b_1=flat,
        b_2={0: 1, 500: 90, 1000: "nan"},
    )
    assert compare([name, "--threshold", "50", "--out", "out"]) == 0
    told = capsys.readouterr().err
    assert "X, a: stopped short, and not scored: seed 2 (at step 500)" in told
    assert "X, b, seed 2: it diverged after step 500" in told
    rows = table(tmp_path / "out/scores.csv")
    for metric in ("final", "best", "auc"):
        assert (rows["X", "a", metric]["mean"], rows["X", "a", metric]["seeds"]) == ("1", "2 of 3")
        assert rows["X", "b", metric]["mean"] == "-inf"
        assert rows["X", "b", metric]["seeds"] == "3, 1 diverged"
    assert rows["X", "b", "optimality_gap"]["mean"] == "inf"
    assert rows["X", "a", "steps_to_threshold"]["seeds"] == "1 of 3"  # it did get there


def test_scores_alone_are_on_the_page_too(tmp_path):
    (tmp_path / "a.json").write_text('{"A": [[1, 2], [3, 4]]}')
    content = explorer.gather([tmp_path / "a.json"], ["env", "algo"], METRIC)
    assert content["envs"][0]["groups"][0]["final"]["iqm"] == 2
    assert content["envs"][0]["groups"][0]["band"]["steps"] is None
    assert content["runs"] == []


def test_cells_beyond_the_header_are_told_of(tmp_path):
    (tmp_path / "a.csv").write_text("env,algo,seed,env_steps,value\nX,a,0,0,1,9\n")
    with pytest.raises(ValueError, match=r"a\.csv, line 2: more cells than the header has"):
        of("a.csv")


def test_values_whose_sums_would_not_be_finite_have_diverged(tmp_path):
    name = series(tmp_path / "x.csv", a_0={0: 1, 10: 1e308}, a_1={0: 1, 10: 2})
    assert compare([name, "--out", "out"]) == 0
    assert table(tmp_path / "out/scores.csv")["X", "a", "final"]["seeds"] == "2, 1 diverged"


def test_a_header_alone_is_told_of(tmp_path):
    (tmp_path / "header.csv").write_text("env,algo,seed,env_steps,value\n")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match=r"header\.csv has a header, but no row beneath it"):
        of("header.csv")
    with pytest.raises(ValueError, match=r"empty\.csv is empty"):
        of("empty.csv")
    (tmp_path / "records.json").write_text('{"title": null, "records": []}')
    with pytest.raises(ValueError, match=r"no value of eval/return: records\.json holds no record"):
        of("records.json")


def test_names_are_inert_in_tables(tmp_path):
    name = series(tmp_path / "x.csv", **{"=1+1|<b>_0": {0: 1, 1: 1}, "-b_0": {0: 1, 1: 1}})
    assert compare([name, "--out", "out"]) == 0
    cells = {row[1] for row in csv.reader((tmp_path / "out/scores.csv").read_text().splitlines())}
    assert cells == {"algo", "'=1+1|<b>", "'-b"}
    page = (tmp_path / "out/README.md").read_text()
    assert "| =1+1\\|&lt;b&gt; |" in page
    assert "<b>" not in page
