"""Rewards as on-policy learners see them: in units of their returns' spread, and bounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import normalize
from agents.normalize import REWARD_BOUND, UNSEEN_BOUND, return_scale, scaled_reward


def after(*returns, times=1):
    statistics = normalize.init(())
    for _ in range(times):
        statistics = normalize.update(statistics, jnp.asarray(returns))
    return statistics


@pytest.mark.parametrize("first", [1.0, 1e-3, -1.0, 1e6, -1e6])
def test_the_first_reward_after_none(first):
    """The case 22-first-reward-after-none: it counted 10,000."""
    seen = scaled_reward(after(*[0.0] * 1024, times=50), jnp.array([0.0, first]))
    np.testing.assert_allclose(seen, [0.0, np.sign(first) * UNSEEN_BOUND], rtol=1e-6)


@pytest.mark.slow
def test_the_rewards_after_the_first_are_bounded_too():
    returns = np.zeros(1_000_000, np.float32)
    returns[:100] = 0.99 ** np.arange(100)  # of one reward
    statistics = after(*returns)
    assert 1.0 / return_scale(statistics) > 100
    assert scaled_reward(statistics, jnp.ones(())) == REWARD_BOUND


def test_rewards_that_fit_the_statistics_are_divided_and_nothing_else():
    statistics = after(*np.random.default_rng(0).normal(3.0, 5.0, 1000))
    rewards = jnp.asarray(np.random.default_rng(1).normal(0.0, 20.0, 1000), jnp.float32)
    plain = rewards / return_scale(statistics)
    assert float(jnp.max(jnp.abs(plain))) < REWARD_BOUND
    np.testing.assert_array_equal(scaled_reward(statistics, rewards), plain)


def test_before_there_are_statistics_rewards_are_what_they_are():
    rewards = jnp.array([-100.0, 1e5])
    np.testing.assert_array_equal(scaled_reward(normalize.init(()), rewards), rewards)


def test_returns_that_are_all_alike_count_ten():
    """The floor of the scale, a tenth of the mean."""
    seen = scaled_reward(after(-2.0, -2.0), jnp.array([-2.0, 2.0]))
    np.testing.assert_allclose(seen, [-10.0, 10.0], rtol=1e-5)


def test_seeds_side_by_side_are_each_bounded_by_their_own_statistics():
    both = jax.tree.map(lambda *x: jnp.stack(x), after(0.0, 0.0), after(0.0, 2.0))
    seen = jax.vmap(scaled_reward)(both, jnp.ones((2, 3)))
    np.testing.assert_allclose(seen, [[10.0] * 3, [1.0] * 3], rtol=1e-5)
