import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import agents.reinforce
from agents.actor_critic import A2C, ActorCriticConfig, targets, update
from agents.batch import Batch, Evaluation, Targets, random_order
from envs import probes

SMALL = ActorCriticConfig(
    total_steps=64 * 400,
    num_envs=8,
    num_steps=8,
    n_step=4,
    learning_rate=0.01,
    learning_rate_schedule="constant",
    gamma=0.5,
    hidden_sizes=(16,),
    normalize_observations=False,
    normalize_returns=False,
)
GAE = dataclasses.replace(SMALL, estimator="gae", optimizer="adam", num_minibatches=2)


def train(env, config=SMALL, iterations=800, seed=0):
    algo = A2C(config, env)

    def run(key):
        return jax.lax.scan(lambda s, _: algo.step(s), algo.init(key), None, iterations)

    state, metrics = jax.jit(run)(jax.random.key(seed))
    return algo, state, metrics


def values(algo, state, *observations):
    return np.asarray(
        algo.policy.value(state.params, jnp.asarray(observations, jnp.float32)[:, None])
    )


class TestProbes:
    """Each finds the known answer. What a failure would point at stands in envs/probes.py."""

    @pytest.mark.slow
    def test_constant_reward(self):
        algo, state, _ = train(probes.ConstantReward())
        np.testing.assert_allclose(values(algo, state, 0.0), [1.0], atol=0.02)

    @pytest.mark.parametrize("config", [SMALL, GAE])
    def test_reward_is_action(self, config):
        algo, state, _ = train(probes.RewardIsAction(), config)
        assert algo.policy.distribution(state.params, jnp.zeros(1)).log_prob(jnp.array(1)) > np.log(
            0.97
        )
        np.testing.assert_allclose(values(algo, state, 0.0), [1.0], atol=0.1)

    def test_continuous_action(self):
        algo, state, _ = train(probes.RewardIsAction(continuous=True))
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

    @pytest.mark.parametrize("config", [SMALL, GAE])
    @pytest.mark.slow
    def test_truncation_bootstraps_from_the_true_final_observation(self, config):
        algo, state, _ = train(probes.TruncationOnly(), config)
        np.testing.assert_allclose(values(algo, state, 1.0, 0.0), [1.0, 2.0], atol=0.05)


def a_batch(key, rows=9, columns=4):
    """Ends of both kinds at random; what lies past a termination is not a number."""
    keys = jax.random.split(key, 2)
    reward, value, next_value = jax.random.normal(keys[0], (3, rows, columns))
    ends = jax.random.randint(keys[1], (rows, columns), 0, 5)
    next_value = jnp.where(ends == 0, jnp.nan, next_value)
    action = jnp.zeros((rows, columns), jnp.int32)
    mask = jnp.ones((rows, columns), bool)
    return Batch(reward, action, reward, reward, ends == 0, ends == 1, mask, value, next_value)


class TestEstimate:
    @pytest.mark.parametrize("n_step", [1, 3, 20])
    def test_n_step_matches_an_independent_loop(self, n_step):
        batch = a_batch(jax.random.key(0))
        assert batch.terminated.any()
        assert batch.truncated.any()
        got = targets(batch, dataclasses.replace(SMALL, n_step=n_step, gamma=0.9))
        b = {name: np.asarray(x) for name, x in batch._asdict().items() if x is not None}
        target = np.zeros((9, 4))
        for t, n in np.ndindex(9, 4):
            for k in range(t, min(t + n_step, 9)):
                target[t, n] += 0.9 ** (k - t) * b["reward"][k, n]
                if b["terminated"][k, n] or b["truncated"][k, n]:
                    break
            if not b["terminated"][k, n]:
                target[t, n] += 0.9 ** (k + 1 - t) * b["next_value"][k, n]
        np.testing.assert_allclose(got.value, target, atol=1e-5)
        np.testing.assert_allclose(got.advantage, target - b["value"], atol=1e-5)

    def test_gae_matches_an_independent_loop(self):
        batch = a_batch(jax.random.key(1))
        got = targets(batch, dataclasses.replace(GAE, gamma=0.9, gae_lambda=0.8))
        b = {name: np.asarray(x) for name, x in batch._asdict().items() if x is not None}
        after = np.where(b["terminated"], 0.0, b["next_value"])
        delta = b["reward"] + 0.9 * after - b["value"]
        advantage, carry = np.zeros((9, 4)), np.zeros(4)
        for t in reversed(range(9)):
            carry = delta[t] + 0.72 * np.where(b["terminated"][t] | b["truncated"][t], 0.0, carry)
            advantage[t] = carry
        np.testing.assert_allclose(got.advantage, advantage, atol=1e-5)
        np.testing.assert_allclose(got.value, advantage + b["value"], atol=1e-5)

    def test_all_steps_are_those_of_reinforce_with_a_value(self):
        """n beyond the rollout's end, or lambda 1: Monte Carlo, bootstrapped where the data end."""
        batch = a_batch(jax.random.key(2))
        # GAE and the return agree where V(s_{t+1}) is one number, whichever row tells it.
        following = jnp.concatenate([batch.value[1:], batch.next_value[-1:]])
        ends = batch.terminated | batch.truncated
        batch = batch._replace(next_value=jnp.where(ends, batch.next_value, following))
        config = agents.reinforce.ReinforceConfig(gamma=0.5)
        expected = agents.reinforce.targets(batch, 0.0, config)
        for ours in (
            dataclasses.replace(SMALL, n_step=9),
            dataclasses.replace(GAE, gae_lambda=1.0),
        ):
            assert_close(targets(batch, ours), expected, atol=1e-5)


