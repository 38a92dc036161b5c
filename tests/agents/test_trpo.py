import dataclasses
import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents.batch import Batch, Targets
from agents.distributions import Categorical, Normal
from agents.trpo import TRPO, TRPOConfig, update
from envs import probes

SMALL = TRPOConfig(
    total_steps=64 * 400,
    num_envs=8,
    num_steps=8,
    value_epochs=4,
    num_minibatches=2,
    learning_rate=0.01,
    gamma=0.5,
    hidden_sizes=(16,),
    normalize_observations=False,
    normalize_returns=False,
)


def train(env, config=SMALL, iterations=150, seed=0):
    algo = TRPO(config, env)
    run = jax.jit(lambda k: jax.lax.scan(lambda s, _: algo.step(s), algo.init(k), None, iterations))
    return algo, *run(jax.random.key(seed))


def values(algo, state, *observations):
    return np.asarray(
        algo.policy.value(state.params, jnp.asarray(observations, jnp.float32)[:, None])
    )


def assert_trust_region_is_kept(metrics, max_kl):
    assert np.all(metrics["kl"] <= max_kl * (1 + 1e-4))
    assert np.all(metrics["improvement"] >= -1e-7)
    taken = np.asarray(metrics["line_search_success"]) == 1.0
    assert np.all(np.asarray(metrics["line_search_fraction"])[taken] > 0)
    for name in ("improvement", "line_search_fraction"):
        np.testing.assert_allclose(np.asarray(metrics[name])[~taken], 0.0, atol=1e-7)
    return taken


class TestProbes:
    """Each finds the known answer, and at no update on the way does the policy leave the trust region or worsen."""

    def test_reward_is_action(self):
        algo, state, metrics = train(probes.RewardIsAction())
        assert algo.policy.distribution(state.params, jnp.zeros(1)).log_prob(jnp.array(1)) > np.log(
            0.97
        )
        np.testing.assert_allclose(values(algo, state, 0.0), [1.0], atol=0.05)
        taken = assert_trust_region_is_kept(metrics, SMALL.max_kl)
        # The policy ends all but deterministic, with a batch of equal rewards and nothing left to improve.
        assert taken[:10].all()
        assert not taken[-1]

    def test_the_trust_region_can_shrink(self):
        changes = {
            "max_kl_schedule": "linear",
            "total_steps": 20 * SMALL.num_envs * SMALL.num_steps,
        }
        config = dataclasses.replace(SMALL, **changes)
        algo = TRPO(config, probes.RewardIsAction())
        run = jax.jit(lambda k: jax.lax.scan(lambda s, _: algo.step(s), algo.init(k), None, 20))
        _, metrics = run(jax.random.key(0))
        expected = SMALL.max_kl * (1 - np.arange(20) / 20)
        np.testing.assert_allclose(metrics["max_kl"], expected, rtol=1e-5)
        assert_trust_region_is_kept(metrics, expected)

    @pytest.mark.slow
    def test_continuous_action(self):
        algo, state, metrics = train(probes.RewardIsAction(continuous=True), iterations=60)
        action = algo.act(state, jnp.zeros((3, 1)), jax.random.key(0), True)
        np.testing.assert_allclose(action, 0.5, atol=0.1)
        assert jnp.exp(algo.policy.distribution(state.params, jnp.zeros(1)).log_std[0]) < 0.5
        assert assert_trust_region_is_kept(metrics, SMALL.max_kl).mean() > 0.95

    @pytest.mark.slow
    def test_delayed_reward(self):
        algo, state, _ = train(probes.DelayedReward())
        np.testing.assert_allclose(values(algo, state, 0.0, 1.0), [0.5, 1.0], atol=0.05)


OBSERVATIONS, HIDDEN, ACTIONS = 3, 2, 2


def categorical(params, obs):
    actor = params["actor"]
    return Categorical(jnp.tanh(obs @ actor["hidden"]) @ actor["out"])


def normal(params, obs):
    actor = params["actor"]
    return Normal(jnp.tanh(obs @ actor["hidden"]) @ actor["out"], actor["log_std"])


def value(params, obs):
    return obs @ params["critic"]


def problem(policy, seed=0, columns=24):
    """A tiny network and a batch of its own samples."""
    keys = jax.random.split(jax.random.key(seed), 6)
    actor = {
        "hidden": jax.random.normal(keys[0], (OBSERVATIONS, HIDDEN)),
        "out": jax.random.normal(keys[1], (HIDDEN, ACTIONS)),
    }
    if policy is normal:
        actor["log_std"] = jnp.array([-0.3, 0.2])
    params = {"actor": actor, "critic": jax.random.normal(keys[2], (OBSERVATIONS,))}
    obs = jax.random.normal(keys[3], (1, columns, OBSERVATIONS))
    action = policy(params, obs).sample(keys[4])
    v, flags = value(params, obs), jnp.zeros((1, columns), bool)
    logp = policy(params, obs).log_prob(action)
    batch = Batch(obs, action, logp, v, flags, flags, ~flags, v, v)
    return params, batch, Targets(*jax.random.normal(keys[5], (2, 1, columns)))


