import dataclasses

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents.networks import SquashedActor
from agents.replay import Sample
from agents.sac import SAC, SACConfig, SACOptState, SACParams
from envs import probes

SMALL = SACConfig(
    total_steps=3000,
    num_envs=4,
    update_ratio=0.25,
    warmup_steps=64,
    buffer_size=2000,
    batch_size=64,
    learning_rate=3e-3,
    gamma=0.5,
    tau=0.02,
    hidden_sizes=(16,),
)
BOX = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
LOW, HIGH = np.array([-3.0, 0.1], np.float32), np.array([1.0, 0.7], np.float32)


@flax.struct.dataclass
class Asymmetric(probes.ConstantReward):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Box(LOW, HIGH)

    def initial(self, key):
        return jnp.zeros(3), jnp.zeros((), jnp.int32)


@flax.struct.dataclass
class TruncationOnly(probes.TruncationOnly):
    action_space = BOX


@flax.struct.dataclass
class DelayedReward(probes.DelayedReward):
    action_space = BOX


def mlp(params, x):
    """The network in NumPy; one hidden layer of rectified linear units."""
    bias0, kernel0, bias1, kernel1 = (np.asarray(p, float) for p in jax.tree.leaves(params))
    return np.maximum(x @ kernel0 + bias0, 0.0) @ kernel1 + bias1


def critic(params, obs, action):
    """[K, B]."""
    x = np.concatenate([obs, action], axis=-1)
    size = jax.tree.leaves(params)[0].shape[0]
    return np.stack([mlp([p[i] for p in jax.tree.leaves(params)], x)[:, 0] for i in range(size)])


def actor_sample(params, obs, noise):
    """Action and log-density by the change of variables: N(x) / |da/dx|, a = tanh x."""
    mean, spread = np.split(mlp(params, obs), 2, axis=-1)
    low, high = SquashedActor.LOG_STD_RANGE
    log_std = low + 0.5 * (high - low) * (np.tanh(spread) + 1.0)
    x = mean + np.exp(log_std) * noise
    action = np.tanh(x)
    logp = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - action**2)
    return action, logp.sum(axis=-1)


