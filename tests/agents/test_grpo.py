import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
from agents.batch import Batch, Evaluation, random_order
from agents.groups import group_targets
from agents.grpo import GRPO, GRPOConfig, objective_of, update
from envs import probes

SMALL = GRPOConfig(
    total_steps=32 * 300,
    num_envs=32,
    num_epochs=4,
    num_minibatches=2,
    learning_rate=0.01,
    hidden_sizes=(16,),
    normalize_observations=False,
)


def train(env, config=SMALL, iterations=100, seed=0):
    algo = GRPO(config, env)
    run = jax.jit(lambda k: jax.lax.scan(lambda s, _: algo.step(s), algo.init(k), None, iterations))
    return algo, *run(jax.random.key(seed))


class TestProbes:
    def test_reward_is_action(self):
        algo, state, metrics = train(probes.RewardIsAction())
        assert algo.policy.distribution(state.params, jnp.zeros(1)).log_prob(jnp.array(1)) > np.log(
            0.97
        )
        assert metrics["frac_zero_std"][0] == 0.0
        assert metrics["frac_zero_std"][-1] == 1.0  # all do the right thing: nothing left to learn

    def test_continuous_action(self):
        config = dataclasses.replace(SMALL, learning_rate_schedule="constant")
        algo, state, _ = train(probes.RewardIsAction(continuous=True), config, 150)
        action = algo.act(state, jnp.zeros((3, 1)), jax.random.key(0), True)
        np.testing.assert_allclose(action, 0.5, atol=0.1)
        assert jnp.exp(algo.policy.distribution(state.params, jnp.zeros(1)).log_std[0]) < 0.5

    def test_dr_grpo_with_a_reference(self):
        config = dataclasses.replace(
            SMALL,
            scale_advantages=False,
            aggregation="token-sum-constant",
            kl_coefficient=0.1,
            normalize_returns=True,
        )
        algo, state, metrics = train(probes.RewardIsAction(), config)
        p = float(
            jnp.exp(algo.policy.distribution(state.params, jnp.zeros(1)).log_prob(jnp.array(1)))
        )
        # Held back by the reference: the best p has log(p / (1 - p)) = reward gap / coefficient at the most.
        assert 0.9 < p < 1.0
        assert metrics["kl_reference"][-1] > 0.1


def policy(params, obs, action):
    """Linear Gaussian with unit variance; its "entropy" depends on the parameters, for the test's sake."""
    mean = obs @ params["w"]
    logp = -0.5 * jnp.sum((action - mean) ** 2, -1) - jnp.log(2 * jnp.pi)
    return Evaluation(logp, jnp.sum(mean, axis=-1), jnp.full(logp.shape, jnp.nan))


STEPS, EPISODES, GROUP = 5, 12, 4


def problem(key, off_policy=0.0):
    """Episodes of random lengths, with what would be junk after their ends. `off_policy`: noise on the old
    log-probs."""
    keys = jax.random.split(key, 7)
    params = {"w": jax.random.normal(keys[0], (3, 2))}
    obs = jax.random.normal(keys[1], (STEPS, EPISODES, 3))
    action = obs @ params["w"] + jax.random.normal(keys[2], (STEPS, EPISODES, 2))
    logp = policy(params, obs, action).logp
    noise = jax.random.normal(keys[3], (2, STEPS, EPISODES))
    length = jax.random.randint(keys[4], (EPISODES,), 1, STEPS + 1)
    mask = jnp.arange(STEPS)[:, None] < length
    flags = jnp.zeros_like(mask)
    reward = jax.random.normal(keys[5], (STEPS, EPISODES))
    batch = Batch(obs, action, logp + off_policy * noise[0], reward, flags, flags, mask)
    return params, batch._replace(ref_logp=logp + 0.5 * noise[1])


ONE_STEP = dataclasses.replace(
    SMALL, num_envs=EPISODES, group_size=GROUP, num_steps=7, num_epochs=1, num_minibatches=1
)


@functools.partial(jax.jit, static_argnames="config")
def run_update(config, params, batch, targets=None):
    targets = group_targets(batch, GROUP)[0] if targets is None else targets
    optimizer = optax.identity()
    new, _, metrics = update(
        params,
        optimizer.init(params),
        jax.random.key(7),
        batch,
        targets,
        evaluate=policy,
        optimizer=optimizer,
        learning_rate=jnp.asarray(0.5),
        entropy_coefficient=config.entropy_coefficient,
        objective=objective_of(config, config.num_steps),
        config=config,
    )
    return new, metrics


