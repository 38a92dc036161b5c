import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import base
from envs.tabular.table import TabularState
from envs.tabular.toy_text import make_frozen_lake

GAMES = {  # name here, options, Gymnasium's name
    "lake": ("FrozenLake-v1", {}, "FrozenLake-v1"),
    "dry lake": ("FrozenLake-v1", {"is_slippery": False}, "FrozenLake-v1"),
    "sure lake": (
        "FrozenLake-v1",
        {"success_rate": 0.7, "reward_schedule": (10, -2, -1)},
        "FrozenLake-v1",
    ),
    "own lake": ("FrozenLake-v1", {"desc": ["SFF", "FHF", "SFG"]}, "FrozenLake-v1"),
    "large lake": ("FrozenLake8x8-v1", {}, "FrozenLake8x8-v1"),
    "cliff": ("CliffWalking-v1", {}, "CliffWalking-v1"),
    "slippery cliff": ("CliffWalking-v1", {"is_slippery": True}, "CliffWalkingSlippery-v1"),
    "taxi": ("Taxi-v4", {}, "Taxi-v4"),
    "rain": ("Taxi-v4", {"is_rainy": True, "rainy_probability": 0.6}, "Taxi-v4"),
}
STOCHASTIC = ("sure lake", "large lake", "slippery cliff", "rain")


def pair(game):
    name, options, theirs = GAMES[game]
    return envs.make(name, **options), gymnasium.make(theirs, **options)


@pytest.mark.parametrize("game", GAMES)
def test_tables_are_gymnasiums_entry_by_entry(game):
    ours, theirs = pair(game)
    table = theirs.unwrapped.P
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.probabilities.shape[:2] == (len(table), len(table[0]))
    for s, actions in table.items():
        for a, outcomes in actions.items():
            n = len(outcomes)
            probabilities, next_states, rewards, terminals = zip(*outcomes, strict=True)
            np.testing.assert_allclose(ours.probabilities[s, a, :n], probabilities, rtol=1e-7)
            np.testing.assert_array_equal(ours.next_states[s, a, :n], next_states)
            np.testing.assert_array_equal(ours.rewards[s, a, :n], np.float32(rewards))
            np.testing.assert_array_equal(ours.terminals[s, a, :n], terminals)
            assert not np.any(ours.probabilities[s, a, n:])
    initial = theirs.unwrapped.initial_state_distrib
    np.testing.assert_allclose(ours.initial_distribution, initial, rtol=1e-6)


@pytest.mark.parametrize("name", ["FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4"])
def test_time_limits_are_gymnasiums(name):
    assert envs.make(name).max_episode_steps == gymnasium.spec(name).max_episode_steps


def test_cliff_walking_has_a_limit_of_our_own():
    assert gymnasium.spec("CliffWalking-v1").max_episode_steps is None
    assert envs.make("CliffWalking-v1").max_episode_steps == 1000


def at(s):
    n = jnp.zeros(np.shape(s))
    return TabularState(jnp.asarray(s, jnp.int32), n, n.astype(bool))


@pytest.mark.parametrize("game", ["dry lake", "cliff", "taxi"])
def test_episodes_are_gymnasiums_step_by_step(game):
    ours, theirs = pair(game)
    theirs = theirs.unwrapped
    advance = jax.jit(base.advance)
    rng = np.random.default_rng(0)
    ends = 0
    for episode in range(20):
        obs, _ = theirs.reset(seed=episode)
        running = base.Running(at(obs), jnp.int32(0))
        way = [0, *[1] * 11, 2] if game == "cliff" and episode == 0 else []
        for action in [*way, *rng.integers(theirs.action_space.n, size=40)]:
            obs, reward, terminated, _, _ = theirs.step(action)
            running, t = advance(ours, jax.random.key(0), running, jnp.int32(action))
            assert (t.obs, t.reward, t.terminated) == (obs, reward, terminated)
            if terminated:
                ends += 1
                break
    assert ends > 0 or game == "taxi"  # by chance hardly any passenger is delivered ...


