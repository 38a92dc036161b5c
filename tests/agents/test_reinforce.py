import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import agents.ppo
from agents.batch import Batch, Evaluation, Targets
from agents.ppo import PPOConfig
from agents.reinforce import (
    Reinforce,
    ReinforceConfig,
    mean_of_other_columns,
    targets,
    update,
)
from envs import probes
from experiments.studies.gradient_noise import (
    VARIANTS,
    first_episodes,
    gradient_estimates,
    gradient_noise,
    noise_of,
)

SMALL = ReinforceConfig(
    total_steps=64 * 400,
    num_envs=8,
    num_steps=8,
    learning_rate=0.02,
    learning_rate_schedule="constant",
    gamma=0.5,
    hidden_sizes=(16,),
    normalize_observations=False,
    normalize_returns=False,
)


def train(env, config=SMALL, iterations=300, seed=0):
    algo = Reinforce(config, env)

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

    @pytest.mark.parametrize(
        ("credit", "baseline"),
        [
            pytest.param("trajectory", "none", marks=pytest.mark.slow),
            ("reward-to-go", "mean"),
            pytest.param("trajectory", "value", marks=pytest.mark.slow),
        ],
    )
    def test_reward_is_action(self, credit, baseline):
        config = dataclasses.replace(SMALL, credit=credit, baseline=baseline)
        algo, state, _ = train(probes.RewardIsAction(), config)
        assert algo.policy.distribution(state.params, jnp.zeros(1)).log_prob(jnp.array(1)) > np.log(
            0.97
        )

    def test_continuous_action(self):
        algo, state, _ = train(probes.RewardIsAction(continuous=True), iterations=600)
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
        algo, state, _ = train(probes.TruncationOnly())
        np.testing.assert_allclose(values(algo, state, 1.0, 0.0), [1.0, 2.0], atol=0.05)

    def test_without_a_value_the_mean_return_stands_in_for_the_tail(self):
        # Rollouts of three whole episodes; with tail m and g = 1/2 their returns are (1.5 + m / 4) / 2, 1.5 + m / 4
        # and 1 + m / 2, and m is their mean: 3 m = 3.25 + 0.875 m.
        # The mean is kept in the environment's rewards, whatever they are divided by.
        config = dataclasses.replace(SMALL, baseline="mean", num_steps=9, normalize_returns=True)
        _, state, metrics = train(probes.TruncationOnly(), config, iterations=100)
        np.testing.assert_allclose(state.mean_return, 3.25 / 2.125, atol=1e-3)
        assert "loss/value" not in metrics


def a_batch(key, rows=12, columns=5):
    """Ends of all kinds at random, and steps that do not exist."""
    keys = jax.random.split(key, 5)
    reward, value, next_value = jax.random.normal(keys[0], (3, rows, columns))
    ends = jax.random.randint(keys[1], (rows, columns), 0, 8)
    mask = jax.random.bernoulli(keys[2], 0.8, (rows, columns))
    action = jnp.zeros((rows, columns), jnp.int32)
    return Batch(reward, action, reward, reward, ends == 0, ends == 1, mask, value, next_value)


class TestEstimate:
    @pytest.mark.parametrize("baseline", ["none", "mean", "value"])
    @pytest.mark.parametrize("credit", ["trajectory", "reward-to-go"])
    def test_matches_an_independent_loop(self, credit, baseline):
        """Episodes column by column: cut at ends, the tail by its rule, then the baseline."""
        config = dataclasses.replace(SMALL, credit=credit, baseline=baseline, gamma=0.9)
        batch, tail = a_batch(jax.random.key(1)), 0.7
        got = targets(batch, tail, config)

        fields = ("reward", "value", "next_value", "terminated", "truncated", "mask")
        b = {name: np.asarray(getattr(batch, name)) for name in fields}
        weight, to_go = np.zeros(b["mask"].shape), np.zeros(b["mask"].shape)
        for n in range(b["mask"].shape[1]):
            rows = np.flatnonzero(b["mask"][:, n])
            done = (b["terminated"] | b["truncated"])[rows, n]
            for episode in np.split(rows, np.flatnonzero(done[:-1]) + 1):
                last = episode[-1]
                after = b["next_value"][last, n] if baseline == "value" else tail
                if b["terminated"][last, n]:
                    after = 0.0
                for t in episode:
                    later = episode[episode >= t]
                    discounts = 0.9 ** np.arange(len(later) + 1)
                    to_go[t, n] = discounts @ [*b["reward"][later, n], after]
                source = episode if credit == "reward-to-go" else episode[[0] * len(episode)]
                weight[episode, n] = to_go[source, n]
                if baseline == "value":
                    weight[episode, n] -= b["value"][source, n]
        if baseline == "mean":
            others = [np.arange(5) != n for n in range(5)]
            mean = [weight[:, o][b["mask"][:, o]].mean() for o in others]
            weight = np.where(b["mask"], weight - mean, 0.0)
        np.testing.assert_allclose(got.value, to_go, atol=1e-5)
        np.testing.assert_allclose(got.advantage, weight, atol=1e-5)

    def test_mean_of_others_ignores_the_column_itself(self):
        x, mask = jnp.array([[1.0, 2.0, 3.0], [5.0, 4.0, jnp.nan]]), jnp.ones((2, 3), bool)
        got = mean_of_other_columns(x, mask.at[1, 2].set(False))
        np.testing.assert_allclose(got, [[3.0, 3.0, 3.0]])
        assert mean_of_other_columns(x[:, :1], mask[:, :1]) == 0.0

    def test_first_episodes_hides_what_follows(self):
        batch = a_batch(jax.random.key(2))
        flags = jnp.zeros_like(batch.mask)
        ends = flags.at[3, 0].set(True).at[5, 0].set(True).at[11, 1].set(True)
        batch = batch._replace(terminated=ends, truncated=flags, mask=~flags)
        lengths = first_episodes(batch).mask.sum(0)
        np.testing.assert_array_equal(lengths, [4, 12, 12, 12, 12])


