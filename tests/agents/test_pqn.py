import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents import pqn
from agents.batch import Batch, Evaluation, Targets, random_order
from agents.pqn import PQN, PQNConfig, update
from envs import probes

SMALL = PQNConfig(
    total_steps=20_000,
    num_envs=8,
    num_steps=8,
    num_minibatches=2,
    learning_rate=3e-3,
    gamma=0.5,
    hidden_sizes=(16,),
    normalize_returns=False,
)


def train(env, config=SMALL, iterations=200):
    algo = PQN(config, env)

    @jax.jit
    def run(key):
        return jax.lax.scan(lambda s, _: algo.step(s), algo.init(key), None, iterations)

    return algo, *run(jax.random.key(0))


def values(algo, state, *observations):
    """Of the best action."""
    obs = jnp.asarray(observations, jnp.float32)[:, None]
    return np.asarray(algo.policy.value(state.params, obs))


class TestProbes:
    """Each finds the known answer. What a failure would point at stands in envs/probes.py."""

    @pytest.mark.slow
    def test_continuous_action(self):
        config = dataclasses.replace(SMALL, bins=5)  # -1, -0.5, 0, 0.5, 1
        algo, state, metrics = train(probes.RewardIsAction(continuous=True), config)
        np.testing.assert_allclose(
            algo.act(state, jnp.zeros((1, 1)), jax.random.key(0), True), [[0.5]], atol=1e-6
        )
        assert state.env_steps == 200 * 64
        # Falls from 1 to 0.05 within a fifth of 20,000 steps; each iteration acts by what it was at its start.
        steps = 64 * np.arange(200)
        np.testing.assert_allclose(
            metrics["epsilon"], 1 - 0.95 * np.minimum(steps / 4000, 1), rtol=1e-4
        )

    def test_truncation_bootstraps_from_the_true_final_observation(self):
        algo, state, _ = train(probes.TruncationOnly())
        np.testing.assert_allclose(values(algo, state, 1.0, 0.0), [1.0, 2.0], atol=0.1)

    def test_delayed_reward(self):
        algo, state, _ = train(probes.DelayedReward())
        np.testing.assert_allclose(values(algo, state, 0.0, 1.0), [0.5, 1.0], atol=0.1)


def slow_q_lambda(batch, best, gamma, trace):
    """Peng's Q(lambda), one column and one step at a time, from the last one back. `best`: max_a Q(s_{t+1}, a)."""
    steps, columns = batch.reward.shape
    target = np.zeros((steps, columns))
    for n in range(columns):
        for t in reversed(range(steps)):
            if batch.terminated[t, n]:
                later = 0.0
            elif batch.truncated[t, n] or t == steps - 1:
                later = best[t, n]
            else:
                later = (1 - trace) * best[t, n] + trace * target[t + 1, n]
            target[t, n] = batch.reward[t, n] + gamma * later
    return target


@pytest.mark.parametrize("trace", [0.65, 1.0])
def test_targets_against_a_slow_loop(trace):
    algo = PQN(dataclasses.replace(SMALL, q_lambda=trace, gamma=0.9), probes.TruncationOnly())
    rng = np.random.default_rng(0)
    reward, best, other = rng.normal(size=(3, 9, 5)).astype(np.float32)
    end = rng.choice(3, size=(9, 5), p=[0.6, 0.2, 0.2])
    terminated, truncated = end == 1, end == 2
    assert terminated.any()
    assert truncated.any()
    # V of the next row is this row's next value, but where an episode ended: there it is that of another start.
    value = np.concatenate([other[:1], np.where(end > 0, other, best)[:-1]])
    zeros = jnp.zeros((9, 5))
    batch = Batch(
        obs=zeros,
        action=zeros,
        logp=zeros,
        reward=jnp.asarray(reward),
        terminated=jnp.asarray(terminated),
        truncated=jnp.asarray(truncated),
        mask=zeros == 0,
        value=jnp.asarray(value),
        next_value=jnp.asarray(best),
    )
    expected = slow_q_lambda(batch, best, 0.9, trace)
    np.testing.assert_allclose(
        pqn.targets(batch, algo.config).value, expected, rtol=1e-5, atol=1e-5
    )


