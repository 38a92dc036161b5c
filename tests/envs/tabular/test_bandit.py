import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import base, make
from envs.tabular.bandit import Bandit, draw_means

PULLS = 4000


def test_every_arm_pays_around_its_mean_with_variance_one():
    env = Bandit()
    keys = jax.random.split(jax.random.key(0), (10, PULLS))

    def pull(key, arm):
        running, _ = base.reset(env, key)
        return base.step(env, key, running, arm)[1]

    t = jax.jit(jax.vmap(jax.vmap(pull, (0, None))))(keys, jnp.arange(10))
    np.testing.assert_allclose(np.mean(t.reward, 1), env.means, atol=4 / np.sqrt(PULLS))
    np.testing.assert_allclose(np.var(t.reward, 1), 1.0, atol=4 * np.sqrt(2 / PULLS))
    assert np.all(t.terminated)  # one step, an end rather than a cut
    assert not np.any(t.truncated)
    assert not np.any(t.next_obs)
    regret = np.max(env.means) - np.asarray(env.means)
    np.testing.assert_allclose(t.info["bandit/regret"][:, 0], regret, atol=1e-6)
    np.testing.assert_array_equal(t.info["bandit/optimal"][:, 0], regret == 0)


def test_default_means_are_drawn_once():
    assert np.array_equal(make("Bandit-v0").means, Bandit().means)
    assert Bandit(arms=3).means.shape == (3,)
    assert Bandit().action_space.n == 10
    assert Bandit().observation_space.n == 1


def test_many_bandits_under_vmap():
    means = draw_means(jax.random.key(0), 500, 10)
    np.testing.assert_allclose(np.mean(means), 0.0, atol=4 / np.sqrt(5000))
    np.testing.assert_allclose(np.var(means), 1.0, atol=4 * np.sqrt(2 / 5000))

    def pull(means, key):
        env = Bandit(means=means)
        state = env.transition(env.initial(key), jnp.int32(3), key)
        return env.reward(state, jnp.int32(3), state)

    keys = jnp.broadcast_to(jax.random.key(1), (500,))
    np.testing.assert_allclose(
        jax.vmap(pull)(means, keys) - means[:, 3], jax.random.normal(keys[0]), atol=1e-5
    )


def test_means_must_match_the_arms():
    np.testing.assert_allclose(Bandit(arms=2, means=[1, 2]).means, [1, 2])
    with pytest.raises(ValueError, match="means must be 10 numbers"):
        Bandit(means=[1.0, 2.0])
    with pytest.raises(ValueError, match="arms must be an integer of at least 1"):
        Bandit(arms=0)
