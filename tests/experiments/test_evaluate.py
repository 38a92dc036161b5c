from types import SimpleNamespace

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import probes
from envs.base import ALL_EPISODES, Bad, reset, step
from experiments.evaluation import control
from experiments.evaluation.evaluator import final_batches


def stumble(state, obs, key, deterministic):
    """Actions that depend on what is seen, and let the robot fall after a while."""
    assert deterministic
    return jnp.clip(state * obs[..., 11:17] + obs[..., 2:5].repeat(2, -1), -1, 1)


@pytest.mark.slow
def test_episodes_are_those_of_the_training_step():
    env = envs.make("walker", max_episode_steps=40)
    algo = SimpleNamespace(env=env, act=stumble)
    keys = control.keys(0, 0, 6)
    found = jax.jit(lambda s, k: control.run_episodes(algo, s, k, ALL_EPISODES))(
        jnp.float32(2.0), keys
    )
    assert found.alive.shape == (40, 6)
    one = jax.jit(jax.vmap(lambda r, a: step(env, jax.random.key(0), r, a)))
    running, obs = jax.vmap(lambda k: reset(env, jax.random.split(k)[0]))(keys)
    for t in range(40):
        running, timestep = one(running, stumble(2.0, obs, None, True))
        obs = timestep.obs
        if t == 0:
            done, returns, lengths, survived = np.zeros((4, 6))
            states = []
        alive = done == 0
        np.testing.assert_array_equal(found.alive[t], alive)
        returns += np.where(alive, timestep.reward, 0)
        lengths += alive
        survived = np.where(alive & timestep.truncated, 1, survived)
        done = np.maximum(done, timestep.terminated | timestep.truncated)
        states.append(np.asarray(running.state.physics.qpos))
        going = done == 0
        np.testing.assert_allclose(found.states.physics.qpos[t][going], states[t][going], atol=1e-6)
    assert 1 < lengths.min() < 40  # the comparison has falls in it
    np.testing.assert_allclose(found.returns, returns, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.lengths, lengths)
    np.testing.assert_array_equal(found.survived, survived)


@flax.struct.dataclass
class Breaks(probes.ConstantReward):
    """Not finite after three steps, in episodes that start below 0."""

    max_episode_steps: int = flax.struct.field(pytree_node=False, default=5)

    def initial(self, key):
        return jax.random.normal(key, (1,)), jnp.zeros((), jnp.int32)

    def transition(self, state, action, key):
        x, t = state
        return jnp.where((t >= 2) & (x < 0), jnp.nan, x), t + 1

    def terminal(self, state):
        return jnp.zeros((), bool)


def test_a_state_that_is_not_finite_ends_its_episode_without_reward():
    algo = SimpleNamespace(
        env=Breaks(), act=lambda s, obs, k, d: jnp.zeros(obs.shape[0], jnp.int32)
    )
    keys = control.keys(1, 0, 32)
    start = np.asarray(jax.vmap(lambda k: Breaks().initial(jax.random.split(k)[0])[0])(keys))[:, 0]
    found = jax.jit(lambda k: control.run_episodes(algo, 0, k, 0))(keys)
    np.testing.assert_array_equal(found.lengths, np.where(start < 0, 3, 5))
    np.testing.assert_array_equal(found.returns, np.where(start < 0, 2, 5))
    np.testing.assert_array_equal(found.survived, start >= 0)
    assert found.states is None
    report = control.final_figures(algo.env, jax.device_get(found))
    assert report["survival_rate"] == pytest.approx(np.mean(start >= 0))
    np.testing.assert_array_equal(np.asarray(found.bad) > 0, start < 0)
    assert report["eval_nonfinite"] == np.sum(start < 0) > 0
    assert report["gait"] is None


def test_batches_of_episodes_join_and_the_median_one_is_typical():
    def batch(returns):
        n = len(returns)
        state = {"x": np.arange(3 * n).reshape(3, n)}
        alive, rewards = np.ones((3, n), bool), np.ones((3, n))
        return control.Episodes(
            np.array(returns), np.full(n, 2), np.ones(n, bool), alive, state, rewards
        )

    joined = control.concatenate([batch([5.0, 1.0]), batch([3.0])])
    assert joined.returns.tolist() == [5.0, 1.0, 3.0]
    assert joined.alive.shape == (3, 3)
    assert control.typical(joined) == 2
    states, rewards = control.episode(joined, 2)
    assert states["x"].tolist() == [0, 1]
    assert rewards.tolist() == [1, 1]


def test_of_large_batches_the_first_episodes_are_recorded():
    env = Breaks(max_episode_steps=4)
    algo = SimpleNamespace(env=env, act=lambda s, obs, k, d: jnp.zeros(obs.shape[0], jnp.int32))

    def run(first, n, record):
        return jax.device_get(control.run_episodes(algo, 0, control.keys(3, first, n), record))

    every, few = run(0, 6, ALL_EPISODES), run(0, 6, 2)
    assert control.recorded(every) == 6
    assert few.states[0].shape == (4, 2, 1)
    np.testing.assert_array_equal(few.states[0], every.states[0][:, :2])
    np.testing.assert_array_equal(few.rewards, every.rewards[:, :2])
    np.testing.assert_array_equal(every.rewards.sum(0), every.returns)
    # Two such batches as one: the recorded episodes are still its first, and the typical one is among them.
    both = control.concatenate([few, run(6, 6, 2)])
    assert len(both.returns) == 12
    np.testing.assert_array_equal(both.states[0], few.states[0])
    assert control.typical(both) < 2
    assert control.records(env) == 0
    assert control.records(envs.make("walker")) == ALL_EPISODES


