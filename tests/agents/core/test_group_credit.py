"""Advantages of single steps relative to a group: loops in NumPy are the oracle."""

import jax.numpy as jnp
import numpy as np
import pytest

from agents.batch import Batch
from agents.core import group_credit, returns
from agents.groups import group_targets

GROUP, T, N = 3, 5, 6


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(T, N)).astype(np.float32)
    length = np.array([5, 3, 1, 4, 4, 2])
    mask = np.arange(T)[:, None] < length
    reward[~mask] = np.nan  # whatever stands there is ignored
    return reward, mask


def to_go(reward, mask, discount):
    out = np.zeros((T, N))
    for n in range(N):
        for t in reversed(range(T)):
            later = out[t + 1, n] if t + 1 < T else 0.0
            out[t, n] = reward[t, n] + discount * later if mask[t, n] else 0.0
    return out


def deviation(x):
    return np.std(x, ddof=1) + 1e-4


@pytest.mark.parametrize("scale", [True, False])
def test_a_step_is_compared_with_the_groups_at_that_step(data, scale):
    reward, mask = data
    wanted, g = np.zeros((T, N)), to_go(reward, mask, 0.9)
    for first in range(0, N, GROUP):
        members, centred = range(first, first + GROUP), []
        for t in range(T):
            alive = [n for n in members if mask[t, n]]
            for n in alive:
                wanted[t, n] = g[t, n] - np.mean([g[t, m] for m in alive])
                centred.append(wanted[t, n])
        if scale:
            wanted[:, first : first + GROUP] /= deviation(centred)
    advantage, none = group_credit.group_step_advantages(
        jnp.asarray(reward), jnp.asarray(mask), GROUP, 0.9, scale=scale
    )
    np.testing.assert_allclose(advantage, wanted, atol=1e-6)
    assert advantage[4, 0] == 0.0  # the last one left
    assert none == 0.0


@pytest.mark.parametrize("scale", [True, False])
def test_process_supervision_sums_rewards_relative_to_all_of_the_groups(data, scale):
    reward, mask = data
    rewarded = np.random.default_rng(1).random((T, N)) < 0.6
    wanted = np.zeros((T, N))
    for first in range(0, N, GROUP):
        at = [
            (t, n)
            for n in range(first, first + GROUP)
            for t in range(T)
            if mask[t, n] and rewarded[t, n]
        ]
        given = [reward[i] for i in at]
        for t, n in at:
            wanted[t, n] = (reward[t, n] - np.mean(given)) / (deviation(given) if scale else 1.0)
    wanted = to_go(wanted, mask, 0.9)
    advantage, none = group_credit.group_process_advantages(
        jnp.asarray(reward), jnp.asarray(rewarded), jnp.asarray(mask), GROUP, 0.9, scale=scale
    )
    np.testing.assert_allclose(advantage, wanted, atol=1e-5)
    assert none == 0.0


def test_process_supervision_with_one_reward_at_the_end_is_outcome_supervision(data):
    _, mask = data
    mask = jnp.asarray(mask)
    last = returns.last_real_step(mask)
    outcome = jnp.array([1.0, 0.0, 0.5, 2.0, 2.0, -1.0])
    reward = jnp.where(last, outcome, 0.0)
    advantage, _ = group_credit.group_process_advantages(reward, last, mask, GROUP)
    wanted, _ = returns.group_advantages(outcome, GROUP)
    np.testing.assert_allclose(advantage, jnp.where(mask, wanted, 0.0), rtol=1e-5)


def test_equal_members_teach_nothing():
    reward, mask = jnp.full((4, 4), 0.1), jnp.ones((4, 4), bool)
    reward = reward.at[2, 3].set(0.7)  # the second group differs
    for credit in ("reward-to-go", "process"):
        batch = Batch(None, None, None, reward, ~mask, ~mask, mask)
        targets, metrics = group_targets(batch, 2, 0.99, credit=credit)
        np.testing.assert_array_equal(targets.advantage[:, :2], np.zeros((4, 2)))
        assert np.abs(targets.advantage[:, 2:]).max() > 0.1
        assert metrics["frac_zero_std"] == 0.5


def test_columns_that_are_no_groups_are_refused():
    with pytest.raises(ValueError, match="5 columns do not divide into groups of 2"):
        group_credit.group_step_advantages(jnp.zeros((2, 5)), jnp.ones((2, 5), bool), 2)