# A Markov decision process of three states and two actions; action 1 of state 2 always ends it, others now and then.
HORIZON = 4
TRANSITION = np.array(
    [[[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], [[0.2, 0.5, 0.3], [0.5, 0.1, 0.4]], [[0.3, 0.6, 0.1]] * 2]
)
STOP = np.array([[0.0, 0.2], [0.1, 0.0], [0.3, 1.0]])  # [S, A]
REWARD = np.array([[1.0, 2.0], [3.0, 0.5], [1.5, 4.0]])  # [S, A]
LOGITS = jnp.array([[0.3, -0.2], [0.0, 0.5], [-0.4, 0.1]])
GAMMA = 0.6


def values_by_recursion(logits, gamma):
    """Q [H, S, A] with H - t steps to go, and V [H, S]."""
    pi, value, q = jax.nn.softmax(logits), jnp.zeros(3), []
    for _ in range(HORIZON):
        q.append(REWARD + gamma * (1 - STOP) * (TRANSITION @ value))
        value = jnp.sum(pi * q[-1], axis=1)
    q = jnp.stack(q[::-1])
    return q, jnp.sum(pi * q, axis=2)


def exact_gradient(credit, gamma):
    """Of the expected discounted return itself, for the whole trajectory's weight. For rewards to go, the sum over
    steps of E[grad log pi(a|s) Q(s, a)]: what is left when gamma^t is left out."""
    if credit == "trajectory":
        return jax.grad(lambda logits: values_by_recursion(logits, gamma)[1][0, 0])(LOGITS)
    q, _ = values_by_recursion(LOGITS, gamma)

    def surrogate(logits):
        pi, now = jax.nn.softmax(logits), jax.nn.softmax(LOGITS)
        reached, total = jnp.array([1.0, 0.0, 0.0]), 0.0
        for t in range(HORIZON):
            total += reached @ jnp.sum(pi * q[t], axis=1)
            reached = jnp.einsum("s,sa,sa,saz->z", reached, now, 1 - STOP, TRANSITION)
        return total

    return jax.grad(surrogate)(LOGITS)


def tabular_evaluate(logits, obs, action):
    log_pi = jax.nn.log_softmax(logits)
    nothing = jnp.zeros(obs.shape)
    return Evaluation(log_pi[obs, action], nothing, nothing)


def sample_trajectories(n, gamma, seed=0):
    """The first state is 0; V is exact, for states and steps to go. Drawn in NumPy."""
    rng = np.random.default_rng(seed)
    log_pi = np.asarray(jax.nn.log_softmax(LOGITS))
    exact = np.asarray(values_by_recursion(LOGITS, gamma)[1])
    state, alive, rows = np.zeros(n, int), np.ones(n, bool), []
    for t in range(HORIZON):
        action = (rng.random(n) < np.exp(log_pi[state, 1])).astype(int)
        stop = (rng.random(n) < STOP[state, action]) | (t == HORIZON - 1)
        rows.append((state, action, exact[t, state], REWARD[state, action], stop, alive))
        alive = alive & ~stop
        cumulative = np.cumsum(TRANSITION[state, action], axis=1)
        state = np.minimum((rng.random(n)[:, None] > cumulative).sum(1), 2)
    obs, action, value, reward, stop, mask = (
        jnp.asarray(np.stack(x)) for x in zip(*rows, strict=True)
    )
    value, reward = value.astype(jnp.float32), reward.astype(jnp.float32)
    never = jnp.zeros_like(stop)
    return Batch(obs, action, reward, reward, stop, never, mask, value, value)


class TestGradient:
    """Monte Carlo against dynamic programming."""

    @pytest.mark.parametrize("gamma", [1.0, GAMMA])
    @pytest.mark.parametrize("baseline", ["none", "mean", "value"])
    @pytest.mark.parametrize("credit", ["trajectory", "reward-to-go"])
    def test_every_variant_is_unbiased(self, credit, baseline, gamma):
        config = dataclasses.replace(SMALL, credit=credit, baseline=baseline, gamma=gamma)
        batch = sample_trajectories(50_000, gamma)
        advantage = targets(batch, 0.0, config).advantage
        grads = gradient_estimates(LOGITS, batch, advantage, evaluate=tabular_evaluate)
        grads = np.asarray(grads, float) * float(jnp.mean(batch.mask.sum(0)))  # sums over steps
        error = grads.mean(0) - np.asarray(exact_gradient(credit, gamma))
        standard_error = grads.std(0) / np.sqrt(len(grads))
        assert np.abs(error / standard_error).max() < 4
        assert standard_error.max() < 0.02  # of gradients of about 0.2: the test can tell

    def test_the_mean_baseline_is_unbiased_with_few_trajectories(self):
        """With its own return in its mean, the estimate from two trajectories would be half as long."""
        config = dataclasses.replace(SMALL, baseline="mean", gamma=1.0)
        batch = sample_trajectories(20_000, 1.0)
        pairs = jax.tree.map(
            lambda x: x if x is None else x.reshape(HORIZON, -1, 2).swapaxes(0, 1), batch
        )
        advantage = jax.vmap(lambda b: targets(b, 0.0, config).advantage)(pairs)
        advantage = advantage.swapaxes(0, 1).reshape(HORIZON, -1)
        grads = gradient_estimates(LOGITS, batch, advantage, evaluate=tabular_evaluate)
        grads = np.asarray(grads, float) * float(jnp.mean(batch.mask.sum(0)))
        # Pairs are independent of one another, their members are not.
        grads = grads.reshape(-1, 2, 3, 2).mean(1)
        error = grads.mean(0) - np.asarray(exact_gradient("reward-to-go", 1.0))
        assert np.abs(error / (grads.std(0) / np.sqrt(len(grads)))).max() < 4

    def test_each_step_of_the_derivation_lessens_the_noise(self):
        config = dataclasses.replace(SMALL, gamma=GAMMA)
        batch = sample_trajectories(20_000, GAMMA)
        noise = gradient_noise(LOGITS, batch, 0.0, evaluate=tabular_evaluate, config=config)
        assert list(noise) == list(VARIANTS)
        variances = [float(x.variance) for x in noise.values()]
        assert all(later < 0.95 * earlier for earlier, later in pairwise(variances))
        # One question, two estimators; and the three discounted ones share another.
        signals = [float(x.signal) for x in noise.values()]
        np.testing.assert_allclose(signals[0], signals[1], rtol=0.15)
        np.testing.assert_allclose(signals[2:], signals[4], rtol=0.15)

    def test_signal_is_without_bias(self):
        """Estimates of pure noise have none on average, few as they are."""
        estimates = {"a": jax.random.normal(jax.random.key(0), (2000, 4, 3, 2))}
        noise = jax.vmap(noise_of)(estimates)
        np.testing.assert_allclose(noise.variance.mean(), 6.0, atol=0.1)
        np.testing.assert_allclose(noise.signal.mean(), 0.0, atol=0.1)


def linear_problem(key, columns=24):
    """A linear Gaussian policy with unit variance and a linear value, whose parameters do not meet."""
    keys = jax.random.split(key, 5)
    params = {
        "policy": jax.random.normal(keys[0], (3, 2)),
        "value": jax.random.normal(keys[1], (3,)),
    }
    obs = jax.random.normal(keys[2], (1, columns, 3))

    def evaluate(params, obs, action):
        logp = -0.5 * jnp.sum((action - obs @ params["policy"]) ** 2, -1) - jnp.log(2 * jnp.pi)
        return Evaluation(logp, jnp.full(logp.shape, 2.0), obs @ params["value"])

    action = obs @ params["policy"] + jax.random.normal(keys[3], (1, columns, 2))
    now = evaluate(params, obs, action)
    flags = jnp.zeros((1, columns), bool)
    batch = Batch(obs, action, now.logp, now.value, flags, flags, ~flags, now.value, now.value)
    targets = Targets(*jax.random.normal(keys[4], (2, 1, columns)))
    return params, batch, targets, evaluate


def run_update(config, params, batch, targets, evaluate):
    optimizer = optax.identity()
    return update(
        params,
        optimizer.init(params),
        batch,
        targets,
        evaluate=evaluate,
        optimizer=optimizer,
        learning_rate=jnp.asarray(0.1),
        config=config,
        value_coefficient=config.value_coefficient if config.baseline == "value" else None,
    )


def assert_close(got, expected, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), got, expected)


