"""Modern critics: each option against a loop, the frozen formula, or the option's own promise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import envs
from agents import critics, normalized_networks, replay
from agents.core import categorical_values
from agents.crossq import XQC, CrossQ, CrossQConfig, XQCConfig
from agents.normalized_networks import MOMENTUM, BatchNorm
from agents.sac import SAC, SACConfig
from agents.td3 import TD3, TD3Config

SMALL = {
    "total_steps": 512,
    "num_envs": 2,
    "warmup_steps": 32,
    "buffer_size": 256,
    "batch_size": 8,
    "update_ratio": 0.25,
    "num_steps": 4,
    "hidden_sizes": (8,),
}


def test_renormalisation_by_hand():
    rng = np.random.default_rng(0)
    norm = BatchNorm(3, renorm=True, warmup=1)
    scale, bias = rng.normal(size=3), rng.normal(size=3)
    norm.scale[...], norm.bias[...] = jnp.asarray(scale), jnp.asarray(bias)
    mean, variance = np.zeros(3), np.ones(3)
    for step in range(4):
        # The second feature's deviation is far from the running one, the third's mean: both are clipped.
        x = rng.normal([0.1, 0.0, 40.0], [1.0, 9.0, 1.0], (5, 3))
        own_mean, own_variance = x.mean(0), x.var(0)
        s, sigma = np.sqrt(own_variance + 1e-3), np.sqrt(variance + 1e-3)
        r, d = np.clip(s / sigma, 1 / 3, 3), np.clip((own_mean - mean) / sigma, -5, 5)
        r, d = (r, d) if step >= 1 else (1.0, 0.0)
        wanted = ((x - own_mean) / s * r + d) * scale + bias
        np.testing.assert_allclose(
            norm(jnp.asarray(x), training=True), wanted, rtol=2e-4, atol=2e-4
        )
        mean = MOMENTUM * mean + (1 - MOMENTUM) * own_mean
        variance = MOMENTUM * variance + (1 - MOMENTUM) * own_variance
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)
    np.testing.assert_allclose(norm.variance[...], variance, rtol=1e-5)
    x = rng.normal(size=(5, 3))
    wanted = (x - mean) / np.sqrt(variance + 1e-3) * scale + bias
    np.testing.assert_allclose(norm(jnp.asarray(x)), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)  # looking changes nothing


def test_no_gradient_reaches_statistics_nor_flows_through_the_clipped_factors():
    norm = BatchNorm(1, renorm=True, warmup=0)
    graph, params = nnx.split(norm, nnx.Param)
    x = jnp.array([[0.0], [1.0], [3.0]])

    def total(params, x):
        return jnp.sum(
            nnx.merge(graph, params)(x, training=True) * jnp.array([[1.0], [2.0], [0.0]])
        )

    grads, of_x = jax.grad(total, argnums=(0, 1))(params, x)
    assert all(np.all(grads[name][...] == 0) for name in ("mean", "variance", "batches"))
    # With r and d constant, the gradient is that of batch normalisation times r: shifting all of x changes nothing.
    np.testing.assert_allclose(np.sum(of_x), 0.0, atol=1e-5)


def test_projection_by_the_formula():
    rng = np.random.default_rng(1)
    atoms = np.linspace(-2.0, 2.0, 5)
    values, p = rng.normal(scale=2.0, size=(6, 5)), rng.dirichlet(np.ones(5), 6)
    values[0, :3] = [-1.0, 2.0, 7.0]  # on an atom, on the last one, beyond it
    wanted = np.zeros((6, 5))
    for b in range(6):
        for i in range(5):
            near = 1 - np.abs(np.clip(values[b], -2, 2) - atoms[i])  # spacing 1
            wanted[b, i] = np.sum(np.clip(near, 0, 1) * p[b])
    found = categorical_values.project(*map(jnp.asarray, (values, p, atoms)))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-6)


def test_categorical_target_keeps_the_mean_and_ends_with_the_episode():
    atoms = categorical_values.support(5.0, 101)
    p = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 3, 101)))
    lowest = categorical_values.lowest_mean(p, atoms)
    means = p @ atoms
    np.testing.assert_allclose(lowest @ atoms, means.min(0), rtol=1e-5)
    reward, ended = jnp.array([0.5, -1.0, 0.25]), jnp.array([False, False, True])
    bonus = jnp.array([0.1, -0.2, 9.0])
    target = categorical_values.td_target(
        reward, lowest, ended, jnp.array([0.9, 0.8, 0.9]), atoms, bonus
    )
    wanted = [0.5 + 0.9 * (means.min(0)[0] - 0.1), -1.0 + 0.8 * (means.min(0)[1] + 0.2), 0.25]
    np.testing.assert_allclose(target @ atoms, wanted, atol=1e-5)
    logits = jnp.log(target + 1e-9)
    entropy = -jnp.sum(target * jnp.log(target + 1e-9), axis=1)
    np.testing.assert_allclose(categorical_values.cross_entropy(logits, target), entropy, atol=1e-4)
    with pytest.raises(ValueError, match="at least 2"):
        categorical_values.support(5.0, 1)


def sample(key, size=8):
    keys = jax.random.split(key, 4)
    return replay.Sample(
        obs=jax.random.normal(keys[0], (size, 3)),
        action=jax.random.uniform(keys[1], (size, 1)),
        reward=jax.random.normal(keys[2], (size,)),
        discount=jnp.full(size, 0.9),
        terminated=jnp.arange(size) == 2,
        next_obs=jax.random.normal(keys[3], (size, 3)),
        index=jnp.zeros(size, jnp.int32),
        weight=jnp.ones(size),
    )


def test_without_target_networks_both_states_pass_at_once():
    config = CrossQConfig(**SMALL)
    critic = critics.network(3, 1, config)
    params, targets = critics.first(critic, jax.random.key(0), 2, config)
    assert targets is None
    batch, next_action = sample(jax.random.key(1)), jnp.full((8, 1), 0.3)
    loss, (q, target, seen) = critics.loss(
        params,
        targets=None,
        sample=batch,
        next_action=next_action,
        bonus=0.25,
        critic=critic,
        config=config,
    )
    member = [critic.module(jax.tree.map(lambda x, i=i: x[i], params)) for i in range(2)]
    obs = jnp.concatenate([batch.obs, batch.next_obs])
    actions = jnp.concatenate([batch.action, next_action])
    both = np.stack([m.outputs(obs, actions, training=True)[:, 0] for m in member])
    next_value = np.where(batch.terminated, 0.0, both[:, 8:].min(0) - 0.25)
    wanted = batch.reward + 0.9 * next_value
    np.testing.assert_allclose(q, both[:, :8], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(target, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        loss, np.mean(np.sum((both[:, :8] - wanted) ** 2 / 2, axis=0)), rtol=1e-5
    )
    new = critics.finish(params, seen, config)
    entrance = jnp.concatenate([obs, actions], axis=1)
    np.testing.assert_allclose(
        new["body"]["entrance"]["mean"][...][0], 0.01 * entrance.mean(0), rtol=1e-4, atol=1e-7
    )
    kernel = ("body", "kernels", 0)
    for path in (kernel,):
        a, b = new, params
        for name in path:
            a, b = a[name], b[name]
        np.testing.assert_array_equal(a[...], b[...])  # learnt leaves are the step's


@pytest.mark.parametrize(
    ("learner", "config"),
    [
        (XQC, XQCConfig(**SMALL)),
        (TD3, TD3Config(**SMALL, target_networks=False, critic_norm="layer", num_atoms=11)),
    ],
)
@pytest.mark.slow
def test_sets_of_options_learn(learner, config):
    algo = learner(config, envs.make("Pendulum-v1"))
    state = jax.jit(algo.init)(jax.random.key(0))
    new, metrics = jax.jit(algo.step)(state)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((algo.learned(new), metrics)))
    changed = jax.tree.map(lambda a, b: np.any(a != b), new.params.critics, state.params.critics)
    assert np.all(jax.tree.leaves(changed))
    if config.weight_norm:
        lengths = [
            np.linalg.norm(leaf[...], axis=-2)
            for leaf in jax.tree.leaves(
                new.params.critics, is_leaf=lambda x: isinstance(x, normalized_networks.UnitColumns)
            )
            if isinstance(leaf, normalized_networks.UnitColumns)
        ]
        assert lengths
        np.testing.assert_allclose(np.concatenate([x.ravel() for x in lengths]), 1.0, rtol=1e-5)
    if config.normalize_returns:
        assert new.return_statistics.count == state.return_statistics.count + algo.iteration_steps
    else:
        assert new.return_statistics is None
    if not config.target_networks:
        assert new.params.target_critics is None


def test_crossq_is_sac_with_other_defaults():
    changed = {
        field.name: field.default
        for field in dataclasses.fields(CrossQConfig)
        if field.default != getattr(SACConfig(), field.name)
    }
    assert issubclass(CrossQ, SAC)
    assert CrossQ.step is SAC.step
    assert changed == {
        "learning_rate": 1e-3,
        "adam_b1": 0.5,
        "policy_delay": 3,
        "target_networks": False,
        "critic_norm": "batch-renorm",
        "actor_norm": "batch-renorm",
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_atoms": 1}, "num_atoms must be at least 2, got 1"),
        ({"value_bound": 0.0}, "value_bound must be positive"),
        ({"adam_b1": 1.0}, "adam_b1 must be at least 0 and below 1, got 1.0"),
        ({"policy_delay": 0}, "policy_delay must be at least 1"),
        ({"critic_hidden_sizes": (0,)}, "hidden_sizes"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings, words):
    with pytest.raises(ValueError, match=words):
        SACConfig(**settings)


def test_td3s_actor_has_no_norm():
    with pytest.raises(ValueError, match="actor_norm is SAC's"):
        TD3Config(actor_norm="layer")
