"""What all learners with a replay buffer share, with a stub in place of the gradient step."""

import dataclasses

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.off_policy import OffPolicy
from agents.off_policy_settings import OffPolicyConfig
from envs import probes

SMALL = OffPolicyConfig(
    num_envs=4,
    num_steps=2,
    update_ratio=0.5,
    warmup_steps=64,
    buffer_size=256,
    batch_size=8,
    gamma=0.5,
)
ANY = (gymnasium.spaces.Discrete, gymnasium.spaces.Box)
LOW, HIGH = np.array([-3.0, 0.1], np.float32), np.array([1.0, 0.7], np.float32)


@flax.struct.dataclass
class Counter(probes.TruncationOnly):
    """Counts its steps: the observation is t, the reward t + 1, until the time limit at 3."""

    observation_space = gymnasium.spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(LOW, HIGH)

    def initial(self, key):
        return jnp.zeros(1), jnp.zeros((), jnp.int32)

    def transition(self, state, action, key):
        return state[0] + 1.0, state[1] + 1

    def reward(self, state, action, next_state):
        return next_state[0][0]


def stub(params, opt_state, sample, key, updates):
    """Counts its calls, and tells what it was given."""
    metrics = {
        "updates": updates.astype(jnp.float32),
        "largest_discount": jnp.max(sample.discount),
        "largest_reward": jnp.max(sample.reward),
        "largest_end": jnp.max(sample.next_obs),
        "mean_start": jnp.mean(sample.obs),
    }
    return params + 1, opt_state, jnp.full(sample.reward.shape, 3.0), metrics


def begin_and_run(config, env=None, **kwargs):
    """(learner, state after warm-up, state after an iteration, metrics)."""
    learner = OffPolicy(config, Counter() if env is None else env, ANY, **kwargs)

    def both(key):
        begun = learner.begin(key, jnp.zeros((), jnp.int32), None)
        return begun, *learner.run(begun, learner.random_actions, stub)

    return learner, *jax.jit(both)(jax.random.key(0))


@pytest.fixture(scope="module")
def ran():
    return begin_and_run(SMALL)


@pytest.fixture(scope="module")
def normalised():
    return begin_and_run(dataclasses.replace(SMALL, normalize_observations=True))


class TestNormalisation:
    def test_statistics_are_those_of_all_observations_so_far(self, normalised):
        _, begun, state, _ = normalised
        # 16 steps of four environments, then 64 more; each counts 0, 1, 2 and starts anew.
        for at, steps in ((begun, 16), (state, 80)):
            seen = np.arange(steps) % 3
            assert at.obs_statistics.count == 4 * steps
            np.testing.assert_allclose(at.obs_statistics.mean, [np.mean(seen)], rtol=1e-6)
            np.testing.assert_allclose(at.obs_statistics.var, [np.var(seen)], rtol=1e-5)

    def test_the_buffer_holds_raw_observations_and_updates_see_normalised_ones(
        self, ran, normalised
    ):
        learner, begun, _, metrics = normalised
        assert set(np.ravel(begun.buffer.storage.obs[:16])) == {0.0, 1.0, 2.0}
        # The statistics of the warm-up hold for the whole of the iteration; samples are the same in both runs.
        mean, std = begun.obs_statistics.mean[0], np.sqrt(begun.obs_statistics.var[0])
        expected = (ran[-1]["mean_start"] - mean) / std
        np.testing.assert_allclose(metrics["mean_start"], expected, rtol=1e-4)
        np.testing.assert_allclose(
            learner.preprocess(begun, mean + std * jnp.ones(1)), [1.0], rtol=1e-4
        )

    def test_off_and_for_discrete_observations_nothing_changes(self, ran):
        learner, begun, state, _ = ran
        assert begun.obs_statistics.count == state.obs_statistics.count == 0
        np.testing.assert_array_equal(learner.preprocess(state, jnp.full(1, 2.0)), [2.0])