def categorical_problem(key, columns=24):
    """A linear softmax policy over three actions, with a linear value."""
    keys = jax.random.split(key, 5)
    params = {
        "policy": jax.random.normal(keys[0], (4, 3)),
        "value": jax.random.normal(keys[1], (4,)),
    }
    obs = jax.random.normal(keys[2], (1, columns, 4))
    action = jax.random.randint(keys[3], (1, columns), 0, 3)

    def evaluate(params, obs, action):
        log_pi = jax.nn.log_softmax(obs @ params["policy"])
        logp = jnp.take_along_axis(log_pi, action[..., None], axis=-1)[..., 0]
        entropy = -jnp.sum(jnp.exp(log_pi) * log_pi, axis=-1)
        return Evaluation(logp, entropy, obs @ params["value"])

    now = evaluate(params, obs, action)
    flags = jnp.zeros((1, columns), bool)
    batch = Batch(obs, action, now.logp, now.value, flags, flags, ~flags, now.value, now.value)
    targets = Targets(*jax.random.normal(keys[4], (2, 1, columns)))
    return params, batch, targets, evaluate


def run_update(config, params, batch, targets, evaluate, key=None):
    optimizer = optax.identity()
    return update(
        params,
        optimizer.init(params),
        jax.random.key(0) if key is None else key,
        batch,
        targets,
        evaluate=evaluate,
        optimizer=optimizer,
        learning_rate=jnp.asarray(0.1),
        entropy_coefficient=config.entropy_coefficient,
        config=config,
    )


def assert_close(got, expected, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), got, expected)


class TestUpdate:
    @pytest.mark.parametrize("whiten", [False, True])
    def test_is_the_gradient_by_hand(self, whiten):
        params, batch, targets, evaluate = categorical_problem(jax.random.key(0))
        ratio = np.linspace(0.5, 2.0, 24)  # an older policy chose the actions
        batch = batch._replace(logp=batch.logp - np.log(ratio))
        config = dataclasses.replace(SMALL, entropy_coefficient=0.3, whiten_advantages=whiten)
        new, _, metrics = run_update(config, params, batch, targets, evaluate)
        w, v = (np.asarray(params[name], float) for name in ("policy", "value"))
        obs, action = np.asarray(batch.obs[0], float), np.asarray(batch.action[0])
        advantage, target = (np.asarray(x[0], float) for x in targets)
        if whiten:
            advantage = (advantage - advantage.mean()) / np.sqrt(advantage.var(ddof=1) + 1e-8)
        logits = obs @ w
        pi = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        entropy = -np.sum(pi * np.log(pi), axis=1, keepdims=True)
        # d log pi(a) / d logits = onehot(a) - pi; d H / d logits = -pi (log pi + H)
        slope = -(ratio * advantage)[:, None] * (np.eye(3)[action] - pi)
        slope += 0.3 * pi * (np.log(pi) + entropy)
        error = obs @ v - target
        gradient = {"policy": obs.T @ slope / 24, "value": 0.5 * error @ obs / 24}
        assert_close(new, {name: params[name] - 0.1 * gradient[name] for name in params}, atol=1e-5)
        np.testing.assert_allclose(metrics["entropy"], entropy.mean(), rtol=1e-5)
        length = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        np.testing.assert_allclose(metrics["grad_norm"], length, rtol=1e-5)

    def test_is_that_of_reinforce_but_for_the_entropy(self):
        params, batch, targets, evaluate = categorical_problem(jax.random.key(1))
        config = dataclasses.replace(SMALL, entropy_coefficient=0.0)
        got, _, _ = run_update(config, params, batch, targets, evaluate)
        optimizer = optax.identity()
        expected, _, _ = agents.reinforce.update(
            params,
            optimizer.init(params),
            batch,
            targets,
            evaluate=evaluate,
            optimizer=optimizer,
            learning_rate=jnp.asarray(0.1),
            config=agents.reinforce.ReinforceConfig(),
            value_coefficient=config.value_coefficient,
        )
        assert_close(got, expected)

    def test_minibatches_are_steps_one_after_another_on_disjoint_parts(self):
        """Advantages are whitened before they are dealt out: a part of few steps says little of their spread."""
        params, batch, targets, evaluate = categorical_problem(jax.random.key(3))
        config = dataclasses.replace(SMALL, whiten_advantages=True, num_minibatches=4)
        key = jax.random.key(4)
        got, _, metrics = run_update(config, params, batch, targets, evaluate, key)
        order = np.asarray(random_order(key, 24)).reshape(4, 6)
        assert sorted(order.ravel()) == list(range(24))
        advantage = np.asarray(targets.advantage)
        white = (advantage - advantage.mean()) / np.sqrt(advantage.var(ddof=1) + 1e-8)
        targets = targets._replace(advantage=jnp.asarray(white))
        one = dataclasses.replace(SMALL, whiten_advantages=False)
        expected, norms = params, []
        for part in order:
            taken = jax.tree.map(lambda x: x[:, part], (batch, targets))  # noqa: B023
            expected, _, of_part = run_update(one, expected, *taken, evaluate)
            norms.append(of_part["grad_norm"])
        assert_close(got, expected)
        np.testing.assert_allclose(metrics["grad_norm"], np.mean(norms), rtol=1e-5)

    def test_masked_columns_change_nothing(self):
        params, batch, targets, evaluate = categorical_problem(jax.random.key(2))
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x], axis=1), (batch, targets))
        hidden = twice[0]._replace(mask=jnp.concatenate([batch.mask, ~batch.mask], axis=1))
        more = twice[1]._replace(advantage=twice[1].advantage.at[:, 24:].set(1e3))
        config = dataclasses.replace(SMALL, whiten_advantages=True)
        expected, _, _ = run_update(config, params, batch, targets, evaluate)
        got, _, _ = run_update(config, params, hidden, more, evaluate)
        assert_close(got, expected)


