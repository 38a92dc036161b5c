import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
from agents.batch import Batch, Evaluation, Targets
from agents.distributions import Normal
from agents.ppo import PPO, PPOConfig, update_and_adapt
from envs import probes

SMALL = PPOConfig(
    total_steps=64 * 400,
    num_envs=8,
    num_steps=8,
    num_epochs=4,
    num_minibatches=2,
    learning_rate=0.01,
    gamma=0.5,
    hidden_sizes=(16,),
    normalize_observations=False,
    normalize_returns=False,
)


def train(env, config=SMALL, iterations=150, seed=0):
    algo = PPO(config, env)
    run = jax.jit(lambda k: jax.lax.scan(lambda s, _: algo.step(s), algo.init(k), None, iterations))
    return algo, *run(jax.random.key(seed))


def values(algo, state, *observations):
    obs = jnp.asarray(observations, jnp.float32)[:, None]
    return np.asarray(algo.policy.evaluate(state.params, obs, jnp.zeros(len(obs), jnp.int32)).value)


class TestProbes:
    """Each finds the known answer. What a failure would point at stands in envs/probes.py."""

    @pytest.mark.slow
    def test_constant_reward(self):
        algo, state, _ = train(probes.ConstantReward())
        np.testing.assert_allclose(values(algo, state, 0.0), [1.0], atol=0.02)

    @pytest.mark.parametrize("objective", ["clip", pytest.param("kl", marks=pytest.mark.slow)])
    def test_reward_is_action(self, objective):
        config = dataclasses.replace(SMALL, objective=objective)
        algo, state, _ = train(probes.RewardIsAction(), config)
        assert algo.policy.distribution(state.params, jnp.zeros(1)).log_prob(jnp.array(1)) > np.log(
            0.97
        )
        np.testing.assert_allclose(values(algo, state, 0.0), [1.0], atol=0.1)

    @pytest.mark.parametrize("objective", ["clip", pytest.param("kl", marks=pytest.mark.slow)])
    def test_continuous_action(self, objective):
        config = dataclasses.replace(SMALL, objective=objective)
        algo, state, _ = train(probes.RewardIsAction(continuous=True), config, iterations=400)
        np.testing.assert_allclose(
            algo.act(state, jnp.zeros((3, 1)), jax.random.key(0), True), 0.5, atol=0.1
        )
        assert jnp.exp(algo.policy.distribution(state.params, jnp.zeros(1)).log_std[0]) < 0.5

    @pytest.mark.slow
    def test_reward_is_observation(self):
        algo, state, _ = train(probes.RewardIsObservation())
        np.testing.assert_allclose(values(algo, state, -1.0, 1.0), [-1.0, 1.0], atol=0.05)

    def test_delayed_reward(self):
        algo, state, _ = train(probes.DelayedReward())
        np.testing.assert_allclose(values(algo, state, 0.0, 1.0), [0.5, 1.0], atol=0.05)

    def test_truncation_bootstraps_from_the_true_final_observation(self):
        # g = 0.5: V(start) = g / (1 - g) = 1, V(later) = 1 / (1 - g) = 2. Taking the limit for an end would give
        # less than 1.5 on average; bootstrapping from the next start, less than 2.
        algo, state, _ = train(probes.TruncationOnly())
        np.testing.assert_allclose(values(algo, state, 1.0, 0.0), [1.0, 2.0], atol=0.05)

    def test_return_normalisation_rescales_values_alone(self):
        config = dataclasses.replace(SMALL, normalize_returns=True)
        algo, state, _ = train(probes.DelayedReward(), config)
        scale = np.asarray(jnp.sqrt(state.return_statistics.var))
        np.testing.assert_allclose(values(algo, state, 0.0, 1.0) * scale, [0.5, 1.0], atol=0.05)


