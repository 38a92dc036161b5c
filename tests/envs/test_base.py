import operator

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import base

KEY = jax.random.key(0)


@flax.struct.dataclass
class Track(base.Env):
    """Position x and the start it came from; the action is added. Ends at x >= 10. Starts lie in [0, 1)."""

    reward_weight: float = 1.0
    max_episode_steps: int = flax.struct.field(pytree_node=False, default=4)

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (), np.float32)

    def initial(self, key):
        x = jax.random.uniform(key)
        return {"x": x, "start": x, "key": key}  # a typed key is a lawful part of a state

    def transition(self, state, action, key):
        return state | {"x": state["x"] + action}

    def observation(self, state):
        return jnp.stack([state["x"], state["start"]])

    def reward(self, state, action, next_state):
        return self.reward_weight * action / jnp.where(action == 7, 0.0, 1.0)  # 7: 7 / 0

    def terminal(self, state):
        return state["x"] >= 10

    def info(self, state, action, next_state):
        return {"moved": next_state["x"] - state["x"]}


ENV = Track()
step, advance = jax.jit(base.step), jax.jit(base.advance)


def at(x, t, start=0.5):
    state = {"x": jnp.float32(x), "start": jnp.float32(start), "key": KEY}
    return base.Running(state, jnp.int32(t))


def test_no_two_classes_share_a_compiled_program():
    """JAX 0.10 finds registered dataclasses equal whose static fields are: of 300, it took some 40 for another."""

    def numbered(i):
        @flax.struct.dataclass
        class Numbered(base.Env):
            max_episode_steps: int = 1

            def initial(self, key):
                return i

        return Numbered()

    all_of_them = [numbered(i) for i in range(80)]
    assert jax.tree.structure(all_of_them[0]) != jax.tree.structure(all_of_them[1])
    initial = jax.jit(lambda env: env.initial(KEY))
    assert [int(initial(env)) for env in all_of_them] == list(range(80))
    assert repr(all_of_them[0].replace(max_episode_steps=3)).endswith(
        "Numbered(max_episode_steps=3)"
    )


def test_reset():
    running, obs = base.reset(ENV, KEY)
    assert running.t == 0
    np.testing.assert_array_equal(obs, ENV.observation(running.state))
    np.testing.assert_array_equal(obs, ENV.observation(ENV.initial(KEY)))


@pytest.mark.parametrize(
    ("x", "t", "terminated", "truncated"),
    [
        (0, 0, False, False),
        (0, 2, False, False),
        (0, 3, False, True),  # the fourth step
        (9, 0, True, False),
        (9, 3, True, False),  # an end at the limit is an end
    ],
)
def test_flags_and_observations(x, t, terminated, truncated):
    running, timestep = step(ENV, KEY, at(x, t), jnp.float32(1.0))
    assert (timestep.terminated, timestep.truncated) == (terminated, truncated)
    assert timestep.reward == 1
    assert timestep.info == {"moved": 1, "nonfinite": 0}
    np.testing.assert_array_equal(timestep.next_obs, [x + 1, 0.5])  # before any reset
    np.testing.assert_array_equal(timestep.obs, ENV.observation(running.state))
    if terminated or truncated:
        assert running.t == 0
        assert 0 <= running.state["x"] < 1
        assert running.state["x"] == running.state["start"] != 0.5
    else:
        assert running.t == t + 1
        np.testing.assert_array_equal(timestep.obs, timestep.next_obs)


def test_advance_does_not_reset():
    running, timestep = advance(ENV, KEY, at(9, 3), jnp.float32(1))
    assert timestep.terminated
    assert running.t == 4
    assert running.state["x"] == 10
    np.testing.assert_array_equal(timestep.obs, timestep.next_obs)


def test_time_limit_of_one():
    env = ENV.replace(max_episode_steps=1)
    running, _ = base.reset(env, KEY)
    for key in jax.random.split(KEY, 3):
        start = running.state["x"]
        running, timestep = step(env, key, running, jnp.float32(1))
        assert timestep.truncated
        assert running.t == 0
        np.testing.assert_allclose(timestep.next_obs, [start + 1, start])
        assert timestep.obs[0] == timestep.obs[1] == running.state["x"]


def test_whole_episodes_in_a_scan():
    """t counts, each limit falls after four steps, each episode has a start of its own."""

    def body(running, key):
        running, timestep = base.step(ENV, key, running, jnp.float32(0.25))
        return running, (running.t, timestep)

    running, _ = base.reset(ENV, KEY)
    _, (t, timestep) = jax.lax.scan(body, running, jax.random.split(KEY, 12))
    np.testing.assert_array_equal(t, [1, 2, 3, 0] * 3)
    np.testing.assert_array_equal(timestep.truncated, [False, False, False, True] * 3)
    start = np.asarray(timestep.next_obs[:, 1]).reshape(3, 4)
    assert (start == start[:, :1]).all()
    assert len(np.unique(start)) == 3
    np.testing.assert_allclose(timestep.next_obs[:, 0], (start + np.arange(1, 5) / 4).ravel())


