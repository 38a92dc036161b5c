import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.actor_critic import A2C, ActorCriticConfig
from agents.impala import IMPALA, IMPALAConfig
from envs import probes

SMALL = IMPALAConfig(
    total_steps=64 * 400,
    num_envs=8,
    num_steps=8,
    num_minibatches=2,
    learning_rate=0.02,
    gamma=0.5,
    optimizer="adam",
    hidden_sizes=(16,),
    normalize_observations=False,
    normalize_returns=False,
)


@functools.cache
def train(env, config=SMALL, iterations=150):
    algo = IMPALA(config, env)
    run = jax.jit(lambda k: jax.lax.scan(lambda s, _: algo.step(s), algo.init(k), None, iterations))
    return algo, *run(jax.random.key(0))


def values(algo, state, *observations):
    obs = jnp.asarray(observations, jnp.float32)[:, None]
    return np.asarray(algo.policy.value(state.params, obs))


def test_the_policy_finds_the_action_that_pays():
    algo, state, _ = train(probes.RewardIsAction())
    logp = algo.policy.distribution(state.params, jnp.zeros(1)).log_prob(jnp.array(1))
    assert logp > np.log(0.95)


@pytest.mark.slow
def test_values_reach_back_and_past_a_time_limit():
    algo, state, _ = train(probes.TruncationOnly())
    np.testing.assert_allclose(values(algo, state, 1.0, 0.0), [1.0, 2.0], atol=0.15)


def test_a_pipelined_rollout_is_collected_by_the_parameters_before_the_last_update():
    """The first rollout is on-policy: its ratios are 1, but for the move of the update's second gradient step."""
    algo = IMPALA(dataclasses.replace(SMALL, num_minibatches=1), probes.RewardIsAction())
    step, state = jax.jit(algo.step), jax.jit(algo.init)(jax.random.key(0))
    before, ratios = state.params, []
    for _ in range(3):
        now = state.params
        state, metrics = step(state)
        jax.tree.map(np.testing.assert_array_equal, state.behaviour.params, now)
        ratios.append(float(metrics["kl"]))
    assert ratios[0] == 0
    assert ratios[1] > 0
    assert ratios[2] > 0
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True)
    )


def test_without_the_pipeline_every_rollout_is_the_newest_policys():
    config = dataclasses.replace(SMALL, num_minibatches=1, pipelined=False)
    algo = IMPALA(config, probes.RewardIsAction())
    step, state = jax.jit(algo.step), jax.jit(algo.init)(jax.random.key(0))
    assert state.behaviour is None
    for _ in range(3):
        state, metrics = step(state)
        assert metrics["rho"] == 1
        assert metrics["kl"] == 0


def test_without_lag_and_bounds_it_is_a2c():
    """One gradient step on the newest policy's rollout: V-trace's targets are GAE's, and nothing is weighted."""
    both = {"num_envs": 8, "num_steps": 8, "hidden_sizes": (16,), "optimizer": "adam"}
    both |= {"whiten_advantages": True, "total_steps": 64 * 400}
    env = probes.TruncationOnly()
    impala = IMPALA(IMPALAConfig(**both, trace=0.95, pipelined=False, rho_bar=1e6, c_bar=1e6), env)
    a2c = A2C(ActorCriticConfig(**both, estimator="gae", gae_lambda=0.95), env)
    ours, theirs = (jax.jit(algo.init)(jax.random.key(0)) for algo in (impala, a2c))
    ours, theirs = jax.jit(impala.step)(ours)[0], jax.jit(a2c.step)(theirs)[0]
    for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"num_minibatches": 3}, "num_envs = 8 does not divide into num_minibatches = 3"),
        ({"c_bar": 2.0}, "c_bar must be at most rho_bar = 1, got 2"),
        ({"rho_bar": 0.0}, "rho_bar must be positive"),
        ({"trace": 1.5}, "trace must be between 0 and 1"),
    ],
)
def test_impossible_settings_are_one_line(settings, line):
    with pytest.raises(ValueError, match=line):
        dataclasses.replace(SMALL, **settings)