class TestState:
    def test_rmsprop_takes_the_papers_step(self):
        """g / sqrt(s + eps), with s = 0.99 s + 0.01 g^2 from 1, and the gradient not longer than its bound."""
        algo = A2C(dataclasses.replace(SMALL, max_grad_norm=0.5), probes.ConstantReward())
        params = {"w": jnp.zeros(2)}
        opt_state = algo.optimizer.init(params)
        square = np.ones(2)
        for gradient in ([3.0, 4.0], [0.1, -0.2]):
            step, opt_state = algo.optimizer.update({"w": jnp.array(gradient)}, opt_state, params)
            clipped = np.array(gradient) * min(1.0, 0.5 / np.linalg.norm(gradient))
            square = 0.99 * square + 0.01 * clipped**2
            np.testing.assert_allclose(step["w"], clipped / np.sqrt(square + 1e-5), rtol=1e-5)

    @pytest.mark.slow  # the same schedule as PPO's
    def test_entropy_bonus_falls_to_zero(self):
        def after_a_step(env_steps, **bonus):
            algo = A2C(dataclasses.replace(SMALL, **bonus), probes.RewardIsAction(continuous=True))
            state = algo.init(jax.random.key(0))
            state = dataclasses.replace(state, env_steps=jnp.asarray(env_steps))
            return jax.jit(algo.step)(state)[0].params

        quarter, half = SMALL.total_steps // 4, SMALL.total_steps // 2
        falling = {"entropy_coefficient": 0.4, "entropy_fraction": 0.5}
        assert_close(
            after_a_step(quarter, **falling), after_a_step(quarter, entropy_coefficient=0.2)
        )
        assert_close(after_a_step(half, **falling), after_a_step(half, entropy_coefficient=0.0))

    def test_an_iteration_counts_its_steps(self):
        config = dataclasses.replace(
            SMALL, total_steps=64 * 4, learning_rate_schedule="linear", max_grad_norm=None
        )
        algo, state, metrics = train(probes.RewardIsObservation(), config, iterations=5)
        assert algo.iteration_steps == 64
        assert int(state.env_steps) == 5 * 64
        assert int(state.obs_statistics.count) == 5 * 64
        expected = [0.01, 0.0075, 0.005, 0.0025, 0.0]
        np.testing.assert_allclose(metrics["learning_rate"], expected, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"n_step": 0}, "n_step must be at least 1"),
        ({"num_minibatches": 0}, "num_minibatches must be at least 1"),
        (
            {"num_minibatches": 5},
            "num_envs x num_steps = 64 does not divide into num_minibatches = 5",
        ),
        ({"gae_lambda": 1.1}, "gae_lambda must be between 0 and 1"),
        ({"value_coefficient": -1.0}, "value_coefficient must be positive"),
        ({"entropy_coefficient": -0.1}, "entropy_coefficient must not be negative"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize("name", ["optimizer", "estimator"])
def test_unknown_choices_are_refused(name, unchecked):
    with pytest.raises(ValueError, match=f"{name} must be .* got 'some'"):
        dataclasses.replace(SMALL, **{name: "some"})
