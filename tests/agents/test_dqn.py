import dataclasses

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents.core import value_losses
from agents.dqn import DQN, DQNConfig, DQNParams
from agents.replay import Sample
from envs import probes

SMALL = DQNConfig(
    total_steps=3000,
    num_envs=4,
    update_ratio=0.25,
    warmup_steps=64,
    normalize_observations=False,
    buffer_size=2000,
    batch_size=64,
    learning_rate=3e-3,
    learning_rate_schedule="constant",
    gamma=0.5,
    tau=0.02,
    hidden_sizes=(16,),
    target_period=10,
    max_grad_norm=None,
)
LOW, HIGH = np.array([-3.0, 0.1], np.float32), np.array([1.0, 0.7], np.float32)


@flax.struct.dataclass
class Joints(probes.ConstantReward):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Box(LOW, HIGH)

    def initial(self, key):
        return jnp.zeros(3), jnp.zeros((), jnp.int32)


@flax.struct.dataclass
class Buttons(Joints):
    action_space = gymnasium.spaces.Discrete(4)


def q_values(params, obs, shape):
    """The network in NumPy, one hidden layer; normalised and duelling if there are parameters for it."""

    def layer(state):
        return {k: np.asarray(v[...], float) for k, v in state.items()}

    hidden, head = layer(params["hidden"][0]), layer(params["head"])
    x = obs @ hidden["kernel"] + hidden["bias"]
    if "norms" in params:
        norm = layer(params["norms"][0])
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = norm["scale"] * x + norm["bias"]
    x = np.maximum(x, 0.0)
    out = (x @ head["kernel"] + head["bias"]).reshape(-1, *shape)
    if "value" not in params:
        return out
    value = layer(params["value"])
    state_value = x @ value["kernel"] + value["bias"]
    return state_value[..., None] + out - out.mean(axis=-1, keepdims=True)


def of(q, choice):
    """The mean over joints [B] of the values q [B, D, K] of the choice [B, D]."""
    return np.mean([q[:, d][np.arange(len(q)), choice[:, d]] for d in range(q.shape[1])], axis=0)


def random_like(tree, seed, scale=0.5):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: p + np.float32(scale) * rng.normal(size=p.shape).astype("f"), tree
    )


BATCH, RATE = 12, 0.1


class Case:
    def __init__(self, env, **changes):
        self.config = dataclasses.replace(SMALL, **changes)
        self.algo = algo = DQN(self.config, env)
        algo.optimizer = optax.sgd(RATE)
        keys = jax.random.split(jax.random.key(0), 7)
        online = random_like(jax.jit(algo.network.init)(keys[0]), 0)
        self.params = DQNParams(online, random_like(online, 1))
        self.choice = algo.choices.random(keys[1], BATCH)
        terminated = jnp.arange(BATCH) % 4 == 0
        self.sample = Sample(
            obs=jax.random.normal(keys[2], (BATCH, 3)),
            action=algo.choices.action(self.choice),
            reward=jax.random.normal(keys[3], (BATCH,)),
            # As for samples of up to three steps.
            discount=jnp.where(terminated, 0.0, 0.9 ** (1 + jnp.arange(BATCH) % 3)),
            terminated=terminated,
            next_obs=jax.random.normal(keys[4], (BATCH, 3)),
            index=jnp.arange(BATCH, dtype=jnp.int32),
            weight=jax.random.uniform(keys[5], (BATCH,)),
        )
        self.update = jax.jit(algo.update)
        s = self.np_sample = jax.tree.map(lambda x: np.asarray(x, float), self.sample)
        shape = algo.choices.coordinates, algo.choices.values
        next_online, next_target = (q_values(p, s.next_obs, shape) for p in self.params)
        self.differ = (next_online.argmax(-1) != next_target.argmax(-1)).any()
        chooser = next_online if self.config.double else next_target
        self.target = s.reward + s.discount * of(next_target, chooser.argmax(-1))
        self.q = of(q_values(self.params.online, s.obs, shape), np.asarray(self.choice))

        def loss(online):
            error = np.abs(
                of(q_values(online, s.obs, shape), np.asarray(self.choice)) - self.target
            )
            huber = np.where(error < 1, error**2 / 2, error - 0.5)
            return np.mean(s.weight * (huber if self.config.loss == "huber" else error**2 / 2))

        self.loss = loss

    def run(self, updates=0, params=None, sample=None):
        params = self.params if params is None else params
        opt_state = self.algo.optimizer.init(params.online)
        sample = self.sample if sample is None else sample
        updates = jnp.asarray(updates, jnp.int32)
        return self.update(params, opt_state, sample, jax.random.key(0), updates)


@pytest.fixture(scope="module")
def case():
    return Case(Buttons())