EXACT = dataclasses.replace(
    SMALL, cg_iterations=30, damping=0.01, value_epochs=1, num_minibatches=1
)


@functools.partial(jax.jit, static_argnames=("policy", "config"))
def run_update(policy, params, batch, targets, config=EXACT, key=None):
    optimizer = optax.identity()
    return update(
        params,
        optimizer.init(params["critic"]),
        jax.random.key(7) if key is None else key,
        batch,
        targets,
        distribution=policy,
        value=value,
        optimizer=optimizer,
        learning_rate=jnp.asarray(0.1),
        max_kl=jnp.asarray(config.max_kl),
        config=config,
    )


def whitened(targets):
    advantage = np.asarray(targets.advantage[0], float)
    return (advantage - advantage.mean()) / np.sqrt(advantage.var(ddof=1) + 1e-8)


@functools.partial(jax.jit, static_argnames="policy")
def gradient_and_fisher(policy, params, obs, action, advantage):
    """Of the surrogate, and E_s E_a[score score^T] as a dense matrix."""
    vector, unravel = jax.flatten_util.ravel_pytree(params["actor"])
    n = obs.shape[1]

    def dist(vector):
        return policy({"actor": unravel(vector)}, obs)

    def score(action):
        return jax.jacobian(lambda v: dist(v).log_prob(action)[0])(vector)

    gradient = advantage @ score(action) / n
    if policy is categorical:
        scores = jnp.stack([score(jnp.full_like(action, a)) for a in range(ACTIONS)])
        pi = jax.nn.softmax(dist(vector).logits)[0].T
        return gradient, jnp.einsum("an,ani,anj->ij", pi, scores, scores) / n
    # For a Gaussian: J^T J / std^2 of the mean, and 2 for each log standard deviation.
    mean = jax.jacobian(lambda v: dist(v).mean[0] * jnp.exp(-params["actor"]["log_std"]))(vector)
    log_std = jax.jacobian(lambda v: unravel(v)["log_std"])(vector)
    return gradient, jnp.einsum("nai,naj->ij", mean, mean) / n + 2 * log_std.T @ log_std


def explicit_step(policy, params, batch, targets, config, bonus=0.0):
    """The full natural step, solved in float64; and the gradient, to which `bonus` is added."""
    gradient, fisher = gradient_and_fisher(
        policy, params, batch.obs, batch.action, whitened(targets)
    )
    gradient, fisher = np.asarray(gradient, float) + bonus, np.asarray(fisher, float)
    fisher += config.damping * np.eye(len(fisher))
    direction = np.linalg.solve(fisher, gradient)
    scale = np.sqrt(2 * config.max_kl / (direction @ fisher @ direction))
    return scale * direction, gradient


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0], float)