def test_a_batch_holds_the_values_of_true_successors():
    """At a time limit `next_value` is that of the observation there, not of the next episode's first."""
    algo = PQN(dataclasses.replace(SMALL, num_envs=2), probes.TruncationOnly())

    @jax.jit
    def collect(key):
        state = algo.init(key)
        _, steps, _ = algo.collect(state.actor, state.stream, state.key)
        return state, algo.batch(state, steps)

    state, batch = collect(jax.random.key(0))
    first, later = values(algo, state, 1.0, 0.0)
    t = np.arange(8) % 3  # episodes of three steps
    for n in range(2):
        np.testing.assert_allclose(batch.value[:, n], np.where(t == 0, first, later), rtol=1e-5)
        np.testing.assert_allclose(batch.next_value[:, n], later, rtol=1e-5)
        np.testing.assert_array_equal(batch.truncated[:, n], t == 2)


def network(params, obs):
    """Q in NumPy: one hidden layer, normalised and rectified."""
    x = obs @ params["w"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return np.maximum(x, 0.0) @ params["v"]


def test_an_update_is_epochs_of_minibatch_steps():
    """Against finite differences in NumPy: two epochs of three minibatches of plain gradient steps."""
    rng = np.random.default_rng(1)
    params = {"w": rng.normal(size=(3, 4)), "v": rng.normal(size=(4, 2))}
    obs, action, target = rng.normal(size=(12, 3)), rng.integers(0, 2, 12), rng.normal(size=12)

    def evaluate(params, obs, action):
        x = obs @ params["w"]
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
        q = jax.nn.relu(x) @ params["v"]
        value = jnp.take_along_axis(q, action[..., None], -1)[..., 0]
        return Evaluation(jnp.zeros_like(value), jnp.zeros_like(value), value)

    def loss(params, rows):
        q = network(params, obs[rows])[np.arange(len(rows)), action[rows]]
        return np.mean((q - target[rows]) ** 2) / 2

    row, real = jnp.zeros((1, 12)), jnp.ones((1, 12), bool)
    batch = Batch(
        jnp.asarray(obs, jnp.float32)[None],
        jnp.asarray(action)[None],
        row,
        row,
        ~real,
        ~real,
        real,
        row,
        row,
    )
    new, _, metrics = jax.jit(
        lambda params: update(
            params,
            optax.identity().init(params),
            jax.random.key(7),
            batch,
            Targets(row, jnp.asarray(target, jnp.float32)[None]),
            evaluate=evaluate,
            optimizer=optax.identity(),
            learning_rate=jnp.asarray(0.1),
            config=dataclasses.replace(SMALL, num_envs=3, num_epochs=2, num_minibatches=3),
        )
    )(jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params))

    losses, h = [], 1e-5
    for key in jax.random.split(jax.random.key(7), 2):
        for rows in np.asarray(random_order(key, 12)).reshape(3, 4):
            losses.append(loss(params, rows))
            gradient = {name: np.zeros_like(p) for name, p in params.items()}
            for name, p in params.items():
                for i in np.ndindex(p.shape):
                    up, down = ({**params, name: p + s * h * _unit(p.shape, i)} for s in (1, -1))
                    gradient[name][i] = (loss(up, rows) - loss(down, rows)) / (2 * h)
            params = {name: p - 0.1 * gradient[name] for name, p in params.items()}
    np.testing.assert_allclose(metrics["loss/q"], np.mean(losses), rtol=1e-4)
    for name, p in params.items():
        np.testing.assert_allclose(new[name], p, atol=1e-4)


def _unit(shape, i):
    x = np.zeros(shape)
    x[i] = 1.0
    return x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be at least 1"),
        ({"num_minibatches": 7}, "num_envs x num_steps = 64 does not divide into num_minibatches = 7"),
        ({"q_lambda": 1.5}, "q_lambda must be between 0 and 1"),
        ({"epsilon_end": -0.1}, "epsilon_end must be between 0 and 1"),
        ({"bins": 1}, "bins must be at least 2"),
        ({"bin_span": 0.0}, "bin_span must be above 0 and at most 1"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_spaces_it_cannot_handle_are_refused():
    class Unbounded(probes.ConstantReward):
        action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    with pytest.raises(ValueError, match="PQN needs bounded actions"):
        PQN(SMALL, Unbounded())
