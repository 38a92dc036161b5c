"""Windows of episodes, and acting on the episode so far."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents.algorithm import ActsInContext
from agents.offline.decision_transformer import (
    DecisionTransformer,
    DecisionTransformerConfig,
    windows,
)
from tests.agents.offline.small import random_data, stepped

K = 4


@pytest.fixture(scope="module")
def case():
    env = envs.make("Pendulum-v1")
    config = DecisionTransformerConfig(
        context=K, width=8, layers=1, heads=2, batch_size=8, target_factor=1.5
    )
    data = random_data(env)
    algo = DecisionTransformer(config, env)
    return algo, data, stepped(algo, data)[0]


def test_windows_end_at_a_place_and_stay_in_its_episode(case):
    _, data, _ = case
    index = jnp.array([0, 2, 13, 30])
    found = windows(data, index, K, jnp.float32(2.0))
    for row, i in enumerate(np.asarray(index)):
        steps = min(K, int(data.t[i]) + 1)
        assert np.asarray(found.weight[row]).tolist() == [False] * (K - steps) + [True] * steps
        places = np.arange(i - steps + 1, i + 1)
        np.testing.assert_array_equal(found.obs[row, K - steps :], data.obs[places])
        np.testing.assert_array_equal(found.action[row, K - steps :], data.action[places])
        np.testing.assert_allclose(found.reward[row, K - steps :], data.return_to_go[places] / 2)


def test_it_is_asked_for_the_best_return_in_the_data(case):
    algo, data, state = case
    best = max(float(data.return_to_go[i]) for i in np.flatnonzero(data.t == 0))
    assert float(state.target) == pytest.approx(best)
    context = algo.begin_context(state, 3)
    np.testing.assert_allclose(context.to_go[:, -1], 1.5 * best, rtol=1e-6)
    after = algo.after_reward(context, jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(
        after.to_go[:, -1], 1.5 * best - np.array([1.0, 2.0, 3.0]), rtol=1e-5
    )


def test_acting_step_by_step_is_the_model_on_the_window_so_far(case):
    algo, data, state = case
    assert isinstance(algo, ActsInContext)
    act = jax.jit(algo.act_in_context, static_argnums=4)
    model = jax.jit(lambda window: algo.model.module(state.params)(window))
    context = algo.begin_context(state, 1)
    to_go, raws = [float(context.to_go[0, -1])], []
    for t in range(K + 2):
        action, context = act(state, context, data.obs[t][None], jax.random.key(0), True)
        raws.append(np.asarray(context.action[0, -1]))
        np.testing.assert_allclose(action[0], 2 * raws[-1], rtol=1e-5)  # torques up to 2
        first = max(0, t + 1 - K)
        kept = t + 1 - first
        window = context._replace(
            to_go=jnp.zeros((1, K)).at[0, K - kept :].set(jnp.array(to_go[first:])) / state.scale,
            obs=jnp.zeros((1, K, 3))
            .at[0, K - kept :]
            .set(algo.preprocess(state, data.obs[first : t + 1])),
            action=jnp.zeros((1, K, 1))
            .at[0, K - kept :]
            .set(jnp.array([*raws[first:-1], np.zeros(1, np.float32)])),
            known=(jnp.arange(K) >= K - kept)[None],
        )
        out = model(window)[0, -1]
        np.testing.assert_allclose(jnp.tanh(out), raws[-1], rtol=1e-4, atol=1e-6)
        context = algo.after_reward(context, data.reward[t][None])
        to_go.append(to_go[-1] - float(data.reward[t]))


def test_actions_that_come_later_change_nothing(case):
    """An action follows from what was before it: the model is causal."""
    algo, data, state = case
    sample = windows(data, jnp.array([10]), K, state.scale)
    model = algo.model.module(state.params)

    def out(action):
        window = algo.begin_context(state, 1)._replace(
            to_go=sample.reward, obs=sample.obs, action=action, known=sample.weight
        )
        return np.asarray(model(window))

    changed = sample.action.at[0, 2].set(5.0)
    before, after = out(sample.action), out(changed)
    np.testing.assert_allclose(before[0, :3], after[0, :3], atol=1e-6)
    assert not np.allclose(before[0, 3], after[0, 3], atol=1e-6)