def batch_and_network(key, columns=24):
    """A linear Gaussian policy with unit variance and a linear value; the batch comes from it."""
    keys = jax.random.split(key, 6)
    params = {
        "policy": jax.random.normal(keys[0], (3, 2)),
        "value": jax.random.normal(keys[1], (3,)),
    }
    obs = jax.random.normal(keys[2], (1, columns, 3))

    def evaluate(params, obs, action):
        mean = obs @ params["policy"]
        logp = -0.5 * jnp.sum((action - mean) ** 2, -1) - jnp.log(2 * jnp.pi)
        return Evaluation(logp, jnp.full(logp.shape, 2.0), obs @ params["value"])

    action = obs @ params["policy"] + jax.random.normal(keys[3], (1, columns, 2))
    now = evaluate(params, obs, action)
    flags = jnp.zeros((1, columns), bool)
    batch = Batch(obs, action, now.logp, now.value, flags, flags, ~flags, now.value, now.value)
    targets = Targets(*jax.random.normal(keys[4], (2, 1, columns)))
    return params, batch, targets, evaluate


def run_update(config, params, batch, targets, evaluate, key=None, **kwargs):
    optimizer = kwargs.pop("optimizer", optax.identity())
    arguments = dict(
        evaluate=evaluate,
        optimizer=optimizer,
        learning_rate=jnp.asarray(kwargs.pop("learning_rate", 0.1)),
        kl_coefficient=jnp.asarray(1.0),
        entropy_coefficient=config.entropy_coefficient,
        config=config,
        **kwargs,
    )
    key = jax.random.key(7) if key is None else key
    new, opt_state, _, metrics = update_and_adapt(
        params, optimizer.init(params), key, batch, targets, **arguments
    )
    return new, opt_state, metrics


ONE_STEP = dataclasses.replace(SMALL, num_epochs=1, num_minibatches=1)


