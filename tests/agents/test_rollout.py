import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from agents import rollout
from envs import base, probes


@flax.struct.dataclass
class Counter(probes.DelayedReward):
    """Observation t, reward t + 1; ends after 3 steps, or is cut after `max_episode_steps`."""

    ends: bool = flax.struct.field(pytree_node=False, default=True)

    def transition(self, state, action, key):
        return state[0] + 1, state[1] + 1

    def reward(self, state, action, next_state):
        return next_state[0][0]

    def terminal(self, state):
        return (state[1] >= 3) & self.ends


def collect(env, num_envs=2, num_steps=7):
    stream = rollout.start(env, jax.random.key(0), num_envs)

    def act(obs, key):
        return jnp.zeros(obs.shape[0], jnp.int32), obs[:, 0]

    return rollout.collect_steps(env, act, stream, jax.random.key(1), num_steps, 0.5)


def test_episodes_follow_one_another():
    stream, steps, metrics = collect(Counter())
    obs = np.asarray(steps.obs)[:, 0, 0]
    np.testing.assert_array_equal(obs, [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(np.asarray(steps.next_obs)[:, 0, 0], [1, 2, 3, 1, 2, 3, 1])
    np.testing.assert_array_equal(np.asarray(steps.terminated)[:, 0], [0, 0, 1, 0, 0, 1, 0])
    assert not np.any(steps.truncated)
    np.testing.assert_array_equal(steps.logp, steps.obs[..., 0])
    assert metrics["train/return"] == 6.0  # 1 + 2 + 3
    assert metrics["train/length"] == 3.0
    assert metrics["train/episodes"] == 4.0
    np.testing.assert_array_equal(stream.episode_return, [1.0, 1.0])  # the episode under way
    np.testing.assert_array_equal(np.asarray(stream.running.t), [1, 1])


def test_truncation_keeps_the_final_observation():
    _, steps, metrics = collect(Counter(ends=False, max_episode_steps=2))
    np.testing.assert_array_equal(np.asarray(steps.truncated)[:, 0], [0, 1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(np.asarray(steps.next_obs)[:, 0, 0], [1, 2, 1, 2, 1, 2, 1])
    np.testing.assert_array_equal(np.asarray(steps.obs)[:, 0, 0], [0, 1, 0, 1, 0, 1, 0])
    assert not np.any(steps.terminated)
    assert metrics["train/length"] == 2.0


def test_discounted_return_starts_anew_with_each_episode():
    _, steps, _ = collect(Counter())
    expected = [1, 0.5 + 2, 0.25 + 1 + 3, 1, 2.5, 4.25, 1]
    np.testing.assert_allclose(steps.discounted_return[:, 0], expected)


def test_without_a_finished_episode_the_return_counts_nothing_and_is_no_nan():
    with jax.debug_nans(True):  # which stops where a NaN comes out
        _, _, metrics = collect(Counter(), num_steps=2)
    assert metrics["train/episodes"] == 0
    assert metrics["train/return"] == 0


def test_a_stream_goes_on_where_it_stopped():
    env = Counter()

    def act(obs, key):
        return jnp.zeros(obs.shape[0], jnp.int32), obs[:, 0]

    stream = rollout.start(env, jax.random.key(0), 2)
    stream, first, _ = rollout.collect_steps(env, act, stream, jax.random.key(1), 2, 0.5)
    _, second, metrics = rollout.collect_steps(env, act, stream, jax.random.key(2), 1, 0.5)
    np.testing.assert_array_equal(second.obs[0], first.next_obs[-1])
    assert metrics["train/return"] == 6.0


def test_infos_become_means():
    @flax.struct.dataclass
    class WithInfo(Counter):
        def info(self, state, action, next_state):
            return {"reward/double": 2.0 * next_state[0][0]}

    _, steps, metrics = collect(WithInfo())
    np.testing.assert_allclose(metrics["reward/double"], 2 * np.mean(steps.reward), rtol=1e-6)
    assert metrics["train/nonfinite"] == 0


@flax.struct.dataclass
class Spoiled(Counter):
    """The second observation of an episode is NaN; the first one, if `starts`."""

    starts: bool = flax.struct.field(pytree_node=False, default=False)

    def observation(self, state):
        seen = super().observation(state)
        return jnp.where(state[1] == (0 if self.starts else 2), jnp.nan, seen)


def test_what_was_not_finite_is_counted_named_and_placed():
    _, steps, metrics = collect(Spoiled(), num_steps=6)
    assert np.isfinite(steps.obs).all()
    assert np.isfinite(steps.next_obs).all()
    n = steps.reward.shape[1]
    assert metrics["train/nonfinite"] == metrics["train/episodes"] == 3 * n
    assert metrics["train/length"] == 2.0
    assert metrics["nonfinite/observation"] == 3 * n
    assert metrics["nonfinite/state"] == metrics["nonfinite/reward"] == 0
    assert metrics["nonfinite/start"] == 0
    assert metrics["nonfinite/first"] == n + 1  # the first environment in the second step
    assert metrics["nonfinite/env"] == 0


def test_nothing_is_said_of_finite_steps():
    _, _, metrics = collect(Counter())
    assert {float(x) for name, x in metrics.items() if "nonfinite" in name} == {0.0}


def test_first_observations_that_are_not_finite_are_counted():
    _, _, metrics = collect(Spoiled(starts=True), num_steps=2)
    assert metrics["nonfinite/start"] > 0
    _, metrics = episodes(Spoiled(starts=True), [0.0, 10.0], 5)
    assert metrics["nonfinite/start"] == 2


def test_of_whole_episodes_too():
    steps, metrics = episodes(Spoiled(), [0.0, 10.0], 5)
    np.testing.assert_array_equal(steps.mask[:, 0], [1, 1, 0, 0, 0])
    assert metrics["train/nonfinite"] == metrics["nonfinite/observation"] == 2
    assert metrics["nonfinite/first"] == 3


def test_start_states_differ():
    env = probes.RewardIsObservation()
    bank = base.start_states(env, jax.random.key(0), 64)
    assert {-1.0, 1.0} == set(np.asarray(bank[0][:, 0]).tolist())


def episodes(env, starts, num_steps):
    running = base.Running((jnp.asarray(starts)[:, None], jnp.zeros(2, int)), jnp.zeros(2, int))

    def act(obs, key):
        return jnp.ones(obs.shape[0], jnp.int32), obs[:, 0]

    return rollout.collect_episodes(env, act, running, jax.random.key(1), num_steps)


def test_an_episode_ends_once_and_what_follows_is_zero_and_masked():
    steps, metrics = episodes(Counter(), [0.0, 10.0], 5)
    np.testing.assert_array_equal(steps.mask[:, 0], [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(steps.obs[:, 1, 0], [10, 11, 12, 0, 0])
    np.testing.assert_array_equal(steps.reward[:, 0], [1, 2, 3, 0, 0])
    np.testing.assert_array_equal(steps.terminated[:, 0], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(steps.action, steps.mask)
    assert not np.any(steps.truncated)
    assert metrics["train/return"] == (6 + 36) / 2
    assert metrics["train/length"] == 3.0
    assert metrics["train/env_steps_taken"] == 6.0


def test_the_last_step_truncates_what_goes_on():
    steps, _ = episodes(Counter(ends=False), [0.0, 0.0], 4)
    np.testing.assert_array_equal(steps.truncated[:, 0], [0, 0, 0, 1])
    assert np.all(steps.mask)
    # An episode that ends by itself in the last step is terminated, not both.
    steps, _ = episodes(Counter(), [0.0, 0.0], 3)
    assert steps.terminated[2, 0]
    assert not np.any(steps.truncated)