def random_like(tree, seed, scale=0.3):
    """`tree` with noise added."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: p + np.float32(scale) * rng.normal(size=p.shape).astype("f"), tree
    )


def slope(loss, params, direction, h=1e-5):
    """d loss(params + h direction) / dh, by differences in double precision."""

    def moved(h):
        return jax.tree.map(lambda p, d: np.asarray(p, float) + h * d, params, direction)

    return (loss(moved(h)) - loss(moved(-h))) / (2 * h)


def dot(a, b):
    return sum(
        float(np.vdot(x, y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


BATCH, ALPHA, RATE = 12, 0.3, 0.1


class Case:
    """One update on random data and networks, with plain gradient steps; and the same data in NumPy."""

    def __init__(self):
        self.algo = SAC(dataclasses.replace(SMALL, initial_alpha=ALPHA), Asymmetric())
        self.algo.optimizer = optax.sgd(RATE)
        keys = jax.random.split(jax.random.key(0), 8)
        critics = jax.jit(self.algo.networks.critic.init_ensemble, static_argnums=1)(keys[0], 2)
        self.params = SACParams(
            random_like(jax.jit(self.algo.networks.actor.init)(keys[1]), 1),
            critics,
            random_like(critics, 2),
            jnp.log(jnp.float32(ALPHA)),
        )
        terminated = jnp.arange(BATCH) % 4 == 0
        self.sample = Sample(
            obs=jax.random.normal(keys[2], (BATCH, 3)),
            action=jax.random.uniform(keys[3], (BATCH, 2), minval=-1.0, maxval=1.0),
            reward=jax.random.normal(keys[4], (BATCH,)),
            # As for samples of up to three steps.
            discount=jnp.where(terminated, 0.0, 0.9 ** (1 + jnp.arange(BATCH) % 3)),
            terminated=terminated,
            next_obs=jax.random.normal(keys[5], (BATCH, 3)),
            index=jnp.arange(BATCH, dtype=jnp.int32),
            weight=jax.random.uniform(keys[6], (BATCH,)),
        )
        self.key = keys[7]
        next_key, now_key = jax.random.split(self.key)
        self.next_noise = np.asarray(jax.random.normal(next_key, (BATCH, 2)), float)
        self.now_noise = np.asarray(jax.random.normal(now_key, (BATCH, 2)), float)
        self.update = jax.jit(self.algo.update)
        self.new, _, self.error, self.metrics = self.run(self.sample)

        s = self.np_sample = jax.tree.map(lambda x: np.asarray(x, float), self.sample)
        action, logp = actor_sample(self.params.actor, s.next_obs, self.next_noise)
        twins = critic(self.params.targets, s.next_obs, action)
        assert (
            0 < (twins[0] < twins[1]).sum() < BATCH
        )  # each of the twins is the smaller one somewhere
        self.target = s.reward + s.discount * (twins.min(axis=0) - ALPHA * logp)

    def run(self, sample):
        opt_state = SACOptState(
            *(self.algo.optimizer.init(p) for p in (*self.params[:2], self.params.log_alpha))
        )
        return self.update(self.params, opt_state, sample, self.key, jnp.zeros((), jnp.int32))

    def critic_loss(self, critics):
        q = critic(critics, self.np_sample.obs, self.np_sample.action)
        return np.mean(self.np_sample.weight * ((q - self.target) ** 2).sum(axis=0) / 2)

    def actor_loss(self, actor):
        """Against the critics after their step."""
        action, logp = actor_sample(actor, self.np_sample.obs, self.now_noise)
        q = critic(self.new.critics, self.np_sample.obs, action)
        return np.mean(ALPHA * logp - q.min(axis=0))


@pytest.fixture(scope="module")
def case():
    return Case()


class TestUpdate:
    def test_critic_loss_and_errors(self, case):
        q = critic(case.params.critics, case.np_sample.obs, case.np_sample.action)
        loss = case.critic_loss(case.params.critics)
        np.testing.assert_allclose(case.metrics["loss/critic"], loss, rtol=1e-4)
        np.testing.assert_allclose(case.metrics["q"], q.mean(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(case.error, np.abs(q - case.target).mean(axis=0), rtol=1e-4)

    def test_actor_loss_and_entropy(self, case):
        _, logp = actor_sample(case.params.actor, case.np_sample.obs, case.now_noise)
        np.testing.assert_allclose(case.metrics["entropy"], -logp.mean(), rtol=1e-4)
        loss = case.actor_loss(case.params.actor)
        np.testing.assert_allclose(case.metrics["loss/actor"], loss, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("name", ["critic", "actor"])
    def test_steps_go_down_the_loss(self, case, name):
        field = {"critic": "critics", "actor": "actor"}[name]
        before, after = (getattr(p, field) for p in (case.params, case.new))
        step = jax.tree.map(
            lambda a, b: (np.asarray(b, float) - np.asarray(a)) / -RATE, before, after
        )
        loss = getattr(case, f"{name}_loss")
        for seed in range(3):
            direction = random_like(jax.tree.map(np.zeros_like, before), 10 + seed, 1.0)
            expected = slope(loss, before, direction)
            assert dot(step, direction) == pytest.approx(expected, rel=2e-3, abs=2e-4)

    def test_temperature_goes_down_its_loss(self, case):
        # d/d log alpha of -alpha (log pi + H), H minus the number of actions.
        gradient = -ALPHA * (-float(case.metrics["entropy"]) - 2.0)
        step = (case.new.log_alpha - case.params.log_alpha) / -RATE
        assert step == pytest.approx(gradient, rel=1e-4)
        assert case.metrics["alpha"] == pytest.approx(ALPHA)

    def test_targets_follow_slowly(self, case):
        jax.tree.map(
            lambda old, online, new: np.testing.assert_allclose(
                new, 0.98 * old + 0.02 * online, atol=1e-6
            ),
            case.params.targets,
            case.new.critics,
            case.new.targets,
        )

    def test_what_follows_an_end_does_not_matter(self, case):
        end = case.sample.terminated[:, None]
        wild = case.sample._replace(next_obs=jnp.where(end, jnp.nan, case.sample.next_obs))
        new, _, error, _ = case.run(wild)
        np.testing.assert_allclose(error, case.error, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new, case.new)


@pytest.mark.slow
def test_a_fixed_temperature_is_the_one_that_was_asked_for():
    """Also 0, whose logarithm would be no number; and whatever the parameters say."""
    case = Case()
    for alpha in (0.0, ALPHA):
        case.algo = SAC(dataclasses.replace(SMALL, alpha=alpha), Asymmetric())
        case.algo.optimizer = optax.sgd(RATE)
        start = jax.jit(case.algo.init)(jax.random.key(0))
        assert start.params.log_alpha == 0.0
        case.update = jax.jit(case.algo.update)
        case.params = case.params._replace(log_alpha=start.params.log_alpha)
        new, _, _, metrics = case.run(case.sample)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(new))
        assert new.log_alpha == 0.0
        assert metrics["alpha"] == np.float32(alpha)
    # At the same temperature networks learn the same, be it fixed or adapted.
    for name in ("actor", "critics"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            getattr(new, name),
            getattr(case.new, name),
        )


class TestPolicy:
    def test_log_prob_is_that_of_a_density_on_the_open_interval(self):
        """What the actor says of its samples, against the integral of that density and its distribution function."""
        algo = SAC(SMALL, probes.RewardIsAction(continuous=True))
        params = random_like(jax.jit(algo.networks.actor.init)(jax.random.key(0)), 3, 0.7)
        dist = algo.networks.actor.module(params)(jnp.ones((20_000, 1)))
        sample, logp = dist.sample_and_log_prob(jax.random.key(1))
        order = np.argsort(np.asarray(sample)[:, 0])
        a, density = np.asarray(sample, float)[order, 0], np.exp(np.asarray(logp, float)[order])
        # Between the extreme samples is nearly everything, and the area up to each is the share of samples below it.
        area = np.concatenate([[0], np.cumsum(np.diff(a) * (density[1:] + density[:-1]) / 2)])
        assert area[-1] == pytest.approx(1.0, abs=2e-3)
        np.testing.assert_allclose(area, np.arange(20_000) / 20_000, atol=0.02)

    def test_actions_are_within_asymmetric_bounds(self, case):
        algo = case.algo
        params = jax.tree.map(lambda p: 30.0 * p, case.params.actor)
        state = jax.eval_shape(algo.init, jax.random.key(0)).replace(
            params=case.params._replace(actor=params)
        )
        obs = jax.random.normal(jax.random.key(2), (500, 3))
        for deterministic in (False, True):
            action = np.asarray(algo.act(state, obs, jax.random.key(3), deterministic))
            assert action.shape == (500, 2)
            assert (action >= LOW).all()
            assert (action <= HIGH).all()
            assert (np.ptp(action, axis=0) > 0.9 * (HIGH - LOW)).all()


def train(env, config, iterations):
    algo = SAC(config, env)

    @jax.jit
    def run(key):
        return jax.lax.scan(lambda s, _: algo.step(s), algo.init(key), None, iterations)

    state, metrics = run(jax.random.key(0))
    return algo, state, metrics


def values(algo, state, *observations):
    """Of the greedy action."""
    obs = jnp.asarray(observations, jnp.float32)[:, None]
    low, high = algo.env.action_space.low, algo.env.action_space.high
    action = 2 * (algo.act(state, obs, jax.random.key(0), True) - low) / (high - low) - 1
    return np.asarray(algo.networks.critic.ensemble(state.params.critics, obs, action))


class TestProbes:
    """Each finds the known answer. What a failure would point at stands in envs/probes.py."""

    @pytest.mark.slow
    def test_continuous_action(self):
        algo, state, metrics = train(probes.RewardIsAction(continuous=True), SMALL, 12)
        action = algo.act(state, jnp.zeros((1, 1)), jax.random.key(0), True)
        np.testing.assert_allclose(action, 0.5, atol=0.1)
        assert state.env_steps == 64 + 12 * 256
        assert state.updates == 12 * 64
        # It started at 1; the entropy is above its target of -1, so that the temperature falls.
        assert metrics["alpha"][-1] < 0.5

    # Without an entropy bonus values are those of the rewards.
    def test_truncation_bootstraps_from_the_true_final_observation(self):
        config = dataclasses.replace(SMALL, alpha=0.0)
        algo, state, metrics = train(TruncationOnly(), config, 20)
        np.testing.assert_allclose(values(algo, state, 1.0, 0.0), [[1.0, 2.0]] * 2, atol=0.1)
        np.testing.assert_array_equal(metrics["alpha"], 0.0)

    @pytest.mark.slow
    def test_delayed_reward(self):
        config = dataclasses.replace(SMALL, alpha=0.0)
        algo, state, _ = train(DelayedReward(), config, 12)
        np.testing.assert_allclose(values(algo, state, 0.0, 1.0), [[0.5, 1.0]] * 2, atol=0.1)


@pytest.mark.parametrize("correlation", [pytest.param(0.0, marks=pytest.mark.slow), 0.95])
@pytest.mark.slow
def test_noise_lasts_as_long_as_asked(correlation):
    """By the actions in the buffer, of a policy that stands still."""
    config = dataclasses.replace(SMALL, noise_correlation=correlation, learning_rate=1e-12)
    env = probes.RewardIsAction(continuous=True)
    state = train(env, config, 3)[1]
    action = np.asarray(state.buffer.storage.action)[16 : 16 + 3 * 64, :, 0]  # after the warm-up
    action = action - action.mean()
    found = (action[1:] * action[:-1]).mean() / (action**2).mean()
    assert found == pytest.approx(correlation, abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"alpha": -1.0}, "alpha must not be negative"), ({"initial_alpha": 0.0}, "initial_alpha must be positive")],
)  # fmt: skip
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_spaces_it_cannot_handle_are_refused():
    with pytest.raises(ValueError, match="SAC needs Box actions, got Discrete"):
        SAC(SMALL, probes.RewardIsAction())

    class Unbounded(probes.ConstantReward):
        action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    with pytest.raises(ValueError, match="SAC needs bounded actions"):
        SAC(SMALL, Unbounded())


def test_the_target_entropy_can_be_chosen():
    env = Asymmetric()
    assert SAC(SMALL, env).target_entropy == -2.0
    assert SAC(dataclasses.replace(SMALL, target_entropy=-0.5), env).target_entropy == -0.5
