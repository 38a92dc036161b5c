import csv
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.analysis.groups import band, smoothed
from experiments.analysis.sources import read
from experiments.compare import compare
from experiments.run import folders

RESULTS = Path(__file__).parents[2] / "results"

METRIC = "eval/return"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_run(
    folder, *, env="CartPole-v1", algo="ppo", seed=0, values=(0.0, 10.0), finished=True, **config
):
    """One seed, a value every 100 steps and 2 seconds."""
    fields = {
        "env": env,
        "env_kwargs": {},
        "algo": algo,
        "config": config,
        "seed": seed,
        "seeds": 1,
    }
    folders.create(folder, fields)
    rows = [
        {"env_steps": 100 * i, "wall_clock_s": 2.0 * i, METRIC: v, "kl": None}
        for i, v in enumerate(values)
    ]
    folders.append_rows(folder / "metrics.jsonl", rows)
    if finished:
        folders.write_json(folder / "summary.json", summary(seed, values))
    return folder


def summary(seed, values):
    """What summary.json has at least."""
    last = values[-1] if values and not isinstance(values[-1], str | dict) else None
    of = {"eval_return_mean": last, "eval_return_std": 0.0, "eval_episodes": 4}
    cost = {"wall_clock_s": 9.0, "compile_s": 1.0, "steps_per_second": 50.0}
    steps = 100 * max(len(values) - 1, 0)
    return {"env_steps": steps, **cost, **of, "per_seed": [{"seed": seed, **of}]}


def table(path):
    with path.open(newline="") as f:
        return {(r["env"], r["algo"], r["metric"]): r for r in csv.DictReader(f)}


def test_from_runs_to_scores(tmp_path, capsys):
    for seed, last in enumerate((10.0, 20.0, 60.0)):
        make_run(tmp_path / f"runs/a{seed}", seed=seed, values=(0.0, 70.0, last))
    make_run(tmp_path / "runs/b", algo="dqn", values=(0.0, 5.0, 5.0))
    assert compare(["runs", "--threshold", "35", "--out", "out"]) == 0
    found = table(tmp_path / "out/scores.csv")
    final = found["CartPole-v1", "ppo", "final"]
    assert (final["iqm"], final["mean"], final["seeds"]) == ("30", "30", "3")
    assert 10 <= float(final["ci_low"]) <= 30 <= float(final["ci_high"]) <= 60
    assert found["CartPole-v1", "ppo", "best"]["iqm"] == "70"
    assert found["CartPole-v1", "ppo", "steps_to_threshold"]["iqm"] == "50"
    assert found["CartPole-v1", "ppo", "seconds_to_threshold"]["iqm"] == "1"
    assert float(found["CartPole-v1", "ppo", "optimality_gap"]["mean"]) == pytest.approx(
        40 / 3, abs=1e-3
    )
    assert found["CartPole-v1", "dqn", "auc"]["iqm"] == "3.75"
    never = found["CartPole-v1", "dqn", "steps_to_threshold"]
    assert (never["iqm"], never["mean"], never["seeds"]) == ("inf", "inf", "0 of 1")
    page = (tmp_path / "out/README.md").read_text()
    assert "| ppo |  | 1.00 |" in page
    for suffix in ("png", "svg"):
        assert (tmp_path / f"out/curves-CartPole-v1.{suffix}").stat().st_size > 5000
    assert "3 seeds" in capsys.readouterr().out


