import csv
import json

import numpy as np
import pytest

from experiments import compare as module
from experiments import runs, sources
from experiments.compare import compare
from experiments.sources import read

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
    runs.create(folder, fields)
    rows = [
        {"env_steps": 100 * i, "wall_clock_s": 2.0 * i, METRIC: v, "kl": None}
        for i, v in enumerate(values)
    ]
    runs.append_rows(folder / "metrics.jsonl", rows)
    if finished:
        (folder / "summary.json").write_text("{}")
    return folder


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
    # Never reached by any seed:
    assert found["CartPole-v1", "dqn", "steps_to_threshold"]["seeds"] == "0"
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
    np.testing.assert_allclose(module.smoothed(curve, 2).value, [0, 2, 6, 54])
    np.testing.assert_allclose(module.smoothed(curve, 9).value, [0, 2, 4, 28])
    for n in (0, 1):
        assert module.smoothed(curve, n) is curve
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
    ):
        assert words in told
    assert table(tmp_path / "out/scores.csv")["CartPole-v1", "ppo", "final"]["mean"] == "1.5"


def test_seconds(tmp_path):
    curves = read([make_run(tmp_path / "a", values=(0.0, 1.0, 2.0))], METRIC).curves
    grid, middle, *_ = module.band(curves, "seconds")
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


def test_event_files_of_others(tmp_path):
    tensorboardx = pytest.importorskip("tensorboardX")
    for seed in (0, 1):
        writer = tensorboardx.SummaryWriter(str(tmp_path / f"logs/Hopper-v5/sb3/{seed}"))
        for step in (0, 10, 20):
            writer.add_scalar("eval/mean_reward", float(step + seed), step)
        writer.close()
    found = read([tmp_path / "logs"], "eval/mean_reward").curves
    assert {(c.fields["env"], c.fields["algo"], c.fields["seed"]) for c in found} == {
        ("Hopper-v5", "sb3", "0"),
        ("Hopper-v5", "sb3", "1"),
    }
    np.testing.assert_allclose(sorted(c.value[-1] for c in found), [20, 21])
    with pytest.raises(ValueError, match="no metric eval/return; there is eval/mean_reward"):
        read([tmp_path / "logs"], METRIC)


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
        (["a", "--normalize", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["new"], "no value of eval/return yet"),
        (["a.txt"], "is none of: run folder"),
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


def test_half_an_event_is_no_event(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(
        (3).to_bytes(8, "little") + b"CRC!" + b"abc" + b"CRC!" + (9).to_bytes(8, "little")
    )
    assert list(sources._framed(path)) == [b"abc"]
