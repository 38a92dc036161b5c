import numpy as np
import pytest

from experiments.analysis import profiles, statistics
from experiments.analysis.curve import Curve
from experiments.analysis.statistics import optimality_gap

RANGES = {"A": (0.0, 10.0), "B": (-100.0, 100.0)}


def seeds(env, label, values):
    steps = np.array([0.0, 1.0])
    return [
        Curve({"env": env, "algo": label, "seed": i}, steps, steps, np.array([v + 1.0, v]), True)
        for i, v in enumerate(values)
    ]


def groups(**values):
    return {
        tuple(name.split("_")): seeds(*name.split("_"), v)
        for name, v in ((k, np.array(v, float)) for k, v in values.items())
    }


def together(own=RANGES, metric="eval/return", **values):
    return profiles.together(groups(**values), own, metric)


def test_scores_are_normalised_environment_by_environment():
    found, notes = together(A_x=[0, 5], B_x=[0, 100])
    assert notes == []
    scores = profiles.normalised(found, profiles.MEASURES["normalised_final"])["x"]
    np.testing.assert_allclose(scores, [[0.0, 0.5], [0.5, 1.0]])
    best = profiles.normalised(found, profiles.MEASURES["normalised_best"])["x"]
    np.testing.assert_allclose(best, [[0.1, 0.6], [0.505, 1.005]])


def test_rows_by_hand():
    found, _ = together(A_x=[0, 20], B_x=[0, 100], A_y=[10, 10], B_y=[100, 100])
    rows = {(r[1], r[2]): r for r in profiles.rows(found)}
    # 0, 2, 0.5 and 1: what is above 1 does not make up for the rest.
    env, _, _, iqm, mean, low, high, runs = rows["x", "normalised_final"]
    assert (env, iqm, mean, runs) == ("all", "0.75", "0.875", "4")
    assert float(low) < 0.75 < float(high)
    assert rows["x", profiles.GAP][3:5] == ("", "0.375")
    assert rows["y", profiles.GAP][4:7] == ("0", "0", "0")


def test_improvement_is_the_mean_of_environments():
    found, _ = together(A_x=[1, 2], B_x=[5, 5], A_y=[0, 0], B_y=[5, 9])
    chances = profiles.improvements(found)
    assert chances["x", "y"] == (1.0 + 0.25) / 2
    assert chances["y", "x"] == 1 - chances["x", "y"]


def test_environments_that_are_common_to_the_most_are_kept():
    own = {**RANGES, "C": (0.0, 1.0)}
    found, (note,) = together(
        own, A_x=[1], B_x=[1], C_x=[1], A_y=[1], B_y=[1], A_z=[1], C_w=[1], B_w=[1]
    )
    # {A, B} with x, y and {B, C} with x, w are four runs each; the later names decide, so that it is no chance.
    assert list(found.ranges) == ["B", "C"]
    assert list(found.curves) == ["x", "w"]
    assert "B, C with x, w" in note


def test_what_has_no_reference_is_left_out_and_named():
    found, (note,) = together(A_x=[1], B_x=[1], C_x=[1], A_y=[1], B_y=[1, 2])
    assert list(found.ranges) == ["A", "B"]
    assert "not in what is over all environments: C;" in note
    assert together(A_x=[1], C_x=[1])[0] is None
    assert together(A_x=[1], A_y=[1]) == (None, [])
    assert together(A_x=[1], B_y=[1])[0] is None


def test_environments_weigh_the_same_however_many_seeds_they_have():
    found, notes = together(A_x=[10] * 2, B_x=[-100] * 10, A_y=[10] * 10, B_y=[-100] * 2)
    assert notes == []
    rows = {(r[1], r[2]): r for r in profiles.rows(found)}
    for label in ("x", "y"):
        assert rows[label, "normalised_final"][3:5] == ("0.5", "0.5")
        assert rows[label, profiles.GAP][4] == "0.5"
        assert rows[label, "normalised_final"][7] == "12"


def test_there_is_no_interval_where_an_environment_has_one_seed(tmp_path):
    found, _ = together(A_x=[1], B_x=[1, 2], A_y=[1, 3], B_y=[1, 2])
    rows = {(r[1], r[2]): r for r in profiles.rows(found)}
    for name in ("normalised_final", "normalised_best", profiles.GAP):
        assert rows["x", name][5:7] == ("", "")
        assert float(rows["y", name][5]) < float(rows["y", name][6])
    profiles.draw(found, list(rows.values()), tmp_path, "eval/return")
    assert (tmp_path / "aggregates.png").exists()


def test_published_ranges_are_of_returns_only():
    pair = {(env, "ppo"): seeds(env, "ppo", [1.0]) for env in ("Hopper-v5", "gym:HalfCheetah-v4")}
    found, _ = profiles.together(pair, {}, "eval/return")
    assert found.ranges == {"Hopper-v5": (18.0, 3618), "gym:HalfCheetah-v4": (-264.0, 12139)}
    found, _ = profiles.together(pair, {"Hopper-v5": (0.0, 1.0)}, "eval/return")
    assert found.ranges["Hopper-v5"] == (0.0, 1.0)
    assert profiles.together(pair, {}, "loss")[0] is None


def test_ranges_of_what_is_not_compared_are_told_of():
    assert profiles.unused(RANGES, ["A", "B", "C"]) == []
    (note,) = profiles.unused(RANGES, ["A", "C"])
    assert note == "--normalize has B, but there are only A, C"


def test_ranges_from_csv(tmp_path):
    path = tmp_path / "ranges.csv"
    path.write_text("env,low,high\nA,-1,2.5\nB,0,1e3\n")
    assert profiles.read_ranges(path) == {"A": (-1.0, 2.5), "B": (0.0, 1000.0)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env,low\nA,1\n", "lacks the column high"),
        ("env,low,high\nA,1,2\nB,one,2\n", "line 3: not a number"),
        ("env,low,high\nA,1\n", "line 2: not a number"),
        ("env,low,high\nA,2,1\n", "low must be below high"),
        ("env,low,high\nA,0,inf\n", "both finite"),
        (None, "cannot be read"),
    ],
)
def test_ranges_that_are_none(tmp_path, text, message):
    path = tmp_path / "ranges.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        profiles.read_ranges(path)


def test_a_profile_of_many_resamples_is_each_ones_profile():
    scores = np.random.default_rng(0).normal(size=(5, 3))
    thresholds = np.array([-0.5, 0.0, 0.7])
    together = statistics.performance_profile(scores, thresholds)
    for i in range(3):
        each = statistics.performance_profile(scores[:, i], thresholds)
        np.testing.assert_array_equal(together[i], each)
    low, high = statistics.bootstrap(
        [scores[:, 0]], lambda s: statistics.performance_profile(s, thresholds)
    )
    assert low.shape == high.shape == (3,)


def test_the_figures(tmp_path):
    found, _ = together(A_x=[0, 20], B_x=[0, 100], A_y=[10, 9], B_y=[100, 50])
    rows = profiles.rows(found)
    for name in profiles.draw(found, rows, tmp_path, "eval/return"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        assert (tmp_path / f"{name}.svg").read_text().rstrip().endswith("</svg>")
    gaps = [float(r[4]) for r in rows if r[2] == profiles.GAP]
    assert gaps[0] == pytest.approx(float(optimality_gap(np.array([0, 2, 0.5, 1]), 1.0)))