class TestUpdate:
    def test_one_step_is_the_policy_gradient_by_hand(self):
        params, batch, targets, evaluate = batch_and_network(jax.random.key(0))
        new, _, metrics = run_update(ONE_STEP, params, batch, targets, evaluate)
        # At ratio 1 the surrogate's gradient is E[A grad log pi]; A whitened with ddof 1.
        obs, action = np.asarray(batch.obs[0], float), np.asarray(batch.action[0], float)
        advantage = np.asarray(targets.advantage[0], float)
        advantage = (advantage - advantage.mean()) / np.sqrt(advantage.var(ddof=1) + 1e-8)
        score = action - obs @ np.asarray(params["policy"], float)
        gradient = -np.einsum("n,ni,nj->ij", advantage, obs, score) / len(obs)
        np.testing.assert_allclose(new["policy"], params["policy"] - 0.1 * gradient, atol=1e-5)
        error = obs @ np.asarray(params["value"], float) - np.asarray(targets.value[0], float)
        gradient = 0.5 * error @ obs / len(obs)
        np.testing.assert_allclose(new["value"], params["value"] - 0.1 * gradient, atol=1e-5)
        np.testing.assert_allclose(metrics["loss/value"], 0.5 * np.mean(error**2), rtol=1e-5)
        np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-12)
        assert metrics["clip_fraction"] == 0.0

    def test_matches_an_independent_loop(self):
        """Two epochs of four minibatches against plain NumPy, clipping and value clipping active."""
        config = dataclasses.replace(
            SMALL, num_epochs=2, num_minibatches=4, clip_value=0.1, whiten_advantages=False
        )
        params, batch, targets, evaluate = batch_and_network(jax.random.key(1))
        new, _, _ = run_update(config, params, batch, targets, evaluate, learning_rate=0.5)

        from agents.batch import random_order

        w, v = (np.asarray(params[k], float) for k in ("policy", "value"))
        obs, action = np.asarray(batch.obs[0], float), np.asarray(batch.action[0], float)
        old_logp, old_value = np.asarray(batch.logp[0], float), np.asarray(batch.value[0], float)
        advantage, target = (np.asarray(x[0], float) for x in targets)
        for key in jax.random.split(jax.random.key(7), 2):
            for rows in np.asarray(random_order(key, 24)).reshape(4, 6):
                w_gradient, v_gradient = np.zeros_like(w), np.zeros_like(v)
                for n in rows:
                    score = action[n] - obs[n] @ w
                    logp = -0.5 * score @ score - np.log(2 * np.pi)
                    ratio = np.exp(logp - old_logp[n])
                    pushes_out = ratio > 1.2 if advantage[n] > 0 else ratio < 0.8
                    if not pushes_out:
                        w_gradient -= ratio * advantage[n] * np.outer(obs[n], score) / 6
                    value = obs[n] @ v
                    error = value - target[n]
                    clipped = old_value[n] + np.clip(value - old_value[n], -0.1, 0.1) - target[n]
                    inside = abs(value - old_value[n]) < 0.1
                    slope = error if error**2 >= clipped**2 else clipped * inside
                    v_gradient += 0.5 * slope * obs[n] / 6
                w, v = w - 0.5 * w_gradient, v - 0.5 * v_gradient
        np.testing.assert_allclose(new["policy"], w, atol=2e-4)
        np.testing.assert_allclose(new["value"], v, atol=2e-4)

    def test_masked_columns_change_nothing(self):
        params, batch, targets, evaluate = batch_and_network(jax.random.key(2))
        padded = jax.tree.map(lambda x: jnp.concatenate([x, x], axis=1), (batch, targets))
        hide = padded[0]._replace(mask=padded[0].mask.at[:, 24:].set(False))
        expected, _, _ = run_update(ONE_STEP, params, batch, targets, evaluate)
        got, _, _ = run_update(ONE_STEP, params, hide, padded[1], evaluate)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, expected)

    def test_order_of_columns_does_not_matter_in_a_full_batch(self):
        params, batch, targets, evaluate = batch_and_network(jax.random.key(3))
        flipped = jax.tree.map(lambda x: x[:, ::-1], (batch, targets))
        expected, _, _ = run_update(ONE_STEP, params, batch, targets, evaluate)
        got, _, _ = run_update(ONE_STEP, params, *flipped, evaluate)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, expected)

    @pytest.mark.parametrize("objective", ["clip", "kl"])
    def test_micro_batches_do_not_show(self, objective):
        params, batch, targets, evaluate = batch_and_network(jax.random.key(4))
        # Uneven numbers of steps in the parts, for means of means would be wrong.
        batch = batch._replace(mask=batch.mask & (jnp.arange(24) % 5 != 0) & (jnp.arange(24) > 5))
        whole = dataclasses.replace(ONE_STEP, objective=objective, num_minibatches=2)
        parts = dataclasses.replace(whole, micro_batches=4)
        expected, _, told = run_update(whole, params, batch, targets, evaluate)
        got, _, metrics = run_update(parts, params, batch, targets, evaluate)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), got, expected)
        for name in told:
            np.testing.assert_allclose(metrics[name], told[name], rtol=1e-4, atol=1e-5)

    def test_stop_kl_skips_what_remains(self):
        # The first epoch moves far beyond the bound, so it is the last one that counts.
        config = dataclasses.replace(SMALL, num_epochs=10, num_minibatches=1, stop_kl=1e-6)
        params, batch, targets, evaluate = batch_and_network(jax.random.key(4))
        stopped, _, _ = run_update(config, params, batch, targets, evaluate)
        once, _, _ = run_update(ONE_STEP, params, batch, targets, evaluate)
        # With one minibatch the order of the columns does not matter. The KL is measured on the way into a step, so
        # an epoch of one step measures 0, and a second one is taken before the flag is up.
        twice = dataclasses.replace(ONE_STEP, num_epochs=2)
        twice, _, _ = run_update(twice, params, batch, targets, evaluate)
        np.testing.assert_allclose(stopped["policy"], twice["policy"], atol=1e-6)
        assert np.abs(stopped["policy"] - once["policy"]).max() > 1e-3

    def test_kl_objective_without_a_distribution_estimates_from_samples(self):
        config = dataclasses.replace(SMALL, objective="kl", num_epochs=3)
        params, batch, targets, evaluate = batch_and_network(jax.random.key(6))
        penalised, _, _ = run_update(config, params, batch, targets, evaluate)
        free = dataclasses.replace(config, objective="clip", clip_ratio=100.0)
        unpenalised, _, _ = run_update(free, params, batch, targets, evaluate)
        distance = [
            float(jnp.linalg.norm(x["policy"] - params["policy"])) for x in (penalised, unpenalised)
        ]
        assert distance[0] < distance[1]

    @pytest.mark.parametrize("exact", [True, False])
    @pytest.mark.parametrize(("epochs", "parts"), [(1, 1), (3, 4)])
    def test_kl_objective_reports_the_kl_of_the_final_policy(self, exact, epochs, parts):
        """Over the whole batch, also where there was one gradient step, before which the KL is 0."""
        params, batch, targets, evaluate = batch_and_network(jax.random.key(6))
        batch = batch._replace(mask=batch.mask & (jnp.arange(24) % 5 != 0))
        config = dataclasses.replace(
            SMALL, objective="kl", num_epochs=epochs, num_minibatches=parts
        )

        def distribution(params, obs):
            return Normal(obs @ params["policy"], jnp.zeros(2))

        given = {"distribution": distribution} if exact else {}
        new, _, metrics = run_update(config, params, batch, targets, evaluate, **given)
        if exact:
            shift = batch.obs @ (new["policy"] - params["policy"])
            each = 0.5 * np.square(shift).sum(-1)  # of two Gaussians with variance 1
        else:
            log_ratio = np.asarray(evaluate(new, batch.obs, batch.action).logp - batch.logp, float)
            each = np.exp(log_ratio) - 1 - log_ratio
        assert metrics["kl"] == pytest.approx(np.mean(each[batch.mask]), rel=1e-4)
        assert metrics["kl"] > 1e-4


