import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents.pref_ppo import (
    PrefPPO,
    PrefPPOConfig,
    correlation,
    discounted_so_far,
    label_counts,
)
from envs import probes

SMALL = PrefPPOConfig(
    total_steps=1024,
    num_envs=8,
    num_steps=8,
    num_epochs=2,
    num_minibatches=2,
    learning_rate=0.02,
    gamma=0.5,
    hidden_sizes=(8,),
    warmup_steps=64,
    segment_length=3,
    num_pairs=48,
    label_decay_steps=512.0,
    reward_hidden_sizes=(8,),
    reward_learning_rate=0.01,
    reward_batch=16,
    initial_reward_updates=20,
)


@flax.struct.dataclass
class Paid(probes.RewardIsAction):
    """Its reward is multiplied and shifted, which changes no preference where all episodes are equally long."""

    factor: float = 1.0
    shift: float = 0.0

    def reward(self, state, action, next_state):
        return self.factor * super().reward(state, action, next_state) + self.shift


@pytest.fixture(scope="module")
def run():
    """(environment) to the states and metrics of the whole run; compiled once, for the coefficients are leaves."""
    iterations = (SMALL.total_steps - 64) // 64

    @jax.jit
    def whole(env):
        algo = PrefPPO(SMALL, env)
        start = algo.init(jax.random.key(0))
        return jax.lax.scan(lambda s, _: algo.step(s), start, None, iterations)

    return whole


@pytest.mark.slow
def test_learns_what_is_preferred(run):
    _, metrics = run(Paid())
    assert metrics["train/return"][0] < 0.5
    assert metrics["train/return"][-1] > 0.9
    assert metrics["preferences/accuracy"][-1] > 0.95
    assert metrics["preferences/correlation"][:3].min() > 0.9


@pytest.mark.slow
def test_the_reward_itself_is_never_seen(run):
    """Two rewards that prefer the same segments train the same networks, bit for bit."""
    (one, metrics), (other, others) = run(Paid()), run(Paid(factor=100.0, shift=-7.0))
    for a, b in zip(
        *map(jax.tree.leaves, ((one.params, one.reward), (other.params, other.reward))), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert metrics["train/return"][-1] != others["train/return"][-1]


def test_pairs_are_compared_by_the_schedule(run):
    state, metrics = run(Paid())
    pairs = metrics["preferences/pairs"]
    assert pairs[-1] == state.store.filled == 48
    asked = np.diff(pairs, prepend=12)
    assert asked[0] > asked[-1]
    np.testing.assert_array_equal(pairs, label_counts(48, 12, 512.0, 64, 15)[1:])


def test_label_counts_fall_as_the_paper_has_it():
    counts = label_counts(2000, 500, 2e6, 8192, 977)
    assert counts[0] == 500
    assert counts[-1] == 2000
    rate = np.diff(counts[::50]).astype(float)
    assert rate[0] / rate[-1] == pytest.approx((2e6 + 950 * 8192 - 4e5) / 2e6, rel=0.1)


def test_discounted_returns_go_on_over_rollouts_and_restart_with_episodes():
    reward = jnp.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    done = jnp.array([[False, True], [False, False], [False, True]])
    after, so_far = discounted_so_far(jnp.array([4.0, 4.0]), reward, done, 0.5)
    np.testing.assert_allclose(so_far, [[3.0, 3.0], [3.5, 2.0], [4.75, 4.0]])
    np.testing.assert_allclose(after, [4.75, 0.0])


def test_correlation():
    x = jnp.array([1.0, 2.0, 4.0])
    assert correlation(x, 3.0 * x - 1.0) == pytest.approx(1.0)
    assert correlation(x, -x) == pytest.approx(-1.0)
    assert correlation(x, jnp.ones(3)) == 0.0


def test_ones_own_comparer_takes_the_place_of_the_true_return():
    """Here it likes action 0, whatever is earned."""

    def likes_zero(first, second, key):
        zeros = [jnp.sum(jnp.where(x.mask, x.action[..., 0], 0.0), axis=1) for x in (first, second)]
        return jnp.where(zeros[0] == zeros[1], 0.5, (zeros[0] > zeros[1]).astype(jnp.float32))

    algo = PrefPPO(SMALL, probes.RewardIsAction(), compare=likes_zero)
    state = jax.jit(algo.init)(jax.random.key(0))
    actions = jnp.eye(2)
    obs = jnp.zeros((2, 1))
    rewards = algo.reward_model.members(state.reward, obs, actions, obs)
    assert (rewards[:, 0] > rewards[:, 1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_pairs": 0}, "num_pairs must be at least 1, got 0"),
        ({"label_flips": 0.5}, "label_flips must be at least 0 and below 0.5, got 0.5"),
        ({"initial_share": 1.5}, "initial_share must be between 0 and 1, got 1.5"),
        (
            {"num_pairs": 400},
            "the 100 pairs before training need 200 segments, and warmup_steps = 64 give 48: raise warmup_steps, or "
            "lower num_pairs or initial_share",
        ),
        (
            {"num_pairs": 2000, "initial_share": 0.01},
            "num_pairs = 2000 asks for .* pairs in one iteration, and 64 steps make 32: lower num_pairs, or raise "
            "total_steps or num_steps",
        ),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        PrefPPO(dataclasses.replace(SMALL, **change), probes.TruncationOnly())


@pytest.mark.slow
def test_balances_a_pole_without_seeing_the_reward():
    """Where every step earns the same, all that can be preferred is not to fall."""
    config = PrefPPOConfig(
        total_steps=150_000,
        num_steps=256,
        num_epochs=10,
        num_minibatches=32,
        learning_rate=1e-3,
        num_pairs=400,
        segment_length=25,
        reward_updates=32,
    )
    algo = PrefPPO(config, envs.make("CartPole-v1"))
    iterations = (150_000 - algo.warmup_steps) // algo.iteration_steps
    _, metrics = jax.jit(
        lambda k: jax.lax.scan(lambda s, _: algo.step(s), algo.init(k), None, iterations)
    )(jax.random.key(0))
    assert metrics["train/return"][-3:].mean() > 300
