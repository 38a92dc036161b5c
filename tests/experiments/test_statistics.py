import json
from pathlib import Path

import numpy as np
import pytest

from experiments.analysis import statistics

# The file says how it was made.
RLIABLE = json.loads((Path(__file__).parent / "fixtures" / "rliable.json").read_text())
_DRAW = np.random.default_rng(RLIABLE["seed"])
DRAWN = {  # [runs, environments]
    "x": _DRAW.integers(0, 151, (9, 4)) / 100,
    "y": _DRAW.integers(0, 121, (6, 4)) / 100,
}


@pytest.mark.parametrize("runs", [1, 3, 4, 5, 8, 10, 11])
def test_iqm_is_scipys_trimmed_mean(runs):
    stats = pytest.importorskip("scipy.stats")
    scores = np.random.default_rng(runs).normal(size=(runs, 7))
    np.testing.assert_allclose(statistics.iqm(scores), stats.trim_mean(scores, 0.25, axis=0))


def test_iqm_by_hand():
    assert statistics.iqm(np.array([0.0, 1, 2, 3, 4, 5, 6, 100])) == 3.5
    assert statistics.iqm(np.array([1.0, 2, 6])) == 3.0


def test_bootstrap_is_scipys_within_its_own_noise():
    stats = pytest.importorskip("scipy.stats")
    scores = np.random.default_rng(0).normal(size=20)
    low, high = statistics.bootstrap([scores], resamples=20_000)
    other = stats.bootstrap(
        (scores,),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    np.testing.assert_allclose([low, high], other, atol=0.03)


def test_intervals_cover_at_about_the_stated_rate():
    """Of the mean of 20 normal runs: the percentile bootstrap is known to be a little too narrow."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 600))  # 600 experiments side by side
    low, high = statistics.bootstrap([scores], lambda x: np.mean(x, axis=0), resamples=400)
    assert 0.90 < np.mean((low < 0) & (high > 0)) < 0.96


def test_strata_are_drawn_apart():
    """Two environments with no spread inside have none together; thrown together they would."""
    low, high = statistics.bootstrap([np.zeros(5), np.ones(5)], lambda x: np.mean(x, axis=0))
    assert low == high == 0.5
    low, high = statistics.bootstrap([np.r_[np.zeros(5), np.ones(5)]], lambda x: np.mean(x, axis=0))
    assert low < 0.4 < 0.6 < high


def test_bootstrap_of_curves_and_repeats():
    scores = np.random.default_rng(0).normal(size=(5, 3))
    low, high = statistics.bootstrap([scores])
    assert low.shape == high.shape == (3,)
    assert (low <= statistics.iqm(scores)).all()
    assert (statistics.iqm(scores) <= high).all()
    np.testing.assert_array_equal(low, statistics.bootstrap([scores])[0])
    with pytest.raises(ValueError, match="no runs"):
        statistics.bootstrap([])


def test_what_never_happens_is_infinitely_late():
    low, high = statistics.bootstrap([np.array([1.0, 2.0, 3.0, 4.0, np.inf])])
    assert 1 <= low <= 3
    assert high == np.inf


def test_a_part_of_a_curve():
    x, y = statistics.clipped(np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 0.0]), 5.0, 15.0)
    assert (x.tolist(), y.tolist()) == ([5, 10, 15], [5, 10, 5])


def test_by_hand():
    scores = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(
        statistics.performance_profile(scores, np.array([0.0, 1.0, 2.5, 4.0])), [1, 0.75, 0.5, 0]
    )
    assert (
        statistics.probability_of_improvement(np.array([2.0, 3.0]), np.array([1.0, 3.0])) == 0.625
    )
    assert statistics.optimality_gap(scores, 3.0) == 0.75
    x, y = np.array([0.0, 1.0, 3.0]), np.array([0.0, 2.0, 2.0])
    assert statistics.area_under_curve(x, y) == pytest.approx(5 / 3)
    assert statistics.area_under_curve(x[:1], y[:1]) == 0.0
    assert statistics.first_reached(x, y, 1.0) == 0.5
    assert statistics.first_reached(x, y, 0.0) == 0.0
    assert statistics.first_reached(x, y, 3.0) == np.inf


def test_probability_of_improvement_is_mann_whitneys():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 9).astype(float), rng.integers(0, 5, 7).astype(float)
    expected = stats.mannwhitneyu(x, y).statistic / (9 * 7)
    assert statistics.probability_of_improvement(x, y) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["x", "y"])
def test_of_several_environments_it_is_rliables(name):
    theirs, (scores, taus) = RLIABLE[name], (DRAWN[name], np.linspace(0, 1.5, 13))
    pooled, strata = scores.ravel(), list(scores.T)
    np.testing.assert_allclose(statistics.iqm(pooled), theirs["iqm"])
    np.testing.assert_allclose(statistics.optimality_gap(pooled, 1.0), theirs["optimality_gap"])
    np.testing.assert_allclose(statistics.performance_profile(pooled, taus), theirs["profile"])
    # Intervals are drawn at random by both: within their own noise.
    for found, expected in (
        (statistics.bootstrap(strata, resamples=20_000), "iqm_interval"),
        (
            statistics.bootstrap(
                strata, lambda s: statistics.optimality_gap(s, 1.0), resamples=20_000
            ),
            "optimality_gap_interval",
        ),
    ):
        np.testing.assert_allclose(found, theirs[expected], atol=0.01)
    band = statistics.bootstrap(
        strata, lambda s: statistics.performance_profile(s, taus), resamples=5000
    )
    # Of a share the quantiles are steps of one run.
    np.testing.assert_allclose(band, theirs["profile_band"], atol=1.01 / len(pooled))


def test_improvement_over_several_environments_is_rliables():
    chances = [
        statistics.probability_of_improvement(x, y)
        for x, y in zip(DRAWN["x"].T, DRAWN["y"].T, strict=True)
    ]
    np.testing.assert_allclose(np.mean(chances), RLIABLE["improvement"])