class TestState:
    def test_first_ratio_is_one_in_every_iteration(self):
        """Statistics stay frozen through rollout and update, so re-evaluation finds the log-probs of the rollout."""
        config = dataclasses.replace(SMALL, normalize_observations=True, normalize_returns=True)
        algo, state, _ = train(probes.RewardIsObservation(), config, iterations=3)

        @jax.jit
        def look(state):
            _, steps, _ = algo.collect(state.actor, state.stream, state.key)
            batch = algo.batch(state, steps)
            return batch, algo.policy.evaluate(state.params, batch.obs, batch.action)

        batch, again = look(state)
        np.testing.assert_allclose(again.logp, batch.logp, atol=1e-6)

    def test_statistics_hold_the_raw_observations(self):
        _, state, _ = train(probes.RewardIsObservation(), iterations=5)
        assert int(state.obs_statistics.count) == 5 * 64
        np.testing.assert_allclose(state.obs_statistics.mean, 0.0, atol=0.3)
        np.testing.assert_allclose(state.obs_statistics.var, 1.0, atol=0.1)

    def test_learning_rate_falls_to_zero(self):
        config = dataclasses.replace(SMALL, total_steps=64 * 4)
        _, state, metrics = train(probes.ConstantReward(), config, iterations=5)
        np.testing.assert_allclose(
            metrics["learning_rate"], [0.01, 0.0075, 0.005, 0.0025, 0.0], atol=1e-8
        )
        assert int(state.env_steps) == 5 * 64

    @pytest.mark.slow
    def test_entropy_bonus_falls_to_zero(self):
        """Half way through its share of the run it weighs half, and from the end of that share on nothing."""
        steady = dataclasses.replace(SMALL, learning_rate_schedule="constant")
        total = SMALL.total_steps

        def after_a_step(coefficient, fraction, env_steps):
            config = dataclasses.replace(
                steady, entropy_coefficient=coefficient, entropy_fraction=fraction
            )
            algo = PPO(config, probes.RewardIsAction(continuous=True))
            state = dataclasses.replace(
                algo.init(jax.random.key(0)), env_steps=jnp.asarray(env_steps)
            )
            params = jax.jit(algo.step)(state)[0].params
            return algo.policy.distribution(params, jnp.zeros(1)).log_std

        half = after_a_step(0.4, 0.5, total // 4)
        np.testing.assert_allclose(half, after_a_step(0.2, None, total // 4), rtol=1e-6)
        none = after_a_step(0.0, None, total // 4)
        assert half > none
        for later in (total // 2, 3 * total // 4):
            np.testing.assert_allclose(after_a_step(0.4, 0.5, later), none, rtol=1e-6)

    @pytest.mark.slow
    def test_kl_coefficient_follows_the_kl(self):
        config = dataclasses.replace(SMALL, objective="kl", kl_target=1e-6)
        _, state, _ = train(probes.RewardIsAction(), config, iterations=3)
        assert state.kl_coefficient == 8.0  # doubled at each of three updates
        config = dataclasses.replace(SMALL, objective="kl", kl_target=1e6)
        _, state, _ = train(probes.RewardIsAction(), config, iterations=3)
        assert state.kl_coefficient == 0.125

    @pytest.mark.slow
    def test_kl_coefficient_rises_with_one_gradient_step_too(self):
        config = dataclasses.replace(
            SMALL, objective="kl", kl_target=1e-8, num_epochs=1, num_minibatches=1
        )
        _, state, metrics = train(probes.RewardIsAction(), config, iterations=3)
        assert (metrics["kl"] > 1e-7).all()
        assert state.kl_coefficient == 8.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"num_minibatches": 7}, "does not divide into num_minibatches = 7"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"min_log_std": 0.1}, "min_log_std must not be above initial_log_std = 0.0, got 0.1"),
        ({"gamma": 1.5}, "gamma must be between 0 and 1"),
        ({"entropy_coefficient": -1.0}, "entropy_coefficient must not be negative, got -1.0"),
        ({"entropy_fraction": 0.0}, "entropy_fraction must be above 0 and at most 1, got 0.0"),
        ({"entropy_fraction": 1.5}, "entropy_fraction must be above 0 and at most 1, got 1.5"),
        ({"value_coefficient": -1.0}, "value_coefficient must not be negative"),
        ({"kl_coefficient": -5.0}, "kl_coefficient must not be negative"),
        ({"hidden_sizes": (0,)}, "hidden_sizes must be positive"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_an_unknown_activation_is_refused():
    # As TypeError where types are checked at run time, as they are in these tests.
    with pytest.raises((ValueError, TypeError), match="activation"):
        dataclasses.replace(SMALL, activation="sine")


def test_a_space_it_cannot_handle_is_refused():
    import gymnasium

    class Odd(probes.ConstantReward):
        action_space = gymnasium.spaces.Text(3)

    with pytest.raises(ValueError, match="Discrete or Box"):
        PPO(SMALL, Odd())


@pytest.mark.slow
def test_seeds_of_the_walker_under_one_vmap_equal_single_runs():
    """Physics on the host included: after one iteration parameters, statistics and robots agree."""
    config = PPOConfig(num_envs=8, num_steps=4, num_minibatches=2, hidden_sizes=(32, 32))
    algo = PPO(config, envs.make("walker", backend="native"))
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    together, metrics = jax.jit(jax.vmap(lambda k: algo.step(algo.init(k))))(keys)
    single = jax.jit(lambda k: algo.step(algo.init(k)))
    for i in range(3):
        alone = single(jax.random.key(i))
        for name in ("params", "obs_statistics", "stream"):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a[i], b, atol=1e-4, rtol=1e-4),  # noqa: B023
                getattr(together, name),
                getattr(alone[0], name),
            )
        np.testing.assert_array_equal(
            jax.random.key_data(together.key[i]), jax.random.key_data(alone[0].key)
        )
        np.testing.assert_allclose(metrics["kl"][i], alone[1]["kl"], atol=1e-4)