def advantages(batch):
    """By hand, [N]."""
    score = np.sum(np.where(batch.mask, batch.reward, 0.0), axis=0, dtype=float)
    groups = score.reshape(-1, GROUP)
    centred = groups - groups.mean(1, keepdims=True)
    return (centred / (groups.std(1, ddof=1, keepdims=True) + 1e-4)).ravel()


def weights(mask, aggregation):
    """What each step counts in the loss, [T, N]."""
    length = mask.sum(0)
    if aggregation == "token-mean":
        return mask / mask.sum()
    if aggregation == "seq-mean-token-mean":
        return mask / length / len(length)
    return mask / ONE_STEP.num_steps / len(length)


AGGREGATIONS = ["token-mean", "seq-mean-token-mean", "token-sum-constant"]


class TestUpdate:
    @pytest.mark.parametrize("aggregation", AGGREGATIONS)
    def test_one_step_is_reinforce_with_group_relative_advantages(self, aggregation):
        params, batch = problem(jax.random.key(0))
        config = dataclasses.replace(ONE_STEP, aggregation=aggregation)
        new, metrics = run_update(config, params, batch)
        obs, action = np.asarray(batch.obs, float), np.asarray(batch.action, float)
        score = action - obs @ np.asarray(params["w"], float)  # d log pi / d mean
        weight = weights(np.asarray(batch.mask), aggregation) * advantages(batch)
        gradient = -np.einsum("tn,tni,tnj->ij", weight, obs, score)
        np.testing.assert_allclose(new["w"], params["w"] - 0.5 * gradient, atol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-4)
        np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-10)
        assert metrics["clip_fraction_low"] == metrics["clip_fraction_high"] == 0.0

    @pytest.mark.parametrize("aggregation", AGGREGATIONS)
    def test_loss_and_metrics_against_numpy(self, aggregation):
        params, batch = problem(jax.random.key(1), off_policy=0.4)
        config = dataclasses.replace(
            ONE_STEP,
            aggregation=aggregation,
            clip_low=0.1,
            clip_high=0.3,
            kl_coefficient=0.2,
            entropy_coefficient=0.05,
        )
        _, metrics = run_update(config, params, batch)
        mask, old, ref = (np.asarray(x) for x in (batch.mask, batch.logp, batch.ref_logp))
        new = policy(params, batch.obs, batch.action)
        logp, entropy = np.asarray(new.logp, float), np.asarray(new.entropy)
        ratio, advantage = np.exp(logp - old), advantages(batch)
        surrogate = np.minimum(ratio * advantage, np.clip(ratio, 0.9, 1.3) * advantage)
        k3 = np.exp(ref - logp) - 1 - (ref - logp)
        loss = -surrogate + 0.2 * k3 - 0.05 * entropy
        expected = np.sum(loss * weights(mask, aggregation))
        np.testing.assert_allclose(metrics["loss/policy"], expected, rtol=1e-4)
        log_ratio = logp - old
        for name, x in {
            "kl_reference": k3,
            "kl": np.exp(log_ratio) - 1 - log_ratio,
            "entropy": entropy,
            "clip_fraction_low": ratio < 0.9,
            "clip_fraction_high": ratio > 1.3,
        }.items():
            np.testing.assert_allclose(metrics[name], x[mask].mean(), rtol=1e-4, err_msg=name)
        assert 0 < metrics["clip_fraction_low"] < 1
        assert 0 < metrics["clip_fraction_high"] < 1

    @pytest.mark.parametrize(
        "aggregation",
        [AGGREGATIONS[0], *(pytest.param(x, marks=pytest.mark.slow) for x in AGGREGATIONS[1:])],
    )
    def test_how_a_batch_is_laid_out_changes_nothing(self, aggregation):
        """Padding in time and of columns, the order of groups, and micro-batches."""
        config = dataclasses.replace(
            ONE_STEP, aggregation=aggregation, kl_coefficient=0.2, num_epochs=2
        )
        params, batch = problem(jax.random.key(2), off_policy=0.3)
        data = (batch, group_targets(batch, GROUP)[0])
        expected = run_update(config, params, *data)

        def padded(axis):
            both = jax.tree.map(lambda x: jnp.concatenate([x, 3 * x], axis), data)
            hide = jnp.concatenate([batch.mask, jnp.zeros_like(batch.mask)], axis)
            return both[0]._replace(mask=hide), both[1]

        permuted = jnp.arange(EPISODES).reshape(-1, GROUP)[jnp.array([2, 0, 1])].ravel()
        regrouped = jax.tree.map(lambda x: x[:, permuted], batch)
        split = dataclasses.replace(config, micro_batches=4)
        for got in (
            run_update(config, params, *padded(0)),
            run_update(config, params, *padded(1)),
            run_update(config, params, regrouped),
            run_update(split, params, *data),
        ):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected
            )

    def test_minibatches_are_whole_episodes_in_random_order(self):
        """Two epochs of three minibatches, against single steps on the columns they pick."""
        config = dataclasses.replace(ONE_STEP, num_epochs=2, num_minibatches=3)
        params, batch = problem(jax.random.key(3))
        targets = group_targets(batch, GROUP)[0]
        got, _ = run_update(config, params, batch, targets)
        for key in jax.random.split(jax.random.key(7), 2):
            for columns in random_order(key, EPISODES).reshape(3, -1):
                data = jax.tree.map(lambda x, c=columns: x[:, c], (batch, targets))
                params, _ = run_update(ONE_STEP, params, *data)
        np.testing.assert_allclose(got["w"], params["w"], atol=1e-5)

    def test_groups_without_spread_teach_nothing(self):
        params, batch = problem(jax.random.key(4))
        reward = jnp.where(jnp.arange(STEPS)[:, None] == 0, 0.7, 0.0)
        batch = batch._replace(reward=jnp.broadcast_to(reward, batch.reward.shape))
        targets, found = group_targets(batch, GROUP)
        new, metrics = run_update(ONE_STEP, params, batch, targets)
        assert found["frac_zero_std"] == 1.0
        assert metrics["grad_norm"] == 0.0
        np.testing.assert_array_equal(new["w"], params["w"])

    def test_an_empty_batch_changes_nothing(self):
        params, batch = problem(jax.random.key(5))
        batch = batch._replace(mask=jnp.zeros_like(batch.mask))
        new, metrics = run_update(ONE_STEP, params, batch)
        np.testing.assert_array_equal(new["w"], params["w"])
        assert all(np.isfinite(x) for x in metrics.values())

    def test_the_reference_holds_back(self):
        params, batch = problem(jax.random.key(6))
        batch = batch._replace(ref_logp=batch.logp)
        config = dataclasses.replace(ONE_STEP, num_epochs=10, clip_low=0.9, clip_high=9.0)
        free, _ = run_update(config, params, batch)
        held, metrics = run_update(dataclasses.replace(config, kl_coefficient=1.0), params, batch)
        assert jnp.linalg.norm(held["w"] - params["w"]) < jnp.linalg.norm(free["w"] - params["w"])
        assert metrics["kl_reference"] > 0

    def test_kl_without_a_reference_is_refused(self):
        params, batch = problem(jax.random.key(6))
        config = dataclasses.replace(ONE_STEP, kl_coefficient=0.1)
        with pytest.raises(ValueError, match="which is None"):
            run_update(config, params, batch._replace(ref_logp=None))

    def test_columns_that_do_not_divide_are_refused(self):
        params, batch = problem(jax.random.key(6))
        config = dataclasses.replace(SMALL, num_minibatches=8)
        with pytest.raises(ValueError, match="12 episodes do not divide into num_minibatches"):
            run_update(config, params, batch)