class TestUpdate:
    @pytest.mark.parametrize("policy", [categorical, normal])
    def test_step_is_the_natural_gradient_of_a_dense_fisher_matrix(self, policy):
        params, batch, targets = problem(policy)
        new, _, metrics = run_update(policy, params, batch, targets)
        step, gradient = explicit_step(policy, params, batch, targets, EXACT)
        fraction = metrics["line_search_fraction"]
        assert metrics["line_search_success"] == 1.0
        taken = flat(new["actor"]) - flat(params["actor"])
        np.testing.assert_allclose(taken, fraction * step, atol=1e-4)
        np.testing.assert_allclose(metrics["expected_improvement"], gradient @ step, rtol=1e-3)
        np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-4)

    @pytest.mark.parametrize("policy", [categorical, normal])
    def test_metrics_are_those_of_the_new_policy(self, policy):
        params, batch, targets = problem(policy, seed=1)
        new, _, metrics = run_update(policy, params, batch, targets)
        before, after = policy(params, batch.obs), policy(new, batch.obs)
        np.testing.assert_allclose(metrics["kl"], jnp.mean(before.kl(after)), rtol=1e-4)
        assert 0 < metrics["kl"] <= EXACT.max_kl
        ratio = np.exp(after.log_prob(batch.action) - batch.logp)[0]
        surrogate = np.mean(ratio * whitened(targets))
        np.testing.assert_allclose(metrics["improvement"], surrogate, atol=1e-5)
        assert surrogate > 0

    def test_the_entropy_bonus_is_part_of_the_surrogate(self):
        # For a Gaussian the gradient of the entropy is 1 for each log standard deviation, and 0 elsewhere.
        coefficient = 0.3
        config = dataclasses.replace(EXACT, entropy_coefficient=coefficient)
        params, batch, targets = problem(normal)
        entropy = {**params["actor"], "log_std": params["actor"]["log_std"] + coefficient}
        bonus = flat(entropy) - flat(params["actor"])
        step, gradient = explicit_step(normal, params, batch, targets, EXACT, bonus)
        new, _, metrics = run_update(normal, params, batch, targets, config)
        taken = flat(new["actor"]) - flat(params["actor"])
        np.testing.assert_allclose(taken, metrics["line_search_fraction"] * step, atol=1e-4)
        np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-4)
        before, after = (jnp.mean(normal(p, batch.obs).entropy()) for p in (params, new))
        np.testing.assert_allclose(metrics["entropy"], before, rtol=1e-5)
        assert after > before

    def test_critic_takes_the_gradient_of_the_squared_error_and_leaves_the_actor_alone(self):
        params, batch, targets = problem(categorical)
        new, _, metrics = run_update(categorical, params, batch, targets)
        obs, target = np.asarray(batch.obs[0], float), np.asarray(targets.value[0], float)
        error = obs @ np.asarray(params["critic"], float) - target
        np.testing.assert_allclose(
            new["critic"], params["critic"] - 0.1 * error @ obs / len(obs), atol=1e-5
        )
        np.testing.assert_allclose(metrics["loss/value"], 0.5 * np.mean(error**2), rtol=1e-5)
        other = targets._replace(value=targets.value + 1.0)
        again, _, _ = run_update(categorical, params, batch, other)
        np.testing.assert_array_equal(flat(new["actor"]), flat(again["actor"]))

    def test_nothing_accepted_leaves_the_policy_as_it_was(self):
        # A region in which the KL is far from quadratic, and one trial: the full step leaves it.
        config = dataclasses.replace(EXACT, max_kl=0.5, damping=1e-3, line_search_trials=1)
        params, batch, targets = problem(normal)
        new, _, metrics = run_update(normal, params, batch, targets, config)
        assert metrics["line_search_success"] == 0.0
        assert metrics["line_search_fraction"] == 0.0
        np.testing.assert_array_equal(flat(new["actor"]), flat(params["actor"]))
        assert not np.array_equal(new["critic"], params["critic"])

    @pytest.mark.parametrize("advantage", [3.0, np.nan])
    def test_no_direction_leaves_the_policy_as_it_was(self, advantage):
        params, batch, targets = problem(categorical)
        targets = targets._replace(advantage=jnp.full_like(targets.advantage, advantage))
        new, _, metrics = run_update(categorical, params, batch, targets)
        assert metrics["line_search_success"] == 0.0
        np.testing.assert_array_equal(flat(new["actor"]), flat(params["actor"]))

    @pytest.mark.parametrize("policy", [categorical, normal])
    def test_masked_columns_change_nothing(self, policy):
        params, batch, targets = problem(policy)
        padded, padded_targets = jax.tree.map(
            lambda x: jnp.concatenate([x, 5 * x], axis=1), (batch, targets)
        )
        padded = padded._replace(mask=jnp.arange(48)[None] < 24)
        expected, _, _ = run_update(policy, params, batch, targets)
        got, _, _ = run_update(policy, params, padded, padded_targets)
        np.testing.assert_allclose(flat(got), flat(expected), atol=1e-4)

    def test_a_share_of_the_steps_gives_the_curvature_and_all_of_them_the_bound(self):
        config = dataclasses.replace(EXACT, fisher_fraction=0.25)
        params, batch, targets = problem(normal, columns=240)
        whole, _, _ = run_update(normal, params, batch, targets)
        kls, steps = [], []
        for seed in range(3):
            key = jax.random.key(seed)
            new, _, metrics = run_update(normal, params, batch, targets, config, key)
            kls.append(jnp.mean(normal(params, batch.obs).kl(normal(new, batch.obs))))
            np.testing.assert_allclose(kls[-1], metrics["kl"], rtol=1e-4)
            steps.append(flat(new["actor"]) - flat(params["actor"]))
        assert max(kls) <= config.max_kl
        reference = flat(whole["actor"]) - flat(params["actor"])
        for step in steps:  # near the step from all data, but not the same
            cosine = step @ reference / np.linalg.norm(step) / np.linalg.norm(reference)
            assert 0.8 < cosine < 0.99999
        assert not np.allclose(steps[0], steps[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_kl": 0.0}, "max_kl must be positive"),
        ({"entropy_coefficient": -0.1}, "entropy_coefficient must not be negative"),
        ({"damping": -0.1}, "damping must not be negative"),
        ({"fisher_fraction": 0.0}, "fisher_fraction must be positive"),
        ({"fisher_fraction": 1.5}, "fisher_fraction must be between 0 and 1"),
        ({"cg_iterations": 0}, "cg_iterations must be at least 1"),
        ({"line_search_trials": 0}, "line_search_trials must be at least 1"),
        ({"line_search_shrink": 1.0}, "line_search_shrink must lie between 0 and 1"),
        ({"num_minibatches": 7}, "does not divide into num_minibatches = 7"),
        ({"gae_lambda": 2.0}, "gae_lambda must be between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)
