import math

import numpy as np
import pytest

from experiments.evaluation import metrics


def test_rows_weigh_returns_by_episodes_and_sum_counts():
    pending = {
        "train/return": [[1.0], [4.0], [math.nan]],
        "train/length": [[10.0], [40.0], [math.nan]],
        "train/episodes": [[1.0], [3.0], [0.0]],
        "train/nonfinite": [[0.0], [2.0], [1.0]],
        "loss/policy": [[1.0], [2.0], [6.0]],
        "time/rollout_s": [[0.1], [0.2], [0.3]],
    }
    row = metrics.aggregate(pending, 0)
    assert row["train/return"] == (1 * 1 + 3 * 4) / 4
    assert row["train/length"] == (1 * 10 + 3 * 40) / 4
    assert row["train/episodes"] == 4
    assert row["train/nonfinite"] == 3
    assert row["loss/policy"] == 3
    assert row["time/rollout_s"] == pytest.approx(0.6)


@pytest.mark.parametrize("of_none", [math.nan, 0.0])
def test_without_an_ended_episode_the_return_is_null(of_none):
    row = metrics.aggregate({"train/return": [[of_none]], "train/episodes": [[0.0]]}, 0)
    assert row == {"train/return": None, "train/episodes": 0.0}
    later = {"train/return": [[of_none], [7.0]], "train/episodes": [[0.0], [2.0]]}
    assert metrics.aggregate(later, 0)["train/return"] == 7


@pytest.mark.parametrize("total", [1, 2, 7, 10, 11, 499, 500, 999, 1000, 1001, 5003])
def test_marks_end_rows_and_the_last_is_the_end(total):
    marks, every = metrics.evaluation_marks(total), metrics.row_iterations(total)
    assert marks == sorted(set(marks))
    assert marks[-1] == total
    assert all(m % every == 0 for m in marks[:-1])
    assert len(marks) == min(metrics.MARKS, total) or total < 40


def test_the_first_nonfinite_is_the_earliest_iteration():
    buffers = {
        "loss/policy": np.array([[0.0, 0.0], [0.0, np.inf]]),
        "grad_norm": np.array([[0.0, np.nan], [0.0, 0.0]]),
        "train/return": np.array([[np.nan, np.nan], [0.0, 0.0]]),
    }
    assert metrics.first_nonfinite(buffers) == (0, 1, "grad_norm")
    del buffers["grad_norm"], buffers["loss/policy"]
    assert metrics.first_nonfinite(buffers) is None


def test_a_metric_that_comes_later_keeps_its_place():
    pending = metrics.extend({}, {"loss": np.array([[1.0], [2.0]])})
    both = {"loss": np.array([[3.0]]), "time/rollout_s": np.array([[0.5]])}
    pending = metrics.extend(pending, both)
    assert pending["loss"] == [[1.0], [2.0], [3.0]]
    assert pending["time/rollout_s"][2:] == [[0.5]]
    assert metrics.aggregate(pending, 0) == {"loss": 2.0, "time/rollout_s": None}
    later = {name: x[2:] for name, x in pending.items()}
    assert metrics.aggregate(later, 0) == {"loss": 3.0, "time/rollout_s": 0.5}
