import functools
import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents.ppo import PPO, PPOConfig
from envs import base, callback, host
from experiments.evaluation import control

LIMIT = 30


class Counter(gymnasium.Env):
    """Observes the step of its episode; what it does at which step is its options'. Keeps a list of all its kind."""

    observation_space = gymnasium.spaces.Box(0, 255, (), np.uint8)
    action_space = gymnasium.spaces.Discrete(2, start=5)
    made: list = []

    def __init__(self, end=None, cut=None, fail=None, render_mode=None):
        self.end, self.cut, self.fail = end, cut, fail
        self.t, self.episodes, self.closed, self.actions = 0, 0, False, []
        self.made.append(self)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.episodes += 1
        return np.uint8(0), {}

    def step(self, action):
        self.t += 1
        self.actions.append(action)
        if self.t == self.fail:
            raise KeyError("a loose screw")
        return np.uint8(self.t), 1.5, self.t == self.end, self.t == self.cut, {}

    def close(self):
        self.closed = True


class Odd(Counter):
    observation_space = gymnasium.spaces.Dict(x=gymnasium.spaces.Box(-1, 1))


class OddActions(Counter):
    action_space = gymnasium.spaces.MultiBinary(3)


class Clipped(Counter):
    """Acts in [0, 2], in float64; observes the last action."""

    observation_space = gymnasium.spaces.Box(-1e300, 1e300, (1,), np.float64)
    action_space = gymnasium.spaces.Box(0.0, 2.0, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1), {}

    def step(self, action):
        assert action.dtype == np.float64
        return (np.full(1, np.nan) if action[0] == 1 else action), 0.0, False, False, {}


@pytest.fixture(scope="module", autouse=True)
def registered():
    for kind in (Counter, Odd, OddActions, Clipped):
        gymnasium.register(f"Test{kind.__name__}-v0", kind, max_episode_steps=6)
    gymnasium.register("TestEndless-v0", Counter)
    yield
    for name in ("TestCounter-v0", "TestOdd-v0", "TestOddActions-v0", "TestClipped-v0"):
        del gymnasium.registry[name]
    del gymnasium.registry["TestEndless-v0"]


@pytest.fixture
def counters(monkeypatch):
    monkeypatch.setattr(Counter, "made", [])
    return Counter.made


def counter(**kwargs):
    return envs.make("gym:TestCounter-v0", **kwargs)


@functools.cache
def compiled(function, env, axes):
    """`function(env, ...)` mapped over `axes` axes."""
    mapped = functools.partial(function, env)
    for _ in range(axes):
        mapped = jax.vmap(mapped)
    return jax.jit(mapped)


def start(env, *batch, key=0):
    reset = compiled(base.reset, env, len(batch))
    return reset(jax.random.split(jax.random.key(key), batch))[0]


def steps(env, running, n, action=1, function=base.step):
    """n steps of a batch: (running, timesteps [n, ...])."""
    batch = running.t.shape
    keys = jax.random.split(jax.random.key(1), batch)
    actions = jnp.broadcast_to(jnp.asarray(action), (*batch, *env.action_space.shape))
    timesteps = []
    for _ in range(n):
        running, t = compiled(function, env, len(batch))(keys, running, actions)
        timesteps.append(t)
    return running, jax.tree.map(lambda *x: np.stack(x), *timesteps)


