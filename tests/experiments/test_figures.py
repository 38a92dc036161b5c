"""What figures share: curves on a common grid, and the look of an algorithm."""

import numpy as np

import agents
from experiments.figures.alignment import align, common_range, interpolate, quartiles
from experiments.figures.canvas import CONTROL, looks


def test_the_common_range_ends_with_the_first_curve():
    axes = [np.array([0.0, 30.0]), np.array([10.0, 20.0, 40.0]), np.zeros(0)]
    assert common_range(axes) == (10.0, 30.0)
    begin, end = common_range([np.array([0.0, 1.0]), np.array([2.0, 3.0])])
    assert end < begin
    begin, end = common_range([])
    assert end < begin


def test_curves_are_straight_between_their_points():
    curves = [(np.array([0.0, 10.0]), np.array([0.0, 20.0])), (np.array([5.0]), np.array([7.0]))]
    values = interpolate(curves, np.array([0.0, 5.0]))
    np.testing.assert_allclose(values, [[0, 10], [7, 7]])


def test_aligned_curves_have_the_steps_of_all_within_their_range():
    curves = [
        (np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0])),
        (np.array([5.0, 15.0]), np.array([1.0, 3.0])),
        (np.zeros(0), np.zeros(0)),
    ]
    grid, values = align(curves)
    np.testing.assert_allclose(grid, [5, 10, 15])
    np.testing.assert_allclose(values, [[5, 10, 15], [1, 2, 3]])
    grid, values = align([])
    assert grid.shape == (0,)
    assert values.shape == (1, 0)


def test_quartiles_go_as_far_as_all_curves():
    steps = np.array([0.0, 10.0, 20.0])
    curves = [(steps, steps * k) for k in (1, 2, 3, 4)] + [
        (np.array([5.0, 15.0]), np.array([25.0, 75.0]))
    ]
    x, (low, middle, high) = quartiles(curves)
    np.testing.assert_allclose(x, [5, 10, 15])
    np.testing.assert_allclose(low, 2 * x)
    np.testing.assert_allclose(middle, 3 * x)
    np.testing.assert_allclose(high, 4 * x)


def test_an_algorithm_looks_the_same_in_every_figure():
    alone, beside = looks(["sac"]), looks(["mine", "sac", "ppo", "yours"])
    assert alone["sac"] == beside["sac"]
    assert looks(["ppo"])["ppo"] == beside["ppo"]
    assert len(set(beside.values())) == 4
    assert len(set(looks(CONTROL).values())) == len(CONTROL)
    assert list(agents.ALGORITHMS)[: len(CONTROL)] == list(CONTROL)  # then tabular