@flax.struct.dataclass
class Walk(probes.RewardIsAction):
    """Starts anywhere; ends by chance; the reward is the action."""

    def initial(self, key):
        return jax.random.uniform(key, (1,)), jnp.zeros((), jnp.int32)

    def transition(self, state, action, key):
        x, t = state
        return x + jax.random.uniform(key, (1,), minval=0.1), t + 1

    def terminal(self, state):
        return state[0][0] > 2.0


class TestState:
    def test_groups_share_the_start_and_nothing_else(self):
        algo = GRPO(SMALL, Walk())
        state = jax.jit(algo.init)(jax.random.key(0))
        episodes, metrics, key = jax.jit(algo.collect)(state.actor, state.key)
        first = np.asarray(episodes.obs[0, :, 0]).reshape(-1, SMALL.group_size)
        np.testing.assert_array_equal(first, np.broadcast_to(first[:, :1], first.shape))
        assert len(set(first[:, 0].tolist())) == len(first)
        second = np.asarray(episodes.obs[1, :, 0])
        assert len(set(second.tolist())) == len(second)
        assert not np.array_equal(jax.random.key_data(state.key), jax.random.key_data(key))
        assert algo.iteration_steps == 32 * 10  # the environment's own limit
        assert metrics["train/env_steps_taken"] == np.sum(episodes.mask) < algo.iteration_steps

    def test_first_ratio_is_one_and_statistics_ignore_the_padding(self):
        config = dataclasses.replace(SMALL, normalize_observations=True)
        algo, state, metrics = train(Walk(), config, iterations=3)
        count = np.sum(metrics["train/env_steps_taken"])
        assert int(state.obs_statistics.count) == count
        assert 0.5 < state.obs_statistics.mean[0] < 2.0
        assert int(state.env_steps) == 3 * algo.iteration_steps

        @jax.jit
        def look(state):
            episodes, _, _ = algo.collect(state.actor, state.key)
            batch = algo.batch(state, episodes)
            return batch, algo.policy.evaluate(state.params, batch.obs, batch.action)

        batch, again = look(state)
        difference = np.where(batch.mask, again.logp - batch.logp, 0.0)
        np.testing.assert_allclose(difference, 0.0, atol=1e-6)

    @pytest.mark.parametrize("every", [None, 2])
    def test_reference_policy(self, every):
        config = dataclasses.replace(SMALL, kl_coefficient=0.1, reference_every=every)
        algo = GRPO(config, Walk())
        states, step = [jax.jit(algo.init)(jax.random.key(0))], jax.jit(algo.step)
        for _ in range(4):
            states.append(step(states[-1])[0])
        # The reference of an update is that of the state after it.
        source = [0, 0, 0, 0] if every is None else [0, 0, 2, 2]
        for after, i in zip(states[1:], source, strict=True):
            jax.tree.map(np.testing.assert_array_equal, after.reference, states[i].params)

    @pytest.mark.parametrize("every", [pytest.param(None, marks=pytest.mark.slow), 2])
    def test_the_reference_keeps_its_own_normalisation(self, every):
        """What it says of an action is what the policy said, when it was the policy."""
        config = dataclasses.replace(
            SMALL, kl_coefficient=0.1, reference_every=every, normalize_observations=True
        )
        algo = GRPO(config, Walk())
        state, step = jax.jit(algo.init)(jax.random.key(0)), jax.jit(algo.step)
        seen = []
        for _ in range(3):
            seen.append(state)
            state = step(state)[0]
        was = seen[0 if every is None else 2]
        assert (np.asarray(state.obs_statistics.mean) != was.obs_statistics.mean).any()

        @jax.jit
        def look(state, was):
            episodes, *_ = algo.collect(state.actor, state.key)
            seen = algo.preprocess(was.obs_statistics, episodes.obs)
            then = algo.policy.distribution(was.params, seen)
            return algo.batch(state, episodes), then.log_prob(episodes.action)

        batch, expected = look(state, was)
        np.testing.assert_allclose(batch.ref_logp, expected, atol=1e-6)

    @pytest.mark.slow  # the same schedule as PPO's
    def test_entropy_bonus_falls_to_zero(self):
        """Half way through its share of the run it weighs half."""
        half = SMALL.total_steps // 2

        def after_a_step(coefficient, fraction):
            config = dataclasses.replace(
                SMALL, entropy_coefficient=coefficient, entropy_fraction=fraction
            )
            algo = GRPO(config, probes.RewardIsAction(continuous=True))
            state = dataclasses.replace(algo.init(jax.random.key(0)), env_steps=jnp.asarray(half))
            return algo.policy.distribution(
                jax.jit(algo.step)(state)[0].params, jnp.zeros(1)
            ).entropy()

        linear = after_a_step(0.4, 1.0)
        np.testing.assert_allclose(linear, after_a_step(0.2, None), rtol=1e-6)
        assert linear > after_a_step(0.0, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 1}, "group_size must be at least 2, got 1"),
        ({"group_size": 5}, "does not divide into groups of group_size = 5"),
        ({"num_minibatches": 3}, "32 episodes do not divide into num_minibatches"),
        ({"micro_batches": 3}, "micro_batches = 6 parts"),
        ({"kl_coefficient": -1.0}, "kl_coefficient must not be negative"),
        ({"entropy_coefficient": -1.0}, "entropy_coefficient must not be negative"),
        ({"clip_low": 0.0}, "clip_low must be positive"),
        ({"reference_every": 0}, "reference_every must be positive"),
        ({"num_epochs": 0}, "num_epochs must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.slow
def test_cartpole():
    config = GRPOConfig(total_steps=3_200_000, num_envs=32, learning_rate=3e-3)
    _, _, metrics = train(envs.make("CartPole-v1"), config, iterations=200)
    assert np.mean(metrics["train/return"][-10:]) >= 400