class TestUpdate:
    def check(self, case):
        assert case.differ  # or the two forms of target would be one
        error = np.abs(case.q - case.target)
        assert (error > 1).any()  # Huber's two parts
        assert (error < 1).any()
        new, _, got, metrics = case.run()
        np.testing.assert_allclose(got, error, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(metrics["loss/q"], case.loss(case.params.online), rtol=1e-4)
        np.testing.assert_allclose(metrics["q"], case.q.mean(), rtol=1e-4, atol=1e-5)
        self.check_gradient(case, new.online)

    def check_gradient(self, case, online):
        before, h = case.params.online, 1e-5
        step = jax.tree.map(
            lambda a, b: (np.asarray(b, float) - np.asarray(a)) / -RATE, before, online
        )
        for seed in range(3):
            direction = random_like(jax.tree.map(np.zeros_like, before), 10 + seed, 1.0)
            up, down = (
                case.loss(jax.tree.map(lambda p, d: np.asarray(p, float) + d, before, scaled))
                for scaled in (jax.tree.map(lambda d: s * h * d, direction) for s in (1, -1))  # noqa: B023
            )
            product = jax.tree.map(np.vdot, step, direction)
            expected = (up - down) / (2 * h)
            assert sum(jax.tree.leaves(product)) == pytest.approx(expected, rel=2e-3, abs=2e-4)

    def test_double(self, case):
        self.check(case)

    def test_huber(self):
        self.check(Case(Buttons(), loss="huber"))

    def test_plain(self, case):
        plain = Case(Buttons(), double=False)
        self.check(plain)
        assert np.abs(plain.target - case.target).max() > 0.1

    @pytest.mark.parametrize("layer_norm", [False, True])
    def test_joints_and_duelling(self, layer_norm):
        self.check(Case(Joints(), dueling=True, layer_norm=layer_norm, bins=4))

    def test_the_target_is_copied_every_so_many_steps(self, case):
        params = case.params
        for updates in range(8, 31):
            new, *_ = case.run(updates, params)
            expected = new.online if updates in (9, 19, 29) else params.target  # the tenth, ...
            jax.tree.map(np.testing.assert_array_equal, new.target, expected)
            params = new

    def test_or_follows_slowly(self):
        soft = Case(Buttons(), target_update="soft")
        new, *_ = soft.run(9)
        jax.tree.map(
            lambda o, n, t: np.testing.assert_allclose(t, 0.98 * o + 0.02 * n, atol=1e-6),
            soft.params.target,
            new.online,
            new.target,
        )

    def test_what_follows_an_end_does_not_matter(self, case):
        end = case.sample.terminated[:, None]
        wild = case.sample._replace(next_obs=jnp.where(end, jnp.nan, case.sample.next_obs))
        (new, _, error, _), (old, _, old_error, _) = case.run(sample=wild), case.run()
        np.testing.assert_allclose(error, old_error, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new, old)


def test_in_one_coordinate_the_target_is_cores_double_q_target(case):
    online, target = (case.algo.network.module(p)(case.sample.next_obs) for p in case.params)
    s = case.sample
    expected = value_losses.double_q_target(
        s.reward, online[:, 0], target[:, 0], s.terminated, s.discount
    )
    np.testing.assert_allclose(case.target, expected, rtol=1e-4, atol=1e-5)


class TestExploration:
    def test_epsilon_falls_linearly_and_stays(self, case):
        # From 1 to 0.05 within a quarter of 3000 steps.
        epsilon = [case.algo.epsilon(jnp.asarray(t)) for t in (0, 375, 750, 3000)]
        np.testing.assert_allclose(epsilon, [1.0, 0.525, 0.05, 0.05], rtol=1e-5)

    def test_the_choices_follow_it(self, case):
        state = jax.eval_shape(case.algo.init, jax.random.key(0)).replace(params=case.params)
        obs = jnp.ones((4000, 3))
        best = np.asarray(case.algo.act(state, obs, jax.random.key(1), True))
        q = q_values(case.params.online, np.ones((1, 3)), (1, 4))
        np.testing.assert_array_equal(best, q.argmax())
        for env_steps, share in ((0, 0.25), (375, 0.475 + 0.525 / 4), (3000, 0.95 + 0.05 / 4)):
            now = state.replace(env_steps=jnp.asarray(env_steps))
            action = case.algo.act(now, obs, jax.random.key(1), False)
            assert np.mean(action == best) == pytest.approx(share, abs=0.03)

    def test_joints_stay_within_their_bounds(self):
        algo = DQN(SMALL, Joints())
        params = jax.jit(algo.network.init)(jax.random.key(0))
        state = jax.eval_shape(algo.init, jax.random.key(0))
        state = state.replace(params=DQNParams(params, params), env_steps=jnp.zeros((), jnp.int32))
        action = np.asarray(algo.act(state, jnp.ones((300, 3)), jax.random.key(1), False))
        np.testing.assert_allclose(action.min(axis=0), LOW, rtol=1e-6)
        np.testing.assert_allclose(action.max(axis=0), HIGH, rtol=1e-6)

    def test_the_warm_up_tries_what_the_network_can_choose(self):
        """And nothing between, for which a neighbour would get the credit."""
        algo = DQN(dataclasses.replace(SMALL, bins=5, warmup_steps=400), Joints())
        state = jax.jit(algo.init)(jax.random.key(0))
        action = np.asarray(state.buffer.storage.action[:100]).reshape(-1, 2)
        choice = algo.choices.choice(jnp.asarray(action))
        np.testing.assert_allclose(action, algo.choices.action(choice), atol=1e-6)
        counts = [np.bincount(joint, minlength=5) for joint in np.asarray(choice).T]
        assert np.min(counts) > 50  # of 80; rounded from uniform actions, the ends would have 50
        assert np.max(counts) < 110

    def test_warm_up_on_a_discrete_space_is_that_of_every_learner(self):
        algo, key = DQN(SMALL, Buttons()), jax.random.key(5)
        state = jax.eval_shape(algo.init, key)
        np.testing.assert_array_equal(
            algo.random_choices(state, None, key), algo.random_actions(state, None, key)
        )


def train(algo, iterations):
    @jax.jit
    def run(key):
        return jax.lax.scan(lambda s, _: algo.step(s), algo.init(key), None, iterations)

    return run(jax.random.key(0))


def values(algo, state, *observations):
    """Of the best action."""
    obs = jnp.asarray(observations, jnp.float32)[:, None]
    q = algo.network.module(state.params.online)(algo.preprocess(state, obs))
    return np.asarray(q).max(axis=-1).mean(axis=-1)


class TestProbes:
    """Each finds the known answer. What a failure would point at stands in envs/probes.py."""

    @pytest.mark.slow
    def test_continuous_action(self):
        config = dataclasses.replace(SMALL, bins=5)  # -1, -0.5, 0, 0.5, 1
        algo = DQN(config, probes.RewardIsAction(continuous=True))
        state, metrics = train(algo, 12)
        np.testing.assert_allclose(
            algo.act(state, jnp.zeros((1, 1)), jax.random.key(0), True), [[0.5]], atol=1e-6
        )
        assert state.env_steps == 64 + 12 * 256
        assert state.updates == 12 * 64
        steps = 64 + 256 * np.arange(1, 13)
        np.testing.assert_allclose(
            metrics["epsilon"], 1 - 0.95 * np.minimum(steps / 750, 1), rtol=1e-5
        )

    def test_truncation_bootstraps_from_the_true_final_observation(self):
        algo = DQN(dataclasses.replace(SMALL, normalize_observations=True), probes.TruncationOnly())
        state, _ = train(algo, 20)
        np.testing.assert_allclose(values(algo, state, 1.0, 0.0), [1.0, 2.0], atol=0.1)

    @pytest.mark.slow
    def test_delayed_reward_by_three_steps_duelling_and_priority(self):
        config = dataclasses.replace(SMALL, n_step=3, dueling=True, prioritized=True)
        algo = DQN(config, probes.DelayedReward())
        state, _ = train(algo, 12)
        np.testing.assert_allclose(values(algo, state, 0.0, 1.0), [0.5, 1.0], atol=0.1)
        tree = np.asarray(state.buffer.priorities.tree)
        leaves = tree[len(tree) // 2 :][:2000].reshape(500, 4)
        head = int(state.buffer.head)
        last = [(head - 1) % 500, (head - 2) % 500]  # not followed by two more rows yet
        np.testing.assert_array_equal(leaves[last], 0.0)
        drawable = np.delete(leaves, last, axis=0)
        assert (drawable > 0).all()
        assert np.mean(drawable < 0.1) > 0.9  # they started as one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon_end": 1.5}, "epsilon_end must be between 0 and 1"),
        ({"epsilon_fraction": -0.1}, "epsilon_fraction must be between 0 and 1"),
        ({"priority_beta": 2.0}, "priority_beta must be between 0 and 1"),
        ({"target_period": 0}, "target_period must be at least 1"),
        ({"bins": 1}, "bins must be at least 2"),
        ({"bin_span": 0.0}, "bin_span must be above 0 and at most 1"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_spaces_it_cannot_handle_are_refused():
    class Unbounded(probes.ConstantReward):
        action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    with pytest.raises(ValueError, match="DQN needs bounded actions"):
        DQN(SMALL, Unbounded())