# --- parity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_parity_with_gymnasium(batch):
    """Observations, true final ones, rewards and flags, over several episodes that end and that are cut."""
    env = envs.make("gym:CartPole-v1", max_episode_steps=LIMIT)
    keys = jax.random.split(jax.random.key(3), batch)
    seeds = np.zeros(batch, int)
    for i in np.ndindex(batch):
        seeds[i] = int(jax.random.bits(keys[i]) >> 1)
    actions = np.random.default_rng(0).random((100, *batch)) < 0.5
    actions[:, ...] = np.where(np.arange(100).reshape(-1, *[1] * len(batch)) < 60, actions, 1)

    reset, advance = (lambda k: base.reset(env, k)), (lambda k, r, a: base.step(env, k, r, a))
    for _ in batch:
        reset, advance = jax.vmap(reset), jax.vmap(advance)

    @jax.jit
    def rollout(keys):
        running, obs = reset(keys)
        running, timesteps = jax.lax.scan(
            lambda r, a: advance(keys, r, a), running, jnp.asarray(actions, jnp.int32)
        )
        return obs, timesteps

    first, ours = jax.tree.map(np.asarray, rollout(keys))
    assert env.host.calls == 101  # one for the whole batch
    ends = set()
    for i in np.ndindex(batch):
        theirs = gymnasium.make("CartPole-v1", max_episode_steps=LIMIT)
        np.testing.assert_array_equal(first[i], theirs.reset(seed=int(seeds[i]))[0])
        for t, action in enumerate(actions[(slice(None), *i)]):
            obs, reward, terminated, truncated, _ = theirs.step(int(action))
            at = (t, *i)
            np.testing.assert_array_equal(ours.next_obs[at], obs)
            assert ours.reward[at] == reward
            assert ours.terminated[at] == terminated
            assert ours.truncated[at] == (truncated and not terminated)
            if terminated or truncated:
                ends.add(bool(terminated))
                obs, _ = theirs.reset()
            np.testing.assert_array_equal(ours.obs[at], obs)
    assert ends == {True, False} or not batch


def test_keys_make_the_start():
    env = envs.make("gym:CartPole-v1")
    a, b, again = start(env, 4), start(env, 4, key=1), start(env, 4)
    np.testing.assert_array_equal(a.state.obs, again.state.obs)
    assert len(np.unique(np.concatenate([a.state.obs, b.state.obs]), axis=0)) == 8


# --- episodes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "length", "ended"),
    [
        ({"end": 4}, 4, "terminated"),
        ({"cut": 4}, 4, "truncated"),  # by the environment itself
        ({}, 6, "truncated"),  # by the registered limit
        ({"max_episode_steps": 3}, 3, "truncated"),
        ({"end": 6}, 6, "terminated"),  # at the limit
    ],
)
def test_ends(options, length, ended):
    env = counter(**options)
    _, t = steps(env, start(env, 2), 13)
    clock = np.arange(13) % length + 1
    done = (clock == length)[:, None]
    np.testing.assert_array_equal(t.next_obs, np.stack([clock] * 2, 1))
    np.testing.assert_array_equal(t.obs, np.where(done, 0, t.next_obs))
    np.testing.assert_array_equal(t.reward, np.full((13, 2), 1.5))
    np.testing.assert_array_equal(getattr(t, ended), np.broadcast_to(done, (13, 2)))
    assert not np.any(t.terminated & t.truncated)


def test_types(counters):
    env = counter()
    assert env.observation_space == Counter.observation_space
    assert env.action_space == Counter.action_space
    running = start(env)
    assert running.state.obs.dtype == jnp.uint8
    assert running.state.obs.shape == ()
    steps(env, running, 1, action=6)
    assert [c.actions for c in counters if c.actions] == [[6]]


def test_actions_are_clipped_and_observations_are_float32():
    env = envs.make("gym:TestClipped-v0")
    assert env.observation_space.dtype == env.action_space.dtype == np.float32
    running = start(env)
    for action, seen in ((0.5, 0.5), (-3.0, 0.0), (7.0, 2.0)):
        running, t = steps(env, running, 1, action)
        assert t.obs == seen
        assert t.obs.dtype == jnp.float32