class TestCounting:
    def test_the_warm_up_counts_as_steps(self, ran):
        learner, begun, _, _ = ran
        assert learner.warmup_steps == begun.env_steps == 64
        assert begun.updates == 0
        assert begun.buffer.size == 64 // 4

    def test_an_iteration_is_as_long_as_announced(self, ran):
        learner, begun, state, _ = ran
        assert learner.iteration_steps == 256
        assert state.env_steps - begun.env_steps == 256
        assert state.updates == state.params == 128  # params: calls of the stub

    def test_metrics_are_means_over_the_gradient_steps(self, ran):
        *_, metrics = ran
        assert metrics["updates"] == np.mean(np.arange(128))  # numbered from 0
        assert metrics["train/length"] == 3.0
        assert metrics["train/return"] == 1.0 + 2.0 + 3.0
        assert metrics["train/nonfinite"] == 0.0

    @pytest.mark.parametrize(
        ("num_envs", "num_steps", "update_ratio", "updates", "steps"),
        [(1, 1, 1.0, 256, 256), (3, 1, 1 / 3, 85, 255), (2, 1, 4.0, 1024, 256),
         (300, 1, 0.01, 3, 300)],
    )  # fmt: skip
    def test_the_ratio_asked_for_is_the_ratio_performed(
        self, num_envs, num_steps, update_ratio, updates, steps
    ):
        config = dataclasses.replace(
            SMALL,
            num_envs=num_envs,
            num_steps=num_steps,
            update_ratio=update_ratio,
            buffer_size=900,
            warmup_steps=0,
        )
        learner, begun, state, _ = begin_and_run(config)
        assert learner.iteration_steps == state.env_steps - begun.env_steps == steps
        assert state.updates == state.params == updates  # params: calls of the stub
        assert updates == pytest.approx(update_ratio * steps)

    @pytest.mark.parametrize(
        ("warmup", "n_step", "rows"), [(0, 1, 1), (0, 3, 3), (9, 1, 3), (12, 1, 3)]
    )
    def test_the_warm_up_is_whole_rows_and_enough_for_a_sample(self, warmup, n_step, rows):
        config = dataclasses.replace(SMALL, warmup_steps=warmup, n_step=n_step)
        assert OffPolicy(config, Counter(), ANY).warmup_steps == 4 * rows


class TestBuffer:
    def test_successors_are_the_true_ones_at_a_time_limit(self, ran):
        _, _, state, _ = ran
        rows = jax.tree.map(np.asarray, state.buffer.storage)
        t, successor = rows.obs[..., 0], rows.next_obs[..., 0]
        np.testing.assert_array_equal(
            successor, t + 1
        )  # 3 at the limit, never the next episode's 0
        np.testing.assert_array_equal(rows.truncated, t == 2)
        np.testing.assert_array_equal(rows.reward, t + 1)
        assert not rows.terminated.any()
        assert state.buffer.size == 64  # full: 80 rows were written
        assert {0.0, 1.0, 2.0} == set(t.ravel())

    def test_rows_follow_one_another(self, ran):
        _, _, state, _ = ran
        order = (int(state.buffer.head) + np.arange(64)) % 64
        t = np.asarray(state.buffer.storage.obs)[order, :, 0]
        np.testing.assert_array_equal(t[1:], (t[:-1] + 1) % 3)

    def test_random_actions_fill_the_range(self, ran):
        _, begun, state, _ = ran
        for action in (begun.buffer.storage.action[:16], state.buffer.storage.action):
            action = np.asarray(action).reshape(-1, 2)
            assert (np.abs(action) <= 1.0).all()  # raw: the environment's bounds are at -1 and 1
            np.testing.assert_allclose(action.mean(axis=0), 0.0, atol=0.3)
            assert (np.ptp(action, axis=0) > 0.85 * 2).all()

    def test_noise_goes_on_from_step_to_step_after_the_warm_up(self):
        learner = OffPolicy(SMALL, Counter(), ANY, noise_correlation=0.8)

        @jax.jit
        def run(key):
            begun = learner.begin(key, jnp.zeros((), jnp.int32), None)
            return begun, learner.run(begun, lambda state, obs, key: state.noise, stub)[0]

        begun, state = run(jax.random.key(0))
        np.testing.assert_array_equal(begun.noise, np.zeros((4, 2)))
        order = (int(state.buffer.head) + np.arange(64)) % 64
        noise = np.asarray(state.buffer.storage.action)[order]
        np.testing.assert_array_equal(noise[-1], state.noise)
        fresh = (noise[1:] - 0.8 * noise[:-1]) / 0.6
        assert fresh.std() == pytest.approx(1.0, abs=0.1)
        assert (fresh[1:] * fresh[:-1]).mean() == pytest.approx(0.0, abs=0.15)

    def test_no_noise_for_those_who_do_not_ask_for_it(self, ran):
        _, begun, state, _ = ran
        assert begun.noise is None
        assert state.noise is None

    def test_one_step_samples(self, ran):
        *_, metrics = ran
        assert metrics["largest_discount"] == 0.5
        assert metrics["largest_reward"] <= 3.0

    def test_n_step_samples_discount_and_stop_at_the_limit(self):
        config = dataclasses.replace(SMALL, n_step=2, batch_size=128)
        *_, metrics = begin_and_run(config)
        # From t: 0: 1 + 2 g; from 1: 2 + 3 g, by g^2; from 2: 3, by g, for there the episode is over. With 128 samples
        # all of them are in each.
        assert metrics["largest_reward"] == 2.0 + 0.5 * 3.0
        assert metrics["largest_discount"] == 0.5
        assert metrics["largest_end"] == 3.0

    def test_bytes(self, ran):
        learner, _, state, _ = ran
        leaves = jax.tree.leaves(state.buffer)
        assert learner.buffer_bytes() == sum(x.nbytes for x in leaves)

    def test_priorities_learn_of_the_errors(self):
        _, begun, state, _ = begin_and_run(SMALL, probes.TruncationOnly(), prioritized=True)
        before, after = (np.asarray(s.buffer.priorities.tree)[64 * 4 :] for s in (begun, state))
        assert set(before) == {0.0, 1.0}
        np.testing.assert_allclose(
            np.unique(after), [3.0**0.6], rtol=1e-5
        )  # new rows get the largest so far
        actions = state.buffer.storage.action
        assert actions.dtype == jnp.int32
        assert set(np.ravel(actions).tolist()) == {0, 1}