@pytest.mark.parametrize("bank", [False, True])
@pytest.mark.parametrize("action", [np.nan, np.inf, -np.inf, 7.0], ids=str)
def test_what_is_not_finite_ends_one_episode_alone(action, bank):
    """7 spoils the reward, the others the state."""
    resets = base.start_states(ENV, KEY, 3) if bank else None
    running = jax.vmap(lambda x: at(x, 0))(jnp.arange(3.0))
    actions = jnp.array([1.0, action, 1.0])
    keys = jax.random.split(KEY, 3)
    running, timestep = jax.vmap(base.step, (None, 0, 0, 0, None))(
        ENV, keys, running, actions, resets
    )
    np.testing.assert_array_equal(timestep.terminated, [False, True, False])
    np.testing.assert_array_equal(timestep.truncated, [False] * 3)
    np.testing.assert_array_equal(timestep.reward, [1, 0, 1])
    np.testing.assert_array_equal(timestep.next_obs, [[1, 0.5], [1, 0.5], [3, 0.5]])
    np.testing.assert_array_equal(timestep.info["nonfinite"], [0, 1, 0])
    np.testing.assert_array_equal(timestep.info["moved"], [1, 0, 1])
    np.testing.assert_array_equal(running.t, [1, 0, 1])
    assert 0 <= running.state["x"][1] == running.state["start"][1] < 1
    assert np.isfinite(timestep.obs).all()


@pytest.mark.parametrize(
    ("state", "obs", "reward", "bad"),
    [
        (1.0, 1.0, 1.0, base.Bad(0)),
        (1.0, np.nan, 1.0, base.Bad.OBSERVATION),  # though the state is finite
        (1.0, np.inf, 1.0, base.Bad.OBSERVATION),
        (1.0, 1.0, np.nan, base.Bad.REWARD),
        (1.0, 1.0, -np.inf, base.Bad.REWARD),
        (np.inf, 1.0, 1.0, base.Bad.STATE),
        (np.nan, np.nan, np.nan, base.Bad.STATE | base.Bad.OBSERVATION | base.Bad.REWARD),
    ],
)
def test_what_was_not_finite_is_named(state, obs, reward, bad):
    class Odd(Track):
        def transition(self, s, action, key):
            return s | {"x": jnp.float32(state)}

        def observation(self, s):
            return jnp.where(s["x"] == 0.0, 0.0, obs) * jnp.ones(2)

        def reward(self, s, action, next_state):
            return jnp.float32(reward)

    running, timestep = base.advance(flax.struct.dataclass(Odd)(), KEY, at(0, 0), jnp.float32(0))
    assert timestep.bad == bad
    assert timestep.bad.dtype == jnp.uint8
    assert timestep.terminated == (bad != 0)
    assert timestep.info["nonfinite"] == (bad != 0)
    assert timestep.reward == (0.0 if bad else 1.0)
    assert running.state["x"] == (0.0 if bad else 1.0)
    np.testing.assert_array_equal(timestep.next_obs, [0.0, 0.0] if bad else [1.0, 1.0])


def test_numbered_observations_are_always_finite():
    class Numbered(Track):
        def observation(self, state):
            return jnp.int32(3)

    _, timestep = base.step(flax.struct.dataclass(Numbered)(), KEY, at(0, 0), jnp.float32(1))
    assert (timestep.bad, timestep.obs) == (0, 3)


def test_not_finite_at_the_time_limit_is_terminated():
    _, timestep = step(ENV, KEY, at(0, 3), jnp.float32(np.nan))
    assert timestep.terminated
    assert not timestep.truncated


def test_resets_are_drawn_uniformly_from_one_bank():
    n, size = 4000, 5
    resets = base.start_states(ENV, KEY, size)
    keys = jax.random.split(jax.random.key(1), n)
    step_all = jax.vmap(base.step, (None, 0, None, None, None))
    running, timestep = step_all(ENV, keys, at(9, 0), jnp.float32(1), resets)
    starts, counts = np.unique(running.state["x"], return_counts=True)
    np.testing.assert_array_equal(starts, np.sort(resets["x"]))
    # 800 each; five standard deviations are 5 sqrt(4000 0.2 0.8) = 126
    assert (np.abs(counts - n / size) < 127).all()
    np.testing.assert_array_equal(timestep.obs[:, 0], running.state["x"])
    running, _ = step_all(ENV, keys, at(0, 0), jnp.float32(1), resets)
    assert (running.state["x"] == 1).all()  # the bank is not looked at where nothing ends


@pytest.mark.parametrize("bank", [False, True])
def test_vmapped_equals_single(bank):
    resets = base.start_states(ENV, KEY, 3) if bank else None
    rng = np.random.default_rng(0)
    x, t = jnp.asarray(rng.uniform(0, 10, 20), jnp.float32), jnp.asarray(rng.integers(0, 4, 20))
    running = jax.vmap(at)(x, t)
    actions = jnp.asarray(rng.uniform(0, 3, 20), jnp.float32).at[3].set(jnp.nan)
    keys = jax.random.split(KEY, 20)
    every = jax.vmap(base.step, (None, 0, 0, 0, None))(ENV, keys, running, actions, resets)
    assert 0 < every[1].terminated.sum() < 20
    assert every[1].truncated.any()
    assert not (every[1].terminated & every[1].truncated).any()
    for i in range(20):
        mine, one_of_all = (jax.tree.map(operator.itemgetter(i), tree) for tree in (running, every))
        alone = step(ENV, keys[i], mine, actions[i], resets)
        assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), alone, one_of_all))


def test_coefficients_are_swept_under_vmap():
    weights = jnp.array([1.0, 2.0, 3.0])
    envs = Track(reward_weight=weights)
    _, timestep = jax.vmap(base.step, (0, None, None, None))(envs, KEY, at(0, 0), jnp.float32(2))
    np.testing.assert_array_equal(timestep.reward, 2 * weights)


def test_defaults():
    state = ENV.initial(KEY)
    assert base.Env().info(state, jnp.float32(0), state) == {}
    assert ENV.at(1e6) is ENV
