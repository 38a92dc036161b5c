import dataclasses

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents.replay import Sample
from agents.td3 import DDPG, TD3, DDPGConfig, TD3Config, TD3OptState, TD3Params
from envs import probes

SMALL = TD3Config(
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
SMALL_DDPG = DDPGConfig(
    **{f.name: getattr(SMALL, f.name) for f in dataclasses.fields(SMALL) if f.name not in
       ("num_critics", "target_noise", "policy_delay")}
)  # fmt: skip
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


def differs(a, b):
    return any((x != y).any() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


BATCH, RATE = 12, 0.1


class Case:
    """A learner with plain gradient steps on random data and networks, and the same data in NumPy."""

    def __init__(self, algo_type, config):
        self.config = config
        self.algo = algo = algo_type(config, Asymmetric())
        algo.actor_optimizer = algo.critic_optimizer = optax.sgd(RATE)
        keys = jax.random.split(jax.random.key(0), 7)
        actor = random_like(jax.jit(algo.networks.actor.init)(keys[0]), 1)
        critics = jax.jit(algo.networks.critic.init_ensemble, static_argnums=1)(
            keys[1], config.num_critics
        )
        self.params = TD3Params(actor, critics, random_like(actor, 2), random_like(critics, 4, 0.2))
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
        self.key = jax.random.key(9)
        self.update = jax.jit(algo.update)
        s = self.np_sample = jax.tree.map(lambda x: np.asarray(x, float), self.sample)
        noise = config.target_noise * np.asarray(jax.random.normal(self.key, (BATCH, 2)), float)
        self.noise = np.clip(noise, -config.target_noise_clip, config.target_noise_clip)
        action = np.tanh(mlp(self.params.target_actor, s.next_obs)) + self.noise
        self.unbounded = action
        self.next_q = critic(self.params.target_critics, s.next_obs, np.clip(action, -1, 1))
        self.target = s.reward + s.discount * self.next_q.min(axis=0)

    def run(self, updates, params=None, sample=None):
        params = self.params if params is None else params
        sample = self.sample if sample is None else sample
        opt_state = TD3OptState(*(self.algo.actor_optimizer.init(p) for p in params[:2]))
        return self.update(params, opt_state, sample, self.key, jnp.asarray(updates, jnp.int32))

    def critic_loss(self, critics):
        q = critic(critics, self.np_sample.obs, self.np_sample.action)
        return np.mean(self.np_sample.weight * ((q - self.target) ** 2).sum(axis=0) / 2)

    def actor_loss(self, actor, critics):
        """By the first critic, after its step."""
        action = np.tanh(mlp(actor, self.np_sample.obs))
        return -np.mean(critic(critics, self.np_sample.obs, action)[0])


# Much noise, so that both cuts are at work.
NOISY = dataclasses.replace(SMALL, policy_delay=3, target_noise=0.6)


@pytest.fixture(scope="module")
def case():
    return Case(TD3, NOISY)


def check_step(case, name, new, loss):
    """The step from the old parameters is the loss's gradient, along random directions."""
    before, after = getattr(case.params, name), getattr(new, name)
    step = jax.tree.map(lambda a, b: (np.asarray(b, float) - np.asarray(a)) / -RATE, before, after)
    for seed in range(3):
        direction = random_like(jax.tree.map(np.zeros_like, before), 10 + seed, 1.0)
        assert dot(step, direction) == pytest.approx(
            slope(loss, before, direction), rel=2e-3, abs=2e-4
        )


class TestUpdate:
    def test_the_case_is_a_hard_one(self, case):
        assert (np.abs(case.noise) == 0.5).any()
        assert (np.abs(case.unbounded) > 1).any()
        assert 0 < (case.next_q[0] < case.next_q[1]).sum() < BATCH

    def test_critics_go_to_the_smoothed_twin_target(self, case):
        new, _, error, metrics = case.run(0)
        q = critic(case.params.critics, case.np_sample.obs, case.np_sample.action)
        np.testing.assert_allclose(
            error, np.abs(q - case.target).mean(axis=0), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(metrics["q"], q.mean(), rtol=1e-4, atol=1e-5)
        loss = case.critic_loss(case.params.critics)
        np.testing.assert_allclose(metrics["loss/critic"], loss, rtol=1e-4)
        check_step(case, "critics", new, case.critic_loss)

    def test_the_actor_climbs_the_first_critic(self, case):
        new, *_ = case.run(2)
        check_step(case, "actor", new, lambda actor: case.actor_loss(actor, new.critics))

    def test_all_but_the_critics_wait(self, case):
        params = case.params
        for updates in range(7):
            new, *_ = case.run(updates, params)
            assert differs(new.critics, params.critics)
            due = updates in (2, 5)  # the third, the sixth
            for name in ("actor", "target_actor", "target_critics"):
                assert differs(getattr(new, name), getattr(params, name)) == due, (updates, name)
            params = new

    def test_targets_follow_slowly(self, case):
        new, *_ = case.run(2)
        old = case.params.target_actor, case.params.target_critics
        jax.tree.map(
            lambda o, n, t: np.testing.assert_allclose(t, 0.98 * o + 0.02 * n, atol=1e-6),
            old,
            (new.actor, new.critics),
            (new.target_actor, new.target_critics),
        )

    def test_what_follows_an_end_does_not_matter(self, case):
        end = case.sample.terminated[:, None]
        wild = case.sample._replace(next_obs=jnp.where(end, jnp.nan, case.sample.next_obs))
        (new, _, error, _), (old, _, old_error, _) = case.run(2, sample=wild), case.run(2)
        np.testing.assert_allclose(error, old_error, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new, old)

    def test_ddpg_is_td3_without_its_additions(self):
        off = dataclasses.replace(SMALL, num_critics=1, target_noise=0.0, policy_delay=1)
        for field in dataclasses.fields(SMALL_DDPG):
            assert getattr(SMALL_DDPG, field.name) == getattr(off, field.name)
        ddpg = Case(DDPG, SMALL_DDPG)
        new, _, error, metrics = ddpg.run(0)
        # Lillicrap et al. 2016, algorithm 1: y = r + gamma Q'(s', mu'(s')).
        s = ddpg.np_sample
        action = np.tanh(mlp(ddpg.params.target_actor, s.next_obs))
        target = s.reward + s.discount * critic(ddpg.params.target_critics, s.next_obs, action)[0]
        np.testing.assert_allclose(ddpg.target, target)
        q = critic(ddpg.params.critics, s.obs, s.action)[0]
        np.testing.assert_allclose(error, np.abs(q - target), rtol=1e-4, atol=1e-6)
        loss = np.mean(s.weight * (q - target) ** 2) / 2
        np.testing.assert_allclose(metrics["loss/critic"], loss, rtol=1e-4)
        check_step(ddpg, "critics", new, ddpg.critic_loss)
        check_step(ddpg, "actor", new, lambda actor: ddpg.actor_loss(actor, new.critics))
        # And bit for bit what TD3 does with these settings.
        td3 = Case(TD3, off)
        jax.tree.map(np.testing.assert_array_equal, td3.run(0), (new, *ddpg.run(0)[1:]))


class TestAct:
    def test_within_asymmetric_bounds(self, case):
        algo = TD3(dataclasses.replace(SMALL, exploration_noise=1.0), Asymmetric())
        state = jax.eval_shape(algo.init, jax.random.key(0)).replace(params=case.params)
        obs = jax.random.normal(jax.random.key(2), (500, 3))
        action = np.asarray(algo.act(state, obs, jax.random.key(3), False))
        assert action.shape == (500, 2)
        assert (action >= LOW - 1e-6).all()
        assert (action <= HIGH + 1e-6).all()
        np.testing.assert_allclose(np.ptp(action, axis=0), HIGH - LOW, rtol=1e-5)

    def test_deterministic_actions_and_the_noise_on_them(self, case):
        state = jax.eval_shape(case.algo.init, jax.random.key(0)).replace(params=case.params)
        obs = jnp.tile(0.1 * jnp.ones((1, 3)), (4000, 1))
        mode = np.asarray(case.algo.act(state, obs, jax.random.key(3), True))
        middle, half = (HIGH + LOW) / 2, (HIGH - LOW) / 2
        mu = np.tanh(mlp(case.params.actor, np.asarray(obs, float)))
        np.testing.assert_allclose(mode, middle + half * mu, rtol=1e-4)
        assert (np.abs(mu) < 0.6).all()  # so that no noise is cut off
        noise = (np.asarray(case.algo.act(state, obs, jax.random.key(3), False)) - mode) / half
        np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=0.01)
        np.testing.assert_allclose(noise.std(axis=0), 0.1, rtol=0.05)


def train(algo, iterations):
    @jax.jit
    def run(key):
        return jax.lax.scan(lambda s, _: (algo.step(s)[0], None), algo.init(key), None, iterations)

    return run(jax.random.key(0))[0]


def values(algo, state, *observations):
    """Of the greedy action."""
    obs = jnp.asarray(observations, jnp.float32)[:, None]
    low, high = algo.env.action_space.low, algo.env.action_space.high
    action = 2 * (algo.act(state, obs, jax.random.key(0), True) - low) / (high - low) - 1
    return np.asarray(algo.networks.critic.ensemble(state.params.critics, obs, action))


class TestProbes:
    """Each finds the known answer. What a failure would point at stands in envs/probes.py."""

    @pytest.mark.parametrize(
        ("algo_type", "config"),
        [(TD3, SMALL), pytest.param(DDPG, SMALL_DDPG, marks=pytest.mark.slow)],
    )
    def test_continuous_action(self, algo_type, config):
        algo = algo_type(config, probes.RewardIsAction(continuous=True))
        state = train(algo, 12)
        action = algo.act(state, jnp.zeros((1, 1)), jax.random.key(0), True)
        np.testing.assert_allclose(action, 0.5, atol=0.1)
        assert state.env_steps == 64 + 12 * 256
        assert state.updates == 12 * 64

    def test_truncation_bootstraps_from_the_true_final_observation(self):
        algo = TD3(SMALL, TruncationOnly())
        state = train(algo, 20)
        np.testing.assert_allclose(values(algo, state, 1.0, 0.0), [[1.0, 2.0]] * 2, atol=0.1)

    @pytest.mark.slow
    def test_delayed_reward(self):
        algo = TD3(SMALL, DelayedReward())
        state = train(algo, 12)
        np.testing.assert_allclose(values(algo, state, 0.0, 1.0), [[0.5, 1.0]] * 2, atol=0.1)


@pytest.mark.parametrize("correlation", [pytest.param(0.0, marks=pytest.mark.slow), 0.95])
@pytest.mark.slow
def test_noise_lasts_as_long_as_asked(correlation):
    """By the actions in the buffer, of a policy that stands still."""
    config = dataclasses.replace(SMALL, noise_correlation=correlation, learning_rate=1e-12)
    env = probes.RewardIsAction(continuous=True)
    state = train(TD3(config, env), 3)
    action = np.asarray(state.buffer.storage.action)[16 : 16 + 3 * 64, :, 0]  # after the warm-up
    action = action - action.mean()
    found = (action[1:] * action[:-1]).mean() / (action**2).mean()
    assert found == pytest.approx(correlation, abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_critics": 0}, "num_critics must be at least 1"),
        ({"policy_delay": 0}, "policy_delay must be at least 1"),
        ({"exploration_noise": -0.1}, "exploration_noise must not be negative"),
        ({"noise_correlation": 1.0}, "noise_correlation must be at least 0 and below 1, got 1.0"),
        ({"target_noise": -0.1}, "target_noise must not be negative"),
        ({"target_noise_clip": -0.1}, "target_noise_clip must not be negative"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_spaces_it_cannot_handle_are_refused():
    with pytest.raises(ValueError, match="TD3 needs Box actions, got Discrete"):
        TD3(SMALL, probes.RewardIsAction())

    class Unbounded(probes.ConstantReward):
        action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    with pytest.raises(ValueError, match="DDPG needs bounded actions"):
        DDPG(SMALL_DDPG, Unbounded())