@flax.struct.dataclass
class Unseen(probes.ConstantReward):
    """Its first observation is NaN in episodes that start below 0; all episodes last three steps of at most a billion,
    and are drawn two a second."""

    max_episode_steps: int = flax.struct.field(pytree_node=False, default=10**9)
    render_fps = 2

    def initial(self, key):
        return jax.random.normal(key, (1,)), jnp.zeros((), jnp.int32)

    def observation(self, state):
        return jnp.where((state[1] == 0) & (state[0] < 0), jnp.nan, state[0])

    def transition(self, state, action, key):
        return state[0], state[1] + 1

    def terminal(self, state):
        return state[1] >= 3


def test_an_episode_whose_start_cannot_be_seen_has_no_step():
    algo = SimpleNamespace(
        env=Unseen(), act=lambda s, obs, k, d: jnp.zeros(obs.shape[0], jnp.int32)
    )
    keys = control.keys(1, 0, 32)
    start = np.asarray(jax.vmap(lambda k: Unseen().initial(jax.random.split(k)[0])[0])(keys))[:, 0]
    found = jax.device_get(control.run_episodes(algo, 0, keys, control.records(algo.env)))
    np.testing.assert_array_equal(found.lengths, np.where(start < 0, 0, 3))
    np.testing.assert_array_equal(found.bad, np.where(start < 0, Bad.START, 0))
    assert not found.survived.any()
    assert control.final_figures(algo.env, found)["eval_nonfinite"] == np.sum(start < 0)
    states, rewards = control.episode(found, control.typical(found))
    assert len(rewards) == len(states[0]) == 3


@pytest.mark.parametrize("fps", [None, 2, 0.5, float("nan")])
def test_memory_of_an_evaluation_is_known_beforehand_and_knows_no_time_limit(fps):
    """A video shows twenty seconds; without one nothing is kept."""

    class Endless(Unseen):
        render_fps = fps

    env = flax.struct.dataclass(Endless)()
    algo = SimpleNamespace(env=env, act=lambda s, obs, k, d: jnp.zeros(obs.shape[0], jnp.int32))
    found = jax.eval_shape(
        lambda k: control.run_episodes(algo, 0, k, control.records(env)), control.keys(0, 0, 64)
    )
    taken = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(found))
    assert control.evaluation_bytes(env, 64) == taken
    steps = {None: 0, 2: 40, 0.5: 10}.get(fps, 0)
    assert taken == 64 * 10 + steps * 16 * 12
    everything = control.evaluation_bytes(env, 64, ALL_EPISODES)
    assert everything == 64 * 10 + 10**9 * 64 * 13


def test_memory_of_a_walkers_evaluation():
    """All states are kept, for its gait; also where an episode is one step long."""
    for limit in (1, 1000):
        env = envs.make("walker", max_episode_steps=limit)
        algo = SimpleNamespace(env=env, act=stumble)
        found = jax.eval_shape(
            lambda k, algo=algo: control.run_episodes(algo, jnp.float32(0), k, ALL_EPISODES),
            control.keys(0, 0, 8),
        )
        taken = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(found))
        assert control.evaluation_bytes(env, 8) == taken


def test_evaluation_keys_do_not_repeat():
    seen = [control.keys(seed, first, 4) for seed in (0, 1) for first in (0, 4)]
    data = np.concatenate([jax.random.key_data(k) for k in seen])
    assert len(np.unique(data, axis=0)) == 16


def test_means_over_seeds():
    reports = [
        {"a": 1.0, "n": 512, "gait": {"walks": True, "x": float("nan")}},
        {"a": 3.0, "n": 512, "gait": {"walks": False, "x": 2.0}},
    ]
    mean = control.mean_of(reports)
    assert mean == {"a": 2.0, "n": 512, "gait": {"walks": 0.5, "x": 2.0}}
    assert control.mean_of(reports[:1])["gait"]["walks"] is True


@flax.struct.dataclass
class Reports(probes.TruncationOnly):
    """Ten episodes for its report, at least."""

    recorded_episodes = 10

    def episode_report(self, states, alive, returns):
        return {
            "steps": int(alive.sum()),
            "states": states[0].shape[:2],
            "best": float(max(returns)),
        }


def test_an_environment_reports_on_all_episodes_of_an_evaluation():
    algo = SimpleNamespace(
        env=Reports(), act=lambda s, obs, k, d: jnp.zeros(obs.shape[0], jnp.int32)
    )
    record = control.records(algo.env)
    found = control.run_episodes(algo, 0, control.keys(0, 0, 10), record)
    report = control.final_figures(algo.env, jax.device_get(found))
    assert (report["steps"], report["states"], report["best"]) == (30, (3, 10), 2.0)
    assert final_batches(algo.env, 2) == 5
    assert final_batches(probes.TruncationOnly(), 2) == 4