def test_several_environments_are_aggregated(tmp_path, capsys):
    for env, high in (("CartPole-v1", 500.0), ("Acrobot-v1", -73.5)):
        for seed in (0, 1):
            make_run(tmp_path / f"runs/{env}{seed}", env=env, seed=seed, values=(0.0, high))
    assert compare(["runs", "--out", "out"]) == 0
    row = table(tmp_path / "out/scores.csv")["all", "ppo", "normalised_final"]
    assert (row["iqm"], row["seeds"]) == ("1", "4")
    assert row["ci_low"] == "1"
    page = (tmp_path / "out/README.md").read_text()
    assert "(Acrobot-v1 -497.1 to -73.5, CartPole-v1 22.9 to 500)" in page
    for name in ("profiles", "aggregates"):
        assert f"]({name}.png)" in page
        assert (tmp_path / f"out/{name}.svg").stat().st_size > 5000
    assert "all, ppo" in capsys.readouterr().out

    (tmp_path / "mine.csv").write_text("env,low,high\nCartPole-v1,0,1000\nAcrobot-v1,-147,0\n")
    assert compare(["runs", "--normalize", "mine.csv", "--out", "out"]) == 0
    row = table(tmp_path / "out/scores.csv")["all", "ppo", "normalised_final"]
    assert row["iqm"] == "0.5"


def test_environments_without_reference_are_told_of(tmp_path, capsys):
    for env in ("X", "Y"):
        make_run(tmp_path / env, env=env)
    assert compare(["X", "Y", "--out", "out"]) == 0
    assert not any(env == "all" for env, *_ in table(tmp_path / "out/scores.csv"))
    assert not (tmp_path / "out/profiles.png").exists()
    assert "not in what is over all environments: X, Y" in capsys.readouterr().err


def test_smoothing_is_of_curves_and_said(tmp_path):
    make_run(tmp_path / "a", values=(0.0, 4.0, 8.0, 100.0))
    (curve,) = read([tmp_path / "a"], METRIC).curves
    np.testing.assert_allclose(smoothed(curve, 2).value, [0, 2, 6, 54])
    np.testing.assert_allclose(smoothed(curve, 9).value, [0, 2, 4, 28])
    for n in (0, 1):
        assert smoothed(curve, n) is curve
    assert compare(["a", "--smooth", "3", "--out", "out"]) == 0
    assert table(tmp_path / "out/scores.csv")["CartPole-v1", "ppo", "final"]["mean"] == "100"
    svg = (tmp_path / "out/curves-CartPole-v1.svg").read_text()
    assert "moving average of 3 evaluations" in svg
    assert compare(["a", "--out", "out"]) == 0
    assert "not smoothed" in (tmp_path / "out/curves-CartPole-v1.svg").read_text()


def test_settings_tell_runs_apart(tmp_path):
    for i, rate in enumerate((0.1, 0.2)):
        make_run(tmp_path / f"r{i}", learning_rate=rate, values=(0.0, 10.0 * i))
    assert compare(["r0", "r1", "--by", "env,learning-rate", "--out", "out"]) == 0
    found = table(tmp_path / "out/scores.csv")
    assert found["CartPole-v1", "learning_rate 0.2", "final"]["mean"] == "10"


def test_unfinished_uneven_and_damaged_runs_are_told_of(tmp_path, capsys):
    make_run(tmp_path / "a", values=(0.0, 1.0, 2.0))
    make_run(tmp_path / "b", seed=1, values=(0.0, 1.0), finished=False)
    make_run(tmp_path / "c", seed=2, values=())
    rows = (tmp_path / "a/metrics.jsonl").read_text().splitlines()
    (tmp_path / "a/metrics.jsonl").write_text("\n".join([rows[0], "{broken", *rows[1:], '{"half']))
    assert compare(["a", "b", "c", "a", "--out", "out"]) == 0
    told = capsys.readouterr().err
    for words in (
        "a/metrics.jsonl: 1 damaged lines left out",
        "b is not finished",
        "c, seed 2: no eval/return yet",
        "a was given twice",
        "end between 100 and 200 steps",
        "stopped short, and not scored: seed 1 (at step 100)",
    ):
        assert words in told
    row = table(tmp_path / "out/scores.csv")["CartPole-v1", "ppo", "final"]
    assert (row["mean"], row["seeds"], row["ci_low"]) == ("2", "1 of 2", "")


