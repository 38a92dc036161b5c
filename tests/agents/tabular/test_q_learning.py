import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents.exploration import epsilon_greedy_probabilities
from agents.tabular.dynamic_programming import (
    action_values,
    epsilon_soft,
    evaluate_policy,
    value_iteration,
)
from agents.tabular.q_learning import (
    SARSA,
    ExpectedSARSA,
    QLearning,
    TabularConfig,
    bootstrap_value,
    td_update,
)
from envs import probes
from envs.tabular.table import Tabular, from_outcomes

EPSILON, GAMMA = 0.3, 0.8
SMALL = TabularConfig(
    total_steps=160_000,
    num_envs=64,
    num_steps=100,
    step_size=1.0,
    step_size_power=0.8,
    gamma=GAMMA,
    epsilon_start=EPSILON,
    epsilon_end=EPSILON,
)


def small_process():
    """Four states, three actions, two outcomes each; some end. The time limit is short, to be bootstrapped through."""
    rng = np.random.default_rng(0)
    outcomes = {
        s: {
            a: [
                (0.6, int(rng.integers(4)), float(rng.normal()), False),
                (0.4, int(rng.integers(4)), float(rng.normal()), bool(rng.random() < 0.3)),
            ]
            for a in range(3)
        }
        for s in range(4)
    }
    return Tabular(**from_outcomes(outcomes, [0.25] * 4), max_episode_steps=3)


def train(algorithm, config, env, seeds=None):
    algo = algorithm(config, env)
    iterations = config.total_steps // algo.iteration_steps

    def run(key):
        return jax.lax.scan(lambda s, _: algo.step(s), algo.init(key), None, iterations)

    run = run if seeds is None else jax.vmap(run)
    key = jax.random.key(0) if seeds is None else jax.random.split(jax.random.key(0), seeds)
    return algo, *jax.jit(run)(key)


class TestPureFunctions:
    def test_epsilon_greedy(self):
        q = jnp.array([[1.0, 3.0, 3.0, 0.0], [5.0, 0.0, 0.0, 0.0]])
        expected = [[0.1, 0.4, 0.4, 0.1], [0.7, 0.1, 0.1, 0.1]]
        np.testing.assert_allclose(epsilon_greedy_probabilities(q, 0.4), expected, rtol=1e-6)

    def test_bootstrap_by_hand(self):
        q, action = jnp.array([[1.0, 3.0], [4.0, 0.0]]), jnp.array([0, 0])
        np.testing.assert_allclose(bootstrap_value(q, action, 0.4, "greedy"), [3, 4])
        np.testing.assert_allclose(bootstrap_value(q, action, 0.4, "sampled"), [1, 4])
        np.testing.assert_allclose(bootstrap_value(q, action, 0.4, "expected"), [2.6, 3.2])

    def test_update_by_hand(self):
        q, visits = jnp.array([[0.0, 10.0], [0.0, 0.0]]), jnp.array([[0, 4], [0, 0]])
        s, a = jnp.array([0, 0, 1]), jnp.array([1, 1, 0])
        target = jnp.array([20.0, 40.0, 8.0])
        new, counted = td_update(q, visits, s, a, target, 0.25)
        np.testing.assert_array_equal(counted, [[0, 6], [1, 0]])
        # Two visits at once count for two: 10 + 2 x 0.25 (30 - 10).
        np.testing.assert_allclose(new, [[0, 20], [2, 0]])

    def test_many_visits_at_once_never_overshoot(self):
        s = jnp.zeros(64, jnp.int32)
        q, visits = jnp.zeros((1, 1)), jnp.zeros((1, 1), jnp.int32)
        q, _ = td_update(q, visits, s, s, jnp.ones(64), 0.5)
        np.testing.assert_allclose(q, 1.0)

    def test_power_one_is_the_mean_of_all_targets(self):
        targets = jax.random.normal(jax.random.key(0), (5, 4))
        q, visits = jnp.full((1, 1), 9.0), jnp.zeros((1, 1), jnp.int32)
        s = jnp.zeros(4, jnp.int32)
        for target in targets:
            q, visits = td_update(q, visits, s, s, target, 1.0, 1.0)
        np.testing.assert_allclose(q[0, 0], targets.mean(), atol=1e-6)


def test_q_learning_finds_the_optimal_values():
    env = small_process()
    _, state, metrics = train(QLearning, SMALL, env)
    optimal, _, _ = value_iteration(env.P, env.R, GAMMA)
    expected = action_values(env.P, env.R, GAMMA, optimal)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(state.q, expected, atol=0.1)
    assert np.sum(state.visits) == SMALL.total_steps == state.env_steps
    assert np.nanmax(metrics["train/length"]) <= 3


@pytest.mark.parametrize("algorithm", [SARSA, ExpectedSARSA])
def test_sarsa_finds_the_values_of_what_it_does(algorithm):
    env = small_process()
    _, state, _ = train(algorithm, SMALL, env)
    soft, _, _ = value_iteration(*epsilon_soft(env.P, env.R, EPSILON), GAMMA)
    expected = action_values(env.P, env.R, GAMMA, soft)
    np.testing.assert_allclose(state.q, expected, atol=0.1)
    # These are the values of the very policy that it follows, and not the optimal ones.
    followed = evaluate_policy(env.P, env.R, GAMMA, epsilon_greedy_probabilities(state.q, EPSILON))
    np.testing.assert_allclose(followed, soft, atol=1e-5)
    optimal, _, _ = value_iteration(env.P, env.R, GAMMA)
    assert np.max(np.abs(state.q - action_values(env.P, env.R, GAMMA, optimal))) > 0.2