def test_an_observation_that_is_not_finite_ends_the_episode():
    env = envs.make("gym:TestClipped-v0")
    running = start(env, 2)
    seen = []
    for actions in ([0.5, 0.5], [1.0, 0.25], [0.5, 0.5], [0.5, 0.5]):
        running, t = steps(env, running, 1, np.array(actions)[:, None])
        seen.append((*t.next_obs.ravel().tolist(), *(t.terminated | t.truncated).ravel().tolist()))
    assert seen[1] == (0.5, 0.25, True, False)
    assert seen[2] == (0.5, 0.5, False, False)  # the next episode's first step: none in between
    assert seen[3] == (0.5, 0.5, False, False)


class Spoiled(gymnasium.Env):
    """Episodes of ten steps, observed by their number, each of which earns 1; at step `when` one of both is spoiled."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, when, obs=0.0, reward=0.0, render_mode=None):
        self.when, self.obs, self.reward, self.t = when, obs, reward, 0

    def _obs(self):
        return np.array([self.t + (self.obs if self.t == self.when else 0), 1.0])

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        reward = 1.0 + (self.reward if self.t == self.when else 0)
        return self._obs(), reward, self.t >= 10, False, {}


@pytest.fixture
def spoiled():
    gymnasium.register("TestSpoiled-v0", Spoiled, max_episode_steps=50)
    yield lambda **kwargs: envs.make("gym:TestSpoiled-v0", **kwargs)
    del gymnasium.registry["TestSpoiled-v0"]


@pytest.mark.parametrize(
    ("when", "options", "part"),
    [
        (5, {"obs": np.nan}, base.Bad.OBSERVATION),
        (5, {"obs": 1e300}, base.Bad.OBSERVATION),  # beyond float32
        (5, {"reward": np.inf}, base.Bad.REWARD),
        (10, {"reward": np.nan}, base.Bad.REWARD),  # with the episode's end
        (10, {"obs": np.nan}, base.Bad.OBSERVATION),
    ],
)
def test_gym_observation_not_finite(spoiled, when, options, part):
    """One episode after the other, none of a step that nobody took."""
    _, t = steps(spoiled(when=when, **options), start(spoiled(when=when, **options), 1), 4 * when)
    clock = np.arange(4 * when) % when + 1
    ended = clock == when
    np.testing.assert_array_equal((t.terminated | t.truncated)[:, 0], ended)
    np.testing.assert_array_equal(t.reward[:, 0], np.where(ended, 0, 1))
    np.testing.assert_array_equal(t.bad[:, 0] & part, np.where(ended, part, 0))
    np.testing.assert_array_equal(t.next_obs[:, 0, 0], np.where(ended, when - 1, clock))
    np.testing.assert_array_equal(t.obs[:, 0, 0], np.where(ended, 0, clock))


def test_after_what_is_not_finite_nothing_happens_without_a_restart(spoiled):
    env = spoiled(when=2, obs=np.nan)
    _, t = steps(env, start(env, 1), 4, function=base.advance)
    np.testing.assert_array_equal(t.reward[:, 0], [1, 0, 0, 0])
    np.testing.assert_array_equal(t.terminated[:, 0], [False, True, True, True])


def test_a_first_observation_that_is_not_finite_is_an_error_that_says_so(spoiled):
    said = "TestSpoiled-v0 failed in reset: ValueError: an episode's first observation is not finite: [nan 1.]"
    env = spoiled(when=0, obs=np.nan)
    assert failure(lambda: start(env, 1)) == said


def test_an_observation_beyond_its_discrete_space_is_refused(monkeypatch):
    monkeypatch.setattr(Counter, "observation_space", gymnasium.spaces.Discrete(3, start=-1))
    monkeypatch.setattr(Counter, "reset", lambda self, **_: (0, {}))
    env = counter()
    running = start(env, 1)
    said = "TestCounter-v0 failed in step: ValueError: its observation is {}, but its Discrete space goes from -1 to 1"
    for obs in (2, -2, 10**6):
        monkeypatch.setattr(
            Counter, "step", lambda self, action, obs=obs: (obs, 1.0, False, False, {})
        )
        assert failure(lambda: steps(env, running, 1)) == said.format(obs)


# --- tickets and slots ----------------------------------------------------------------------------------------------


def test_a_finished_episode_stands_still(counters):
    """As evaluation leaves it: no restart, and steps go on for the others."""
    env = counter(end=2).at(jnp.inf)
    running = start(env, 2)
    ahead, _ = steps(env, jax.tree.map(lambda x: x[:1], running), 1, 0, base.advance)
    running = jax.tree.map(lambda a, b: jnp.concatenate([a, b[1:]]), ahead, running)
    seen = []
    for _ in range(4):
        running, t = steps(env, running, 1, 0, base.advance)
        seen.append((t.obs[0].tolist(), t.terminated[0].tolist()))
    assert seen[0] == ([2, 1], [True, False])
    assert seen[1:] == [([2, 2], [True, True])] * 3
    assert sorted(len(c.actions) for c in counters if c.actions) == [2, 2]


def test_a_spent_state_is_cut_and_starts_afresh():
    env = counter()
    old, _ = steps(env, start(env, 3), 1)
    newer, _ = steps(env, old, 2)
    _, t = steps(env, old, 3)  # once more from where we were
    np.testing.assert_array_equal(t.truncated[:, 0], [True, False, False])
    np.testing.assert_array_equal(t.reward[:, 0], [0, 1.5, 1.5])
    np.testing.assert_array_equal(t.next_obs[:, 0], [1, 1, 2])
    _, t = steps(env, newer, 1)  # in turn no more to be had
    np.testing.assert_array_equal(t.truncated, [[True] * 3])
    np.testing.assert_array_equal(t.next_obs, [[3] * 3])
    assert len(env.host.slots) == 3
    assert not np.any(t.terminated)


def test_a_start_can_be_had_again():
    """Spent, from another process, or in several copies."""
    env, elsewhere = (envs.make("gym:CartPole-v1") for _ in range(2))
    running = start(env, 2)
    _, first = steps(env, running, 5)
    _, spent = steps(env, running, 5)
    _, unknown = steps(elsewhere, running, 5)
    copies = jax.tree.map(lambda x: jnp.repeat(x, 3, 0), running)
    _, copied = steps(env, copies, 5)
    for again in (spent, unknown, jax.tree.map(lambda x: x[:, ::3], copied)):
        jax.tree.map(np.testing.assert_array_equal, first, again)
    np.testing.assert_array_equal(copied.obs, np.repeat(first.obs, 3, 1))
    assert len(env.host.slots) == 6


def test_an_unknown_slot_gets_a_fresh_episode():
    """A state from a checkpoint, in a new process."""
    elsewhere = counter()
    state, _ = steps(elsewhere, start(elsewhere, 2), 1)
    env = counter()
    running, t = steps(env, state, 3)
    np.testing.assert_array_equal(t.truncated[:, 0], [True, False, False])
    np.testing.assert_array_equal(t.next_obs[:, 0], [1, 1, 2])
    assert list(env.host.slots) == np.asarray(state.state.slot).tolist()
    assert not np.intersect1d(start(env, 2).state.slot, running.state.slot).size


def test_copies_of_a_state_part():
    env = counter()
    running, _ = steps(env, start(env, 1), 1)
    running, t = steps(env, jax.tree.map(lambda x: jnp.repeat(x, 3, 0), running), 3)
    np.testing.assert_array_equal(t.truncated, [[False, True, True], [False] * 3, [False] * 3])
    np.testing.assert_array_equal(t.next_obs[2], [4, 2, 2])
    assert len(set(running.state.slot.tolist())) == 3


def test_training_keeps_no_more_than_it_says(counters, monkeypatch):
    monkeypatch.setattr(host, "_KEPT", 4)
    env = counter(max_episode_steps=50)
    running = start(env, 3)
    for i in range(6):
        start(env, 3, key=i)
        running, t = steps(env, running, 1)
        assert not np.any(t.truncated)  # in use, hence not taken away
    assert len(env.host.slots) <= 7
    assert len(counters) < 14


def test_environments_are_closed_with_their_host(counters):
    env = counter()
    start(env, 2)
    made = [c for c in counters if not c.closed]
    assert len(made) >= 2
    host.close_all(env.host.made)
    assert len([c for c in counters if not c.closed]) == len(made) - 2


def test_environments_are_closed_at_exit():
    code = """