def test_seconds(tmp_path):
    curves = read([make_run(tmp_path / "a", values=(0.0, 1.0, 2.0))], METRIC).curves
    grid, middle, *_ = band(curves, "seconds")
    assert (grid[0], grid[-1]) == (0, 4)
    np.testing.assert_allclose(middle, grid / 2)


def test_csv_of_others(tmp_path):
    lines = ["env,algo,seed,env_steps,value"]
    lines += [f"X,theirs,{s},{t},{t * s}" for s in (1, 2) for t in (20, 0, 10)]
    (tmp_path / "theirs.csv").write_text("\n".join(lines))
    curves = read([tmp_path / "theirs.csv"], METRIC).curves
    assert [c.value.tolist() for c in curves] == [[0, 10, 20], [0, 20, 40]]
    assert compare(["theirs.csv", "--out", "out"]) == 0
    with pytest.raises(ValueError, match="not every curve knows its wall clock"):
        compare(["theirs.csv", "--x", "seconds", "--out", "out"])


def test_some_environments_and_algorithms_of_all(tmp_path):
    for env, algo in ("CartPole-v1", "ppo"), ("CartPole-v1", "dqn"), ("Acrobot-v1", "ppo"):
        make_run(tmp_path / f"runs/{env}-{algo}", env=env, algo=algo)

    def compared(*flags):
        compare(["runs", "--out", "out", *flags])
        return {(env, algo) for env, algo, metric in table(tmp_path / "out/scores.csv") if env}

    assert compared("--envs", "CartPole-v1", "--algos", "ppo") == {("CartPole-v1", "ppo")}
    assert {env for env, _ in compared("--algos", "ppo")} >= {"CartPole-v1", "Acrobot-v1"}
    with pytest.raises(ValueError, match="no curve of algo 'dqn': choose from ppo"):
        compared("--envs", "Acrobot-v1", "--algos", "dqn")