def test_frozen_lake_is_crossed():
    env = envs.make("FrozenLake-v1")
    config = TabularConfig(total_steps=96_000, num_envs=32, num_steps=125, gamma=0.95)
    _, state, _ = train(QLearning, config, env)
    values, _, _ = value_iteration(env.P, env.R, 0.95)
    greedy = jax.nn.one_hot(jnp.argmax(state.q, -1), 4)
    found = evaluate_policy(env.P, env.R, 0.95, greedy)
    assert found[0] > 0.9 * values[0] > 0.1


class TestAlgorithm:
    config = dataclasses.replace(SMALL, num_envs=2, num_steps=5, total_steps=1000)

    def algo(self, **changes):
        return QLearning(dataclasses.replace(self.config, **changes), small_process())

    def test_epsilon_falls_and_stays(self):
        algo = self.algo(epsilon_start=1.0, epsilon_end=0.2, epsilon_fraction=0.5)
        found = jax.vmap(algo.epsilon)(jnp.array([0, 250, 500, 1000]))
        np.testing.assert_allclose(found, [1.0, 0.6, 0.2, 0.2], rtol=1e-6)

    def test_a_vmapped_seed_is_its_single_run(self):
        algo = self.algo()
        keys = jax.random.split(jax.random.key(3), 3)

        def run(key):
            return algo.step(algo.init(key))

        states, _ = jax.jit(jax.vmap(run))(keys)
        run_single = jax.jit(run)
        for i in range(3):
            single, metrics = run_single(keys[i])
            np.testing.assert_allclose(states.q[i], single.q, atol=1e-4)
        assert metrics["train/episodes"] >= 2  # three steps at most, of five
        assert algo.iteration_steps == single.env_steps == 10

    def test_acting(self):
        algo = self.algo()
        state = jax.jit(algo.init)(jax.random.key(0))
        state = dataclasses.replace(state, q=jnp.arange(12.0).reshape(4, 3).at[2, 0].set(99.0))
        obs = jnp.repeat(jnp.arange(4), 2000)
        np.testing.assert_array_equal(
            algo.act(state, jnp.arange(4), jax.random.key(0), True), [2, 2, 0, 2]
        )
        action = np.asarray(algo.act(state, obs, jax.random.key(1), False)).reshape(4, 2000)
        shares = np.stack([(action == a).mean(1) for a in range(3)], 1)
        np.testing.assert_allclose(
            shares, epsilon_greedy_probabilities(state.q, EPSILON), atol=0.04
        )

    def test_bad_input(self):
        with pytest.raises(ValueError, match="a table needs Discrete"):
            QLearning(self.config, probes.ConstantReward())

        class FromOne(probes.ConstantReward):
            observation_space = gymnasium.spaces.Discrete(2, start=1)
            action_space = gymnasium.spaces.Discrete(2)

        with pytest.raises(ValueError, match="observations counted from 0, got Discrete"):
            QLearning(self.config, FromOne())
        for name, value, message in (
            ("num_envs", 0, "num_envs must be at least 1"),
            ("gamma", 1.1, "gamma must be between 0 and 1"),
            ("epsilon_end", -0.1, "epsilon_end must be between 0 and 1"),
            ("step_size", 0.0, r"step_size must be in \(0, 1\]"),
            ("step_size_power", 2.0, "step_size_power must be between 0 and 1"),
        ):
            with pytest.raises(ValueError, match=message):
                dataclasses.replace(self.config, **{name: value})


@pytest.mark.slow
def test_cliff_walking_on_and_off_policy():
    """Sutton and Barto, example 6.6: Q-learning learns the way along the edge, and falls off it while it explores;
    SARSA learns the safe way round, and earns more."""
    env = envs.make("CliffWalking-v1")
    config = TabularConfig(
        total_steps=60_000,
        num_envs=1,
        num_steps=1000,
        gamma=1.0,
        epsilon_start=0.1,
        epsilon_end=0.1,
    )
    returns, lengths = {}, {}
    for algorithm in (QLearning, SARSA):
        _, state, metrics = train(algorithm, config, env, seeds=10)
        returns[algorithm] = np.asarray(metrics["train/return"])[:, 30:].mean()
        lengths[algorithm] = [walk(env, q) for q in np.asarray(state.q)]
    assert lengths[QLearning] == [13] * 10  # optimal: up, eleven along the edge, down
    assert min(lengths[SARSA]) >= 15
    assert max(lengths[SARSA]) <= 19
    # The book's figure: about -50 and -25. The best that can be done while exploring is -20.7.
    np.testing.assert_allclose(returns[QLearning], -50, atol=5)
    np.testing.assert_allclose(returns[SARSA], -21.5, atol=2)


def walk(env, q):
    """Steps of the greedy policy to the goal, at most 40."""
    s = 36
    for t in range(1, 41):
        a = int(np.argmax(q[s]))
        if env.terminals[s, a, 0]:
            return t
        s = int(env.next_states[s, a, 0])
    return 41