import gymnasium, jax, envs
from gymnasium.envs.classic_control import CartPoleEnv
class Loud(CartPoleEnv):
    def close(self): print("closed")
gymnasium.register("Loud-v0", Loud, max_episode_steps=5)
env = envs.make("gym:Loud-v0")
print("made"); env.initial(jax.random.key(0))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert "closed" in run.stdout.partition("made")[2]


# --- learners -------------------------------------------------------------------------------------------------------


def test_ppo_trains_and_evaluation_does_not_pile_up():
    env = envs.make("gym:CartPole-v1", max_episode_steps=40)
    algo = PPO(
        PPOConfig(num_envs=4, num_steps=16, num_epochs=1, num_minibatches=2, hidden_sizes=(8,)), env
    )
    keys = jax.random.split(jax.random.key(0), 2)
    states = jax.jit(jax.vmap(algo.init))(keys)
    train = jax.jit(jax.vmap(algo.step))
    look = jax.jit(
        jax.vmap(lambda s, k: control.run_episodes(algo, s, k, False), in_axes=(0, None))
    )
    made = []
    for i in range(3):
        calls = env.host.calls
        states, metrics = train(states)
        assert env.host.calls == calls + 16
        assert np.isfinite(metrics["kl"]).all()
        episodes = look(states, jax.random.split(jax.random.key(i), 5))
        np.testing.assert_array_equal(episodes.returns, episodes.lengths)
        assert (episodes.lengths > 5).all()
        made.append((len(env.host.made), len(env.evaluation_host.made)))
    assert made == [(8, 10)] * 3
    again = look(states, jax.random.split(jax.random.key(i), 5))
    np.testing.assert_array_equal(again.returns, episodes.returns)