class TestCopies:
    """The buffer is far larger than all else: it is to be written in place."""

    @pytest.mark.parametrize("prioritized", [False, True])
    def test_a_donated_buffer_is_not_copied(self, prioritized):
        config = dataclasses.replace(SMALL, buffer_size=400_000)
        learner = OffPolicy(config, Counter(), ANY, prioritized=prioritized)

        def iterations(state):
            def body(state, _):
                return learner.run(state, learner.random_actions, stub)

            return jax.lax.scan(body, state, None, 3)

        state = jax.eval_shape(
            lambda k: learner.begin(k, jnp.zeros((), jnp.int32), None), jax.random.key(0)
        )
        program = jax.jit(iterations, donate_argnums=0).lower(state).compile()
        assert program.memory_analysis().temp_size_in_bytes < learner.buffer_bytes() / 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"n_step": 0}, "n_step must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be positive"),
        ({"update_ratio": 0.0}, "update_ratio must be positive"),
        ({"update_ratio": 0.3}, "2.4 gradient steps, not a whole number: change num_steps or num_envs"),
        ({"update_ratio": 0.01}, "0.08 gradient steps, not a whole number"),
        ({"update_ratio": float("inf")}, "update_ratio must be finite, got inf"),
        ({"gamma": 1.5}, "gamma must be between 0 and 1"),
        ({"gamma": float("nan")}, "gamma must be finite, got nan"),
        ({"tau": -0.1}, r"tau must be in \(0, 1\], got -0.1"),
        ({"tau": 0.0}, r"tau must be in \(0, 1\]"),
        ({"hidden_sizes": (0,)}, "hidden_sizes must be positive"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative"),
        ({"buffer_size": 11}, "buffer_size 11 is too small for 4 environments"),
        ({"buffer_size": 16, "n_step": 3}, "buffer_size 16 is too small"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as error:
        dataclasses.replace(SMALL, **change)
    assert "\n" not in str(error.value)


def test_an_unknown_activation_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"activation must be .* or .*, got 'sine'"):
        dataclasses.replace(SMALL, activation="sine")


def test_the_learning_rate_falls_to_zero_at_the_end_of_the_run():
    config = dataclasses.replace(
        SMALL, learning_rate=0.1, learning_rate_schedule="linear", total_steps=64 + 80
    )
    optimizer = OffPolicy(config, Counter(), ANY).adam()

    def body(state, _):
        step, state = optimizer.update(jnp.ones(()), state)
        return state, -step  # Adam's step for a steady gradient is the learning rate

    _, rates = jax.lax.scan(body, optimizer.init(jnp.zeros(())), None, 41)
    np.testing.assert_allclose(rates, 0.1 * (1 - np.arange(41) / 40), atol=1e-6)