class TestUpdate:
    @pytest.mark.parametrize("baseline", ["none", "value"])
    def test_is_the_policy_gradient_by_hand(self, baseline):
        params, batch, targets, evaluate = linear_problem(jax.random.key(0))
        config = dataclasses.replace(SMALL, baseline=baseline)
        new, _, metrics = run_update(config, params, batch, targets, evaluate)
        obs, action = np.asarray(batch.obs[0], float), np.asarray(batch.action[0], float)
        advantage = np.asarray(targets.advantage[0], float)
        score = action - obs @ np.asarray(params["policy"], float)
        policy = -np.einsum("n,ni,nj->ij", advantage, obs, score) / len(obs)
        error = obs @ np.asarray(params["value"], float) - np.asarray(targets.value[0], float)
        value = 0.5 * error @ obs / len(obs) if baseline == "value" else np.zeros(3)
        assert_close(
            new,
            {"policy": params["policy"] - 0.1 * policy, "value": params["value"] - 0.1 * value},
            atol=1e-5,
        )
        length = np.sqrt(np.sum(policy**2) + np.sum(value**2))
        np.testing.assert_allclose(metrics["grad_norm"], length, rtol=1e-5)
        if baseline == "value":
            np.testing.assert_allclose(metrics["loss/value"], 0.5 * np.mean(error**2), rtol=1e-5)

    @pytest.mark.parametrize("whiten", [False, True])
    def test_is_ppo_with_one_epoch_and_one_minibatch(self, whiten):
        """At ratio 1 the clipped surrogate has the policy gradient for its gradient."""
        params, batch, targets, evaluate = linear_problem(jax.random.key(1))
        config = dataclasses.replace(SMALL, whiten_advantages=whiten)
        shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        for name in ("credit", "baseline"):
            del shared[name]
        optimizer = optax.identity()
        expected, _, _ = agents.ppo.update(
            params,
            optimizer.init(params),
            jax.random.key(7),
            batch,
            targets,
            evaluate=evaluate,
            optimizer=optimizer,
            learning_rate=jnp.asarray(0.1),
            entropy_coefficient=0.0,
            objective=agents.ppo.objective_of(PPOConfig()),
            config=PPOConfig(**shared, num_epochs=1, num_minibatches=1),
        )
        got, _, _ = run_update(config, params, batch, targets, evaluate)
        assert_close(got, expected)

    def test_is_the_mean_of_the_columns_estimates(self):
        params, batch, targets, evaluate = linear_problem(jax.random.key(2))
        batch = batch._replace(mask=batch.mask.at[0, 5:9].set(False))
        grads = gradient_estimates(params, batch, targets.advantage, evaluate=evaluate)
        new, _, _ = run_update(SMALL, params, batch, targets, evaluate)
        ascent = (new["policy"] - params["policy"]) / 0.1
        np.testing.assert_allclose(grads["policy"].mean(0), ascent, atol=1e-5)
        np.testing.assert_array_equal(grads["policy"][5:9], 0.0)
        np.testing.assert_array_equal(grads["value"], 0.0)

    def test_masked_columns_change_nothing(self):
        params, batch, targets, evaluate = linear_problem(jax.random.key(3))
        batch2, targets2 = jax.tree.map(
            lambda x: jnp.concatenate([x, 3 * x.astype(x.dtype)], axis=1), (batch, targets)
        )
        batch2 = batch2._replace(mask=jnp.concatenate([batch.mask, ~batch.mask], axis=1))
        expected, _, _ = run_update(SMALL, params, batch, targets, evaluate)
        got, _, _ = run_update(SMALL, params, batch2, targets2, evaluate)
        assert_close(got, expected)


class TestState:
    def test_an_iteration_counts_its_steps(self):
        algo, state, metrics = train(probes.RewardIsObservation(), iterations=5)
        assert algo.iteration_steps == 64
        assert int(state.env_steps) == 5 * 64
        assert int(state.obs_statistics.count) == 5 * 64
        assert metrics["loss/policy"].shape == (5,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_envs": 1, "baseline": "mean"}, "num_envs must be at least 2"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"value_coefficient": 0.0}, "value_coefficient must be positive"),
        ({"gamma": -0.1}, "gamma must be between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize("name", ["credit", "baseline"])
def test_unknown_choices_are_refused(name, unchecked):
    with pytest.raises(ValueError, match=f"{name} must be .* got 'some'"):
        dataclasses.replace(SMALL, **{name: "some"})