def test_a_slots_episode_survives_evaluation():
    env = counter(max_episode_steps=200)
    running, _ = steps(env, start(env, 2), 10)
    looking = env.at(jnp.inf)
    assert looking.at(jnp.inf).host is looking.host is not env.host
    steps(looking, start(looking, 3), 5)
    _, t = steps(env.at(7.0), running, 1)
    np.testing.assert_array_equal(t.obs, [[11, 11]])


# --- what cannot be ------------------------------------------------------------------------------------------------


def failure(function):
    """What is said of the failure of a call."""
    with pytest.raises(Exception, match=r"failed in") as error:
        jax.block_until_ready(function())
    return callback.host_failure(error.value)


def test_failures_are_reported():
    """In the program's first call, in later ones, and without a program."""
    loose = "TestCounter-v0 failed in step: KeyError: 'a loose screw'"
    for late in (1, 3):
        env = counter(fail=late)
        running = start(env, 2)
        if late > 1:
            running, _ = steps(env, running, late - 1)
        assert failure(lambda env=env, running=running: steps(env, running, 1)) == loose
    env = counter(fail=1)
    state = env.initial(jax.random.key(0))
    assert failure(lambda: env.transition(state, jnp.int32(0), jax.random.key(0))) == loose


@pytest.mark.parametrize(
    ("obs", "reward", "said"),
    [
        (
            np.zeros(1, np.uint8),
            0,
            "ValueError: its observation has shape (1,), but the space says ()",
        ),
        (300, 0, "ValueError: its observation 300 (int64) is not uint8"),
        (-1, 0, "ValueError: its observation -1 (int64) is not uint8"),
        (0.5, 0, "ValueError: its observation 0.5 (float64) is not uint8"),
        (None, 0, "ValueError: its observation None (object) is not uint8"),
        (3, None, "TypeError: its reward is None, not a number"),
        (3, "high", "TypeError: its reward is 'high', not a number"),
    ],
)
def test_bad_observations_and_rewards_are_refused(monkeypatch, obs, reward, said):
    env = counter()
    running = start(env, 1)
    monkeypatch.setattr(Counter, "step", lambda self, action: (obs, reward, False, False, {}))
    assert failure(lambda: steps(env, running, 1)) == f"TestCounter-v0 failed in step: {said}"
    if reward == 0:
        monkeypatch.setattr(Counter, "reset", lambda self, seed, options: (obs, {}))
        assert failure(lambda: start(env, 1)) == f"TestCounter-v0 failed in reset: {said}"