def test_the_published_comparison_with_another_library_is_made_of_its_data(tmp_path):
    theirs = RESULTS / "mujoco-trpo" / "sb3-contrib.csv"
    flags = [*("--envs", "Hopper-v5", "Walker2d-v5"), *("--algos", "trpo", "sb3-contrib-trpo")]
    ours = RESULTS / "mujoco" / "records.json"
    assert compare([str(ours), str(theirs), *flags, "--out", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} | {theirs.name} == {
        p.name for p in theirs.parent.iterdir()
    }
    for name in ("README.md", "scores.csv"):
        assert (tmp_path / name).read_text() == (theirs.parent / name).read_text()


def test_records(tmp_path):
    one = {
        "env": "X", "algo": "a", "seed": 3, "settings": {}, "wall_clock_s": 10.0, "env_steps": 20,
        "evaluations": [[10, 1.0, 4], [20, 2.0, 4]], "train_curve": [],
    }  # fmt: skip
    (tmp_path / "records.json").write_text(json.dumps({"title": None, "records": [one]}))
    (curve,) = read([tmp_path], METRIC).curves
    assert curve.seconds.tolist() == [5, 10]
    assert curve.value.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "which runs"),
        (["nowhere"], "there is no nowhere"),
        (["empty"], "there is no run in empty"),
        (["a", "b", "--by", "algo"], "runs of 2 environments"),
        (["a", "--by", "env,colour"], "--by colour: no run has that"),
        (["a", "--metric", "eval/retrun"], "no metric eval/retrun; there is eval/return"),
        (["short.csv"], "lacks the column seed"),
        (["words.csv"], "words.csv, line 2: not a number"),
        (["a", "--smooth", "-1"], "--smooth -1"),
        (["a", "--threshold", "nan"], "--threshold nan: a finite value"),
        (["a", "--threshold", "-inf"], "--threshold -inf: a finite value"),
        (["a", "--normalize", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["new"], "no value of eval/return: new, seed 0: no eval/return yet"),
        (["a.txt"], "is none of: run folder"),
        (["a", "--envs", "CartPole"], "no curve of env 'CartPole': did you mean CartPole-v1?"),
    ],
)
def test_bad_input(flags, message, tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", env="Acrobot-v1")
    make_run(tmp_path / "new", values=())
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("?")
    (tmp_path / "short.csv").write_text("env,algo\nX,a\n")
    (tmp_path / "words.csv").write_text("env,algo,seed,env_steps,value\nX,a,0,ten,1\n")
    with pytest.raises(ValueError, match=message):
        compare([*flags, "--out", "out"])
    assert not (tmp_path / "out").exists()


def series(path, **curves):
    """A CSV of `algo_seed`: values by step."""
    lines = [
        f"X,{','.join(name.split('_'))},{step},{value}"
        for name, points in curves.items()
        for step, value in points.items()
    ]
    path.write_text("\n".join(["env,algo,seed,env_steps,value", *lines]))
    return path.name


def test_runs_of_different_tasks_are_told_of(tmp_path, capsys):
    for seed, limit in ((0, 200), (1, 500)):
        folder = make_run(tmp_path / f"r{seed}", seed=seed, rate=0.1, values=(0.0, float(limit)))
        config = json.loads((folder / "config.json").read_text())
        folders.write_json(
            folder / "config.json", {**config, "env_kwargs": {"max_episode_steps": limit}}
        )
    make_run(tmp_path / "dqn", algo="dqn", rate=0.2)
    assert compare(["r0", "r1", "dqn", "--out", "out"]) == 0
    note = (
        "CartPole-v1, ppo: its 2 curves differ in more than their seeds (max_episode_steps 200, 500); "
        "--by env,algo,max_episode_steps tells them apart"
    )
    assert note in capsys.readouterr().err
    assert note in (tmp_path / "out/README.md").read_text()
    assert compare(["r0", "r1", "--by", "env,algo,max-episode-steps", "--out", "out"]) == 0
    assert "differ" not in capsys.readouterr().err
    found = table(tmp_path / "out/scores.csv")
    assert found["CartPole-v1", "ppo, max_episode_steps 500", "final"]["mean"] == "500"
    # Of several algorithms one wants to hear no more than that.
    assert compare(["r0", "dqn", "--by", "env", "--out", "out"]) == 0
    assert "(algo ppo, dqn); --by env,algo tells" in capsys.readouterr().err


def test_seeds_that_never_arrive_are_infinitely_late(tmp_path):
    many = {f"a_{seed}": {0: 0, 100: 10} for seed in range(3)}
    many |= {"a_3": {0: 0, 80: 10, 100: 10}, "a_4": {0: 0, 100: 1}}
    lucky = {"b_0": {0: 0, 50: 10, 100: 10}, **{f"b_{s}": {0: 0, 100: 1} for s in range(1, 5)}}
    name = series(tmp_path / "x.csv", **many, **lucky)
    assert compare([name, "--threshold", "5", "--out", "out"]) == 0
    found = table(tmp_path / "out/scores.csv")
    row = found["X", "a", "steps_to_threshold"]
    # 40, 50, 50, 50 and never: the quarter that is left out is one seed on either side.
    assert (row["iqm"], row["mean"], row["seeds"]) == ("50", "inf", "4 of 5")
    assert 40 <= float(row["ci_low"]) <= 50 < float(row["ci_high"])
    row = found["X", "b", "steps_to_threshold"]
    assert (row["iqm"], row["ci_high"], row["seeds"]) == ("inf", "inf", "1 of 5")
    assert found["X", "a", "seconds_to_threshold"]["seeds"] == "0 of 0"
    assert "counts as infinite" in (tmp_path / "out/README.md").read_text()


def test_the_gap_is_a_mean(tmp_path):
    values = (10, 10, 10, 0)  # of which the interquartile mean would be 10
    seeds = {f"a_{i}": {0: 0, 1: value} for i, value in enumerate(values)}
    compare([series(tmp_path / "x.csv", **seeds), "--threshold", "10", "--out", "out"])
    row = table(tmp_path / "out/scores.csv")["X", "a", "optimality_gap"]
    assert (row["iqm"], row["mean"], row["ci_low"]) == ("", "2.5", "0")
    assert float(row["ci_high"]) > 5


def test_curves_without_common_steps_have_no_band(tmp_path, capsys):
    name = series(tmp_path / "x.csv", a_0={0: 1, 10: 1}, a_1={20: 2, 30: 2})
    assert band(read([tmp_path / name], METRIC).curves, "steps") is None
    assert compare([name, "--out", "out"]) == 0
    assert "X, a: no band, as its curves have no steps in common" in capsys.readouterr().err
    assert not (tmp_path / "out/curves-X.png").exists()
    found = table(tmp_path / "out/scores.csv")
    assert (found["X", "a", "auc"]["iqm"], found["X", "a", "auc"]["seeds"]) == ("2", "1 of 2")
    # The first ends long before the second.
    assert found["X", "a", "final"]["seeds"] == "1 of 2"


def test_areas_are_over_common_steps(tmp_path):
    name = series(tmp_path / "x.csv", a_0={0: 0, 10: 10}, a_1={5: 5, 10: 10})
    compare([name, "--out", "out"])
    assert table(tmp_path / "out/scores.csv")["X", "a", "auc"]["mean"] == "7.5"


def test_values_that_are_no_numbers_leave_no_trace(tmp_path, capsys):
    name = series(tmp_path / "x.csv", a_0={0: 1, 1: "nan"}, a_1={0: 3, 1: 3}, b_0={0: 0, "nan": 1})
    assert compare([name, "--out", "out"]) == 0
    row = table(tmp_path / "out/scores.csv")["X", "a", "final"]
    assert (row["mean"], row["seeds"]) == ("-inf", "2, 1 diverged")
    row = table(tmp_path / "out/scores.csv")["X", "b", "final"]
    assert (row["mean"], row["seeds"]) == ("0", "1")
    assert "| a |  | 0.50 |" in (tmp_path / "out/README.md").read_text()
    told = capsys.readouterr().err
    assert "points are not finite" in told
    assert "X, a, seed 0: it diverged after step 0" in told


def test_a_misspelt_range_is_told_of(tmp_path, capsys):
    make_run(tmp_path / "a")
    (tmp_path / "mine.csv").write_text("\ufeffenv,low,high\nCartpole,0,1\n", encoding="utf-8")
    assert compare(["a", "--normalize", "mine.csv", "--out", "out"]) == 0
    told = capsys.readouterr().err
    assert "--normalize has Cartpole, but there are only CartPole-v1" in told


def test_a_comparison_beside_its_curves_is_written_again_and_again(tmp_path, capsys):
    (tmp_path / "all").mkdir()
    series(tmp_path / "all/x.csv", a_0={0: 0, 1: 1})
    figures = []
    for _ in range(2):
        assert compare(["all", "--out", "all/comparison"]) == 0
        figures.append(
            [(tmp_path / f"all/comparison/curves-X.{s}").read_bytes() for s in ("png", "svg")]
        )
    assert figures[0] == figures[1]
    assert "left out: all/comparison/scores.csv lacks the column seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("", "--out is empty"),
        (".", "--out is empty or the folder one is in"),
        ("mine", r"mine/README\.md was not written by this command"),
        ("tables", r"tables/scores\.csv was not written by this command"),
    ],
)
def test_what_others_wrote_is_not_overwritten(tmp_path, out, message):
    make_run(tmp_path / "a")
    for path in (
        tmp_path / "README.md",
        tmp_path / "mine/README.md",
        tmp_path / "tables/scores.csv",
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text("# A project\n")
    with pytest.raises(ValueError, match=message):
        compare(["a", "--out", out])
    for path in (
        tmp_path / "README.md",
        tmp_path / "mine/README.md",
        tmp_path / "tables/scores.csv",
    ):
        assert path.read_text() == "# A project\n"
