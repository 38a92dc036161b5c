import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import base
from envs.tabular.table import Tabular, TabularState, from_outcomes

# From 0: action 0 stays, for 1; action 1 goes to 1 (0.25, for 2), comes back to 0 (0.25), or ends there (0.5, for -4).
OUTCOMES = {
    0: {0: [(1.0, 0, 1, False)], 1: [(0.25, 1, 2, False), (0.25, 0, 0, False), (0.5, 0, -4, True)]},
    1: {0: [(1.0, 0, 0, False)], 1: [(0.0, 0, 9, True), (1.0, 1, 3, False)]},
}
TABLE = Tabular(**from_outcomes(OUTCOMES, [0.75, 0.25]), max_episode_steps=5)
SAMPLES = 4000


def test_padding_has_probability_zero():
    np.testing.assert_allclose(np.sum(TABLE.probabilities, -1), 1.0)
    np.testing.assert_array_equal(TABLE.probabilities[0, 0], [1, 0, 0])


def test_dense_tables_by_hand():
    np.testing.assert_allclose(TABLE.P, [[[1, 0], [0.25, 0.25]], [[1, 0], [0, 1]]])
    np.testing.assert_allclose(TABLE.R, [[1, -1.5], [0, 3]])


def test_reward_and_end_belong_to_the_outcome():
    keys = jax.random.split(jax.random.key(0), SAMPLES)
    state = TabularState(jnp.int32(0), jnp.zeros(()), jnp.zeros((), bool))
    following = jax.vmap(TABLE.transition, (None, None, 0))(state, jnp.int32(1), keys)
    reward = jax.vmap(TABLE.reward, (None, None, 0))(state, jnp.int32(1), following)
    seen = np.stack([following.s, reward, jax.vmap(TABLE.terminal)(following)], -1)
    found, counts = np.unique(seen, axis=0, return_counts=True)
    np.testing.assert_array_equal(found, [[0, -4, 1], [0, 0, 0], [1, 2, 0]])
    np.testing.assert_allclose(
        counts / SAMPLES, [0.5, 0.25, 0.25], atol=0.03
    )  # 3.8 standard errors


def test_starts_follow_the_initial_distribution():
    starts = base.start_states(TABLE, jax.random.key(1), SAMPLES)
    np.testing.assert_allclose(np.mean(starts.s), 0.25, atol=0.03)
    assert not np.any(starts.reward)
    assert not np.any(starts.terminal)


def test_improbable_is_rare_and_impossible_never():
    p = jnp.zeros(600).at[::7].set(1.0).at[599].set(0.0)
    p = p / p.sum()
    table = TABLE.replace(initial_distribution=p)
    drawn = np.asarray(jax.vmap(table.initial)(jax.random.split(jax.random.key(2), 20_000)).s)
    assert np.all(np.asarray(p)[drawn] > 0)
    assert len(np.unique(drawn)) == np.count_nonzero(p)


def test_a_table_may_be_swept_under_vmap():
    rewards = jnp.stack([jnp.asarray(TABLE.rewards), 2 * jnp.asarray(TABLE.rewards)])
    tables = jax.tree.map(lambda x: jnp.stack([x, x]), TABLE).replace(rewards=rewards)
    np.testing.assert_allclose(jax.vmap(lambda t: t.R)(tables), [TABLE.R, 2 * TABLE.R], rtol=1e-6)


def test_probabilities_that_do_not_sum_to_one():
    with pytest.raises(ValueError, match="action 1 in state 0"):
        from_outcomes({0: {0: [(1.0, 0, 0, False)], 1: [(0.9, 0, 0, False)]}}, [1.0])
    with pytest.raises(ValueError, match="initial distribution must give 2"):
        from_outcomes(OUTCOMES, [0.5, 0.4])