@pytest.mark.parametrize("obs", [7, np.int64(7), np.uint8(7), True])
def test_observations_of_other_types_that_fit(monkeypatch, obs):
    env = counter()
    monkeypatch.setattr(Counter, "step", lambda self, action: (obs, 1.0, False, False, {}))
    assert steps(env, start(env, 1), 1)[1].obs == [[int(obs)]]


def test_wide_integers(monkeypatch):
    """Are served where 32 bits hold them all."""
    for dtype, high, fits in ((np.int64, 9, True), (np.int64, 2**40, False), (np.uint64, 9, True)):
        space = gymnasium.spaces.Box(0, high, (), dtype)
        monkeypatch.setattr(Counter, "observation_space", space)
        if fits:
            assert counter().observation_space == gymnasium.spaces.Box(0, high, (), np.int32)
        else:
            with pytest.raises(ValueError, match=r"TestCounter-v0 are int64 and go beyond 32 bits"):
                counter()


@pytest.mark.parametrize(
    "error", [KeyError("5x5"), AssertionError(), SystemExit(3), OSError(2, "no")]
)
def test_whatever_fails_while_it_is_made_is_one_line(monkeypatch, error):
    def fails(**kwargs):
        raise error

    monkeypatch.setattr(gymnasium.registry["TestCounter-v0"], "entry_point", fails)
    with pytest.raises(ValueError, match=r"\Agym:TestCounter-v0 cannot be made: [^\n]*\Z") as said:
        counter()
    assert str(said.value).endswith(callback.one_line(error))
    assert type(error).__name__ in str(said.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "CartPol-v1",
            {},
            "gym:CartPol-v1 cannot be made: NameNotFound: Environment `CartPol` doesn",
        ),
        ("CartPole-v9", {}, "versioned environments: [ `v0`, `v1` ]"),
        ("no_such_module:Foo-v0", {}, "No module named 'no_such_module'"),
        ("CartPole-v1", {"wheels": 3}, "unexpected keyword argument 'wheels'"),
        (
            "CartPole-v1",
            {"max_episode_steps": 0},
            "max_episode_steps must be an integer of at least 1",
        ),
        ("TestEndless-v0", {}, "TestEndless-v0 has no time limit: give it one, as max_episode"),
        ("TestOdd-v0", {}, "the observations of TestOdd-v0 are Dict: only Box and Discrete"),
        ("TestOddActions-v0", {}, "the actions of TestOddActions-v0 are MultiBinary"),
        ("stride/Walker-v0", {}, "leave out gym:"),
        ("envs:stride/Walker-v0", {}, "leave out gym:"),
    ],
)
def test_impossible_environments(name, options, message):
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as error:
        envs.make(f"gym:{name}", **options)
    assert message in str(error.value)


def test_a_missing_package_is_named(monkeypatch):
    def fails(**kwargs):
        raise gymnasium.error.DependencyNotInstalled('run\n`pip install "gymnasium[box2d]"`')

    monkeypatch.setattr(gymnasium.registry["TestCounter-v0"], "entry_point", fails)
    with pytest.raises(ValueError, match=r'run `pip install "gymnasium\[box2d\]"`\Z'):
        counter()
