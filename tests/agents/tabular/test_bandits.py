import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.exploration import draw_epsilon_greedy
from agents.tabular.bandits import Estimates, learn, play, start, upper_confidence
from envs.tabular.bandit import Bandit, draw_means

BANDITS, PULLS = 400, 400
EPSILONS = ("greedy", "0.01", "0.1")


def test_incremental_mean():
    rewards = jax.random.normal(jax.random.key(0), (20,))
    estimates = start(3, initial=5.0)
    for r in rewards:
        estimates = learn(estimates, jnp.int32(1), r)
    np.testing.assert_allclose(estimates.mean, [5.0, rewards.mean(), 5.0], atol=1e-6)
    np.testing.assert_array_equal(estimates.pulls, [0, 20, 0])


def test_constant_step_size_weighs_exponentially():
    estimates = start(1, initial=1.0)
    for r in (2.0, 4.0):
        estimates = learn(estimates, jnp.int32(0), jnp.float32(r), step_size=0.5)
    np.testing.assert_allclose(estimates.mean, [0.25 * 1 + 0.25 * 2 + 0.5 * 4])


def test_upper_confidence_by_hand():
    estimates = Estimates(jnp.array([1.0, 2.0, 0.0]), jnp.array([4.0, 1.0, 0.0]))
    scores = upper_confidence(estimates, jnp.int32(6), 2.0)
    root = np.sqrt(np.log(6))
    np.testing.assert_allclose(scores, [1 + root, 2 + 2 * root, np.inf], rtol=1e-6)


def test_choice():
    keys = jax.random.split(jax.random.key(0), 4000)
    scores = jnp.array([0.0, np.inf, np.inf, 1.0])
    arms = jax.vmap(draw_epsilon_greedy, (0, None, None))(keys, scores, 0.2)
    shares = np.bincount(arms, minlength=4) / 4000
    np.testing.assert_allclose(shares, [0.05, 0.45, 0.45, 0.05], atol=0.03)


@pytest.fixture(scope="module")
def testbed():
    """Mean reward, and share of the best arm, at each pull; by method."""
    means = draw_means(jax.random.key(0), BANDITS)
    best = jnp.argmax(means, -1)[:, None]

    keys = jax.random.split(jax.random.key(1), BANDITS)

    def curves(epsilon, score=None):
        def one(means, key):
            return play(Bandit(means=means), key, PULLS, epsilon=epsilon, score=score)

        rewards, arms = jax.vmap(one)(means, keys)
        return jnp.mean(rewards, 0), jnp.mean(arms == best, 0)

    greedy = jax.jit(jax.vmap(curves))(jnp.array([0.0, 0.01, 0.1]))
    found = {name: [np.asarray(x)[i] for x in greedy] for i, name in enumerate(EPSILONS)}
    ucb = jax.jit(lambda: curves(0.0, upper_confidence))()
    return {**found, "ucb": ucb, "oracle": float(means.max(-1).mean())}


@pytest.mark.slow
def test_the_ten_armed_testbed_is_the_books(testbed):
    """Sutton and Barto 2018, figures 2.2 and 2.4, read off; here over 400 bandits: a standard error of some 0.03."""
    late = {k: testbed[k][0][-100:].mean() for k in (*EPSILONS, "ucb")}
    np.testing.assert_allclose(testbed["oracle"], 1.54, atol=0.1)
    np.testing.assert_allclose(late["greedy"], 1.03, atol=0.1)
    np.testing.assert_allclose(late["0.1"], 1.33, atol=0.1)
    assert late["greedy"] < late["0.01"] < late["0.1"] < late["ucb"] < testbed["oracle"]
    best = {k: testbed[k][1][-100:].mean() for k in ("greedy", "0.1")}
    np.testing.assert_allclose(best["greedy"], 0.36, atol=0.08)
    np.testing.assert_allclose(best["0.1"], 0.74, atol=0.08)


def test_first_pulls(testbed):
    rewards, optimal = testbed["greedy"]
    np.testing.assert_allclose(optimal[0], 0.1, atol=0.05)  # a blind choice
    np.testing.assert_allclose(rewards[0], 0.0, atol=0.25)
    # UCB tries every arm once: by then the best has come up exactly once in ten pulls.
    np.testing.assert_allclose(testbed["ucb"][1][:10].sum(), 1.0, atol=1e-5)
