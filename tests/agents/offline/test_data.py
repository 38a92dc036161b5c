"""Datasets as arrays, against loops over their episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents.offline import data as offline
from agents.spaces import encode
from tests.agents.offline.small import random_data

GAMMA = 0.9


@pytest.fixture(scope="module")
def data():
    return random_data(envs.make("Pendulum-v1"))


def episodes(data):
    ends = np.flatnonzero(data.terminated | data.truncated)
    starts = [0, *(ends[:-1] + 1)]
    return list(zip(starts, ends + 1, strict=True))


def test_places_within_episodes_and_what_follows(data):
    for number, (first, end) in enumerate(episodes(data)):
        part = slice(first, end)
        np.testing.assert_array_equal(data.episode[part], number)
        np.testing.assert_array_equal(data.t[part], np.arange(end - first))
        np.testing.assert_array_equal(data.left[part], np.arange(end - first)[::-1])
        rewards = np.asarray(data.reward[part], np.float64)
        for i in range(first, end):
            rest = rewards[i - first :]
            np.testing.assert_allclose(data.return_to_go[i], rest.sum(), rtol=1e-5, atol=1e-6)


def test_discounted_returns_are_a_loop_from_the_end(data):
    found = offline.discounted_returns(data, GAMMA)
    after, wanted = 0.0, []
    for i in reversed(range(len(found))):
        ends = bool(data.terminated[i] | data.truncated[i])
        after = float(data.reward[i]) + (0.0 if ends else GAMMA * after)
        wanted.append(after)
    np.testing.assert_allclose(found, wanted[::-1], rtol=1e-5, atol=1e-5)


def test_a_sample_to_the_end_bootstraps_where_the_episode_was_cut_off(data):
    index = jnp.array([0, 5, 13, 20])
    returns = offline.discounted_returns(data, GAMMA)
    sample = offline.take_to_end(data, index, returns, GAMMA)
    for k, i in enumerate(index):
        first, end = next((a, b) for a, b in episodes(data) if a <= i < b)
        assert bool(sample.terminated[k]) == bool(data.terminated[end - 1])
        discount = 0.0 if data.terminated[end - 1] else GAMMA ** (end - i)
        np.testing.assert_allclose(sample.discount[k], discount, rtol=1e-5)
        np.testing.assert_array_equal(sample.next_obs[k], data.next_obs[end - 1])
        np.testing.assert_array_equal(sample.obs[k], data.obs[i])
        assert first <= i


def test_a_part_of_the_data_is_of_the_best_episodes(data):
    returns = {i: float(data.reward[a:b].sum()) for i, (a, b) in enumerate(episodes(data))}
    best = max(returns, key=returns.get)
    drawn = offline.draw(data, jax.random.key(0), 500, 0.2)
    assert set(np.asarray(data.episode[drawn])) == {best}
    every = offline.draw(data, jax.random.key(0), 500)
    assert len(set(np.asarray(every))) == len(data.reward)


def test_rewards_are_scaled_by_the_range_of_returns(data):
    sums = [float(data.reward[a:b].sum()) for a, b in episodes(data)]
    scale = float(offline.reward_scale(data))
    assert (max(sums) - min(sums)) * scale == pytest.approx(1000.0, rel=1e-4)
    assert float(offline.reward_scale(data._replace(return_range=jnp.float32(0)))) == 1.0


def test_observations_are_normalised_by_the_data(data):
    np.testing.assert_allclose(data.obs_statistics.mean, data.obs.mean(0), atol=1e-5)
    np.testing.assert_allclose(data.obs_statistics.var, data.obs.var(0), rtol=1e-4)


@pytest.mark.parametrize(("ends", "fault"), [([], "no transitions"), ([True, False], "last")])
def test_what_is_no_dataset_is_refused(ends, fault):
    n, space = len(ends), envs.make("Pendulum-v1").observation_space
    obs, flags = np.zeros((n, 3), np.float32), np.array(ends, bool)
    with pytest.raises(ValueError, match=fault):
        offline.offline_data(
            obs, obs[:, :1], obs[:, 0], obs, flags, np.zeros(n, bool), lambda x: encode(space, x)
        )