def test_a_passenger_delivered():  # ... so here is one: at red, taxi beside it, destination red's neighbour green
    ours, theirs = pair("taxi")
    theirs = theirs.unwrapped
    theirs.reset(seed=0)
    theirs.s = theirs.encode(0, 0, 0, 1)
    running = base.Running(at(theirs.s), jnp.int32(0))
    rewards = []
    for action in (4, 5, 4, 4, 0, 0, 2, 2, 2, 2, 1, 1, 5):
        obs, reward, terminated, _, _ = theirs.step(action)
        running, t = base.advance(ours, jax.random.key(0), running, jnp.int32(action))
        assert (t.obs, t.reward, t.terminated) == (obs, reward, terminated)
        rewards.append(float(t.reward))
    # Dropped off and picked up again at the same place; picked up once too often.
    assert rewards == [-1, -1, -1, -10, *[-1] * 8, 20]
    assert t.terminated


@pytest.mark.parametrize("game", STOCHASTIC)
def test_sampled_transitions_have_gymnasiums_frequencies(game):
    """Every transition seen is one of Gymnasium's, with its reward and end; chi-square over all of them."""
    ours, theirs = pair(game)
    n = 500
    rng = np.random.default_rng(1)
    num_states, num_actions, _ = ours.probabilities.shape
    states = rng.integers(num_states, size=100)
    actions = rng.integers(num_actions, size=100)
    keys = jax.random.split(jax.random.key(2), (100, n))
    over_keys = jax.vmap(ours.transition, (None, None, 0))
    found = jax.jit(jax.vmap(over_keys))(at(states), jnp.asarray(actions), keys)
    found = np.stack([np.asarray(x, float) for x in found], -1)
    square, freedom = 0.0, 0
    for s, a, seen in zip(states, actions, found, strict=True):
        expected: dict = {}
        for p, *outcome in theirs.unwrapped.P[s][a]:
            key = tuple(float(x) for x in outcome)
            expected[key] = expected.get(key, 0.0) + n * p
        values, counts = np.unique(seen, axis=0, return_counts=True)
        seen_counts = {tuple(v): c for v, c in zip(values.tolist(), counts, strict=True)}
        assert seen_counts.keys() <= expected.keys()
        square += sum((seen_counts.get(k, 0) - e) ** 2 / e for k, e in expected.items())
        freedom += len(expected) - 1
    assert abs(square - freedom) < 4 * np.sqrt(2 * freedom)  # chi-square has variance 2 x freedom


def test_starts_of_the_taxi_are_gymnasiums():
    taxi = envs.make("Taxi-v4")
    starts = np.asarray(base.start_states(taxi, jax.random.key(0), 3000).s)
    counts = np.bincount(starts, minlength=500)
    possible = taxi.initial_distribution > 0
    assert possible.sum() == 300
    assert not np.any(counts[~possible])
    square = np.sum((counts[possible] - 10) ** 2 / 10)
    assert abs(square - 299) < 4 * np.sqrt(2 * 299)


def test_bad_options():
    with pytest.raises(ValueError, match="unknown map_name '5x5'"):
        make_frozen_lake("5x5")
    with pytest.raises(ValueError, match="rows of equal length"):
        make_frozen_lake(desc=["SF", "FFG"])
    with pytest.raises(ValueError, match="desc must be a list of rows, got the string 'SFFG'"):
        make_frozen_lake(desc="SFFG")
    with pytest.raises(ValueError, match="letters S, F, H, G"):
        make_frozen_lake(desc=["SX", "FG"])
    with pytest.raises(ValueError, match="needs a start"):
        make_frozen_lake(desc=["FF", "FG"])
    with pytest.raises(ValueError, match="success_rate must be between"):
        make_frozen_lake(success_rate=1.5)
    with pytest.raises(ValueError, match="reward_schedule must be"):
        make_frozen_lake(reward_schedule=(1, 0))
    with pytest.raises(ValueError, match="fickle_passenger=True is no table"):
        envs.make("Taxi-v4", fickle_passenger=True)
    with pytest.raises(ValueError, match="rainy_probability must be between"):
        envs.make("Taxi-v4", rainy_probability=-0.1)


def test_as_a_gymnasium_environment():
    from envs.gym import GymEnv

    env = GymEnv(envs.make("FrozenLake-v1"))
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    obs, reward, terminated, _, _ = env.step(env.action_space.sample())
    assert env.observation_space.contains(obs)
    assert isinstance(reward, float)
    assert not terminated  # no hole beside the start
