import os
import subprocess
import sys
import warnings

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import envs
from envs import base, gym, probes

ID = "stride/Walker-v0"
N = 4


@pytest.fixture(scope="module")
def single():
    return gymnasium.make(ID)


@pytest.fixture(scope="module")
def vector():
    return gymnasium.make_vec(ID, num_envs=N, vectorization_mode="vector_entry_point")


@pytest.fixture(scope="module")
def short():
    """Falls, and episodes cut at 30 steps."""
    return gymnasium.make_vec(ID, num_envs=N, max_episode_steps=30)


def gymnasium_id(name):
    return ID if name == "walker" else f"stride/{name}"


REGISTERED = [name for name in envs.names() if not name.startswith("probe-")]
QUICK = ("walker", "CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Bandit-v0", "HalfCheetah-v5")


@pytest.mark.parametrize("name", REGISTERED)
def test_registration(name):
    spec, env = gymnasium.spec(gymnasium_id(name)), envs.make(name)
    tokens = name.startswith("tokens-")  # they end by themselves
    assert spec.max_episode_steps == (None if tokens else env.max_episode_steps)
    for space in (env.observation_space, env.action_space):
        # What Stable-Baselines3 can use: Box of float32 (of int32 to observe tokens) with actions in finite bounds, or
        # Discrete from 0.
        assert getattr(space, "start", 0) == 0
        number = np.int32 if tokens else np.float32
        assert isinstance(space, gymnasium.spaces.Discrete) or space.dtype == number
    if isinstance(env.action_space, gymnasium.spaces.Box):
        assert env.action_space.is_bounded()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in REGISTERED],
)
def test_check_env_is_clean(name, unchecked):
    """But for what it says of Gymnasium's own environments too: CartPole's speeds have no bound, and torques go
    beyond 1. (Unchecked, for options declared `float` are arrays inside the program.)"""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        env = gymnasium.make(gymnasium_id(name))
        check_env(env.unwrapped)
    said = [str(w.message) for w in said]
    if name == "CartPole-v1":
        said = [x for x in said if "Box observation space m" not in x]
    if name in ("Pendulum-v1", "InvertedPendulum-v5", "Pusher-v5"):
        said = [x for x in said if "normalized space" not in x]
    assert not said
    # Stable-Baselines3's own `check_env` asks for these types.
    obs, _ = env.reset(seed=0)
    following, reward, terminated, truncated, info = env.step(env.action_space.sample())
    for x in (obs, following):
        discrete = isinstance(env.observation_space, gymnasium.spaces.Discrete)
        assert isinstance(x, np.int64 if discrete else np.ndarray)
    assert [type(x) for x in (reward, terminated, truncated, info)] == [float, bool, bool, dict]


def test_no_import_is_needed_with_a_prefix():
    code = f"""
import warnings; warnings.simplefilter("error")
import gymnasium
env = gymnasium.make("envs:{ID}")
obs, _ = env.reset(seed=0)
print(obs.shape, env.spec.max_episode_steps)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout.split("\n")[-2:] == ["(31,) 400", ""], run.stderr


def test_seeded_resets(single):
    first, _ = single.reset(seed=1)
    second, _ = single.reset()
    other, _ = single.reset(seed=2)
    again, _ = single.reset(seed=1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(second, single.reset()[0])
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32


def test_step_is_that_of_the_core(single):
    """The same states, observations and rewards as base.reset and base.advance."""
    env = envs.make("walker")
    obs, _ = single.reset(seed=3)
    running = single.unwrapped._running
    np.testing.assert_array_equal(obs, env.observation(running.state))
    advance = jax.jit(base.advance)
    for action in np.random.default_rng(0).uniform(-1.5, 1.5, (10, 6)):
        clipped = jnp.asarray(action, jnp.float32)
        running, timestep = advance(env, jax.random.key(0), running, clipped)
        obs, reward, terminated, truncated, info = single.step(action)
        np.testing.assert_array_equal(obs, timestep.next_obs)
        assert reward == float(timestep.reward)
        assert (terminated, truncated) == (bool(timestep.terminated), False)
        assert info == {name: float(x) for name, x in timestep.info.items()}
        assert isinstance(reward, float)
        assert isinstance(terminated, bool)
    assert sum(v for k, v in info.items() if k.startswith("reward/")) == pytest.approx(reward)


def test_time_limit(single):
    """Legs held straight out of the floor's reach would be cheating: stand, and forgive falls."""
    single.reset(seed=0)
    for t in range(400):
        _, _, _, truncated, _ = single.step(np.zeros(6))
        assert truncated == (t == 399)


def test_time_limit_as_an_option():
    env = gymnasium.make(ID, max_episode_steps=2)
    env.reset(seed=0)
    assert [env.step(np.zeros(6))[3] for _ in range(2)] == [False, True]


def test_options_reach_the_environment():
    env = gymnasium.make(ID, torque_weight=0.22, observation="mathworks").unwrapped.env
    assert env.torque_weight == 0.22
    assert env.layout == "mathworks"
    ramp = gymnasium.make(ID, torque_weight_ramp=(0.0, 0.0, 1e6)).unwrapped.env
    assert ramp.torque_weight == pytest.approx(0.02)  # as at the end of training


@flax.struct.dataclass
class Cut(probes.TruncationOnly):
    """Cut off after the second step, for a reason of its own."""

    def truncated(self, state):
        return state[1] >= 2


def test_truncation_by_the_environment_itself():
    env = gym.GymEnv(Cut())
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(2)] == [(False, False), (False, True)]
    many = gym.GymVectorEnv(Cut(), 2)
    many.reset(seed=0)
    assert [many.step(np.zeros(2, int))[3].all() for _ in range(4)] == [False, True] * 2


def test_step_or_render_before_reset():
    mode = {"render_mode": "rgb_array"}
    single, many = gym.make_gym("walker", **mode), gym.make_gym_vector("walker", N, **mode)
    for env, action in ((single, np.zeros(6)), (many, np.zeros((N, 6)))):
        with pytest.raises(gymnasium.error.ResetNeeded, match="call reset before step"):
            env.step(action)
        with pytest.raises(gymnasium.error.ResetNeeded, match="call reset before render"):
            env.render()


def test_another_environment_compiles_nothing():
    def programs():
        env = gymnasium.make("stride/HalfCheetah-v5")
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.close()
        return gym._reset._cache_size(), gym._step._cache_size()

    assert programs() == programs()


def test_reset_has_no_options(single, vector):
    for env in (single, vector):
        for nothing in (None, {}):
            env.reset(seed=0, options=nothing)
        with pytest.raises(ValueError, match=r"\Areset takes no options, got low, high: [^\n]*\Z"):
            env.reset(seed=0, options={"low": 1.0, "high": 2.0})


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(5), "shape (6,) is wanted, got (5,)"),
        (0.0, "shape (6,) is wanted, got ()"),
        (np.full(6, np.nan), "not finite"),
        (np.array([0, 0, 0, 0, 0, np.inf]), "not finite"),
    ],
)
def test_bad_actions(single, vector, action, message):
    single.reset(seed=0)
    vector.reset(seed=0)
    many = message.replace("(6,)", f"({N}, 6)").replace("(5,)", f"({N}, 5)")
    many = many.replace("()", f"({N},)")
    for env, a, text in ((single, action, message), (vector, np.stack([action] * N), many)):
        with pytest.raises(ValueError, match=r"action") as error:
            env.unwrapped.step(a)
        assert text in str(error.value)
        assert "\n" not in str(error.value)


def test_no_time_limit():
    """-1, which is what it means to `gymnasium.make`."""
    env = gymnasium.make_vec("stride/CliffWalking-v1", num_envs=2, max_episode_steps=-1)
    env.reset(seed=0)
    assert not any(env.step(np.zeros(2, int))[3].any() for _ in range(3))
    assert gymnasium.make("stride/CartPole-v1", max_episode_steps=-1).spec.max_episode_steps is None


def test_a_token_task_has_no_other_limit():
    with pytest.raises(ValueError, match="tokens-sort takes no max_episode_steps: "):
        gymnasium.make_vec("stride/tokens-sort", num_envs=2, max_episode_steps=3)


@pytest.mark.parametrize("n", [0, -1])
def test_impossible_number_of_environments(n):
    with pytest.raises(ValueError, match="num_envs must be at least 1"):
        gym.make_gym_vector("walker", n)


# --- many at once ---------------------------------------------------------------------------------------------------


def run(env, steps):
    """Yields (obs, reward, terminated, truncated, infos) of each step under random actions."""
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        yield env.step(rng.uniform(-1, 1, (N, 6)))


def test_vector_shapes_and_types(vector):
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert vector.observation_space.shape == (N, 31)
    assert vector.single_observation_space.shape == (31,)
    obs, infos = vector.reset(seed=0)
    assert vector.observation_space.contains(obs)
    assert infos == {}
    obs, reward, terminated, truncated, infos = vector.step(vector.action_space.sample())
    assert vector.observation_space.contains(obs)
    assert reward.shape == terminated.shape == truncated.shape == (N,)
    assert reward.dtype == np.float64
    assert terminated.dtype == truncated.dtype == np.bool_
    for name in infos:
        assert infos[name].shape == (N,)


def test_vector_seeds(vector):
    first, _ = vector.reset(seed=1)
    other, _ = vector.reset(seed=2)
    again, _ = vector.reset(seed=1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first, axis=0)) == N


def test_a_list_of_seeds(vector, single):
    """One for each environment, which starts as a single one does from that seed, wherever it stands."""
    first, _ = vector.reset(seed=[7, 1, 7, 3])
    for obs, seed in zip(first, [7, 1, 7, 3], strict=True):
        np.testing.assert_array_equal(obs, single.reset(seed=seed)[0])
    actions = np.random.default_rng(0).uniform(-1, 1, (N, 6)).astype(np.float32)
    steps = [vector.step(actions)[0] for _ in range(3)]
    again, _ = vector.reset(seed=(7, 1, np.int64(7), 3))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(steps, [vector.step(actions)[0] for _ in range(3)])
    following = []
    for _ in range(2):
        vector.reset(seed=[7, 1, 7, 3])
        following.append(vector.reset()[0])
    np.testing.assert_array_equal(*following)


def test_a_list_of_seeds_with_chance_in_it(vector):
    first, _ = vector.reset(seed=[4, None, 4, None])
    second, _ = vector.reset(seed=[4, None, 4, None])
    np.testing.assert_array_equal(first[[0, 2]], second[[0, 2]])
    assert not np.array_equal(first[1], second[1])
    assert not np.array_equal(first[1], first[3])
    assert np.isfinite(vector.reset(seed=[None] * N)[0]).all()


@pytest.mark.parametrize("seeds", [[1], [], list(range(N + 1))])
def test_another_number_of_seeds_is_refused(vector, seeds):
    vector.reset(seed=0)
    with pytest.raises(ValueError, match=f"{len(seeds)} seeds for {N} environments"):
        vector.reset(seed=seeds)


_FORKED = """
import os, signal, sys
import envs, jax.numpy as jnp
from envs import gym

jnp.ones(3).sum().block_until_ready()
for name in envs.names():
    child = os.fork()
    if not child:
        signal.alarm(30)  # a computation would wait for ever
        try:
            if name.startswith("probe-") or sys.argv[1] == "single":
                gym.make_gym(name).reset(seed=0)
            else:
                gym.make_gym_vector(name, 2).reset(seed=[0, 1])
        except RuntimeError as error:
            os._exit(7 if 'vector_kwargs={"context": "spawn"}' in str(error) else 8)
        os._exit(9)
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked here")
@pytest.mark.parametrize("view", [pytest.param("single", marks=pytest.mark.slow), "vector"])
def test_async_vector_env_says_what_a_fork_does(view):
    """In a forked process, at once, in place of waiting for ever."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKED, view],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    codes = dict(line.rsplit(" ", 1) for line in run.stdout.splitlines())
    assert codes == dict.fromkeys(envs.names(), "7")


def test_vector_steps_are_those_of_the_core(vector):
    env = envs.make("walker")
    vector.reset(seed=5)
    running = vector.unwrapped._running
    actions = np.random.default_rng(0).uniform(-1, 1, (N, 6)).astype(np.float32)
    obs, reward, _, _, infos = vector.step(actions)
    _, timestep = jax.vmap(base.advance, (None, None, 0, 0))(
        env, jax.random.key(0), running, actions
    )
    np.testing.assert_allclose(obs, timestep.obs, atol=1e-6)
    np.testing.assert_allclose(reward, timestep.reward, atol=1e-6)
    np.testing.assert_allclose(infos["reward/forward"], timestep.info["reward/forward"])


def test_episodes_restart_in_the_same_step(short):
    env, count, t = short.unwrapped.env, 0, np.zeros(N, int)
    for obs, _, terminated, truncated, infos in run(short, 70):
        t += 1
        assert not (terminated & truncated).any()
        np.testing.assert_array_equal(truncated, (t == 30) & ~terminated)
        done = terminated | truncated
        assert ("final_obs" in infos) == done.any()
        for i in np.flatnonzero(done):
            final = infos["final_obs"][i]
            assert final.shape == (31,)
            assert not np.array_equal(final, obs[i])
            # the true last one: fallen, or not yet
            y, z, angles = final[0], 0.21 + 0.05 * final[1], np.abs(final[5:8])
            fallen = z <= 0.1 or abs(y) > 1 or (angles >= np.pi / 4).any()
            assert fallen == terminated[i]
            # the new episode's first one
            assert (np.abs(obs[i, 5:8]) < 1e-6).all()
            assert abs(obs[i, 1]) < 0.3
            count += 1
        t[done] = 0
        np.testing.assert_array_equal(t, short.unwrapped._running.t)
    assert count > N
    assert env.max_episode_steps == 30


def test_costly_resets_come_from_a_bank(monkeypatch):
    monkeypatch.setattr(gym, "_BANK_STEPS", 8)
    env = gym.make_gym_vector("walker", N, max_episode_steps=3)
    calls, starts = [], []
    for _ in range(2):
        env.reset(seed=0)
        for _ in range(16):
            before = env.env.engine.calls
            obs, _, _, truncated, _ = env.step(np.zeros((N, 6)))
            calls.append(env.env.engine.calls - before)
            starts += [*obs[truncated]]
    # One for the steps of all, and one where a bank is made. (Resets are drawn, not computed.)
    assert calls == ([2] + [1] * 7) * 4
    first, again = np.split(np.stack(starts), 2)
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first, axis=0)) > 15


def layout(infos):
    """The names in it, with kinds and shapes; floats of any width alike."""
    return {
        name: layout(x) if isinstance(x, dict) else (x.dtype.kind, x.shape)
        for name, x in infos.items()
    }


def test_infos_are_laid_out_as_gymnasiums(short):
    sync = SyncVectorEnv(
        [lambda: gymnasium.make(ID, max_episode_steps=30)] * N,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    seen = {}
    for env in (sync, short):
        for *_, terminated, truncated, infos in run(env, 35):
            done = terminated | truncated
            kind = "all" if done.all() else "some" if done.any() else "none"
            seen.setdefault(kind, {})[env] = infos
            ended = ~done if kind != "all" else np.zeros(N, bool)
            for name in ("reward/forward", "nonfinite"):
                mask = infos.get(f"_{name}", np.zeros(N, bool))
                np.testing.assert_array_equal(mask, ended)
                assert not np.any(infos.get(name, np.zeros(N))[~mask])
            if kind != "none":
                np.testing.assert_array_equal(infos["_final_obs"], done)
                np.testing.assert_array_equal(infos["_final_info"], done)
                np.testing.assert_array_equal(infos["final_info"]["_reward/forward"], done)
                assert [obs is not None for obs in infos["final_obs"]] == [*done]
    for kind in ("none", "some"):
        theirs, ours = seen[kind][sync], seen[kind][short]
        assert layout(ours) == layout(theirs)


def test_wrappers_that_record_episodes(short):
    env = RecordEpisodeStatistics(short)
    returns, lengths, ended = np.zeros(N), np.zeros(N, int), 0
    for _, reward, terminated, truncated, infos in run(env, 70):
        returns, lengths = returns + reward, lengths + 1
        done = terminated | truncated
        if done.any():
            np.testing.assert_array_equal(infos["_episode"], done)
            np.testing.assert_allclose(infos["episode"]["r"][done], returns[done])
            np.testing.assert_array_equal(infos["episode"]["l"][done], lengths[done])
            ended += done.sum()
        returns[done], lengths[done] = 0, 0
    assert ended > N
    assert env.episode_count == ended


# --- other views ----------------------------------------------------------------------------------------------------


def test_as_func_env():
    env = envs.make("probe-delayed")
    functional = gym.as_func_env(env)
    key = jax.random.key(0)
    state = functional.initial(key)
    assert functional.observation(state, key) == 0
    following = functional.transition(state, jnp.int32(1), key)
    assert functional.observation(following, key) == 1
    assert functional.reward(state, jnp.int32(1), following, key) == 0
    assert not functional.terminal(following, key)
    assert functional.transition_info(state, jnp.int32(1), following) == {}
    assert functional.observation_space is env.observation_space
    assert functional.action_space is env.action_space


def test_probes_as_gymnasium_environments():
    """Discrete actions and scalar ones too."""
    env = gym.make_gym("probe-action")
    env.reset(seed=0)
    assert [env.step(action)[1] for action in (0, 1)] == [-1.0, 1.0]
    many = gym.make_gym_vector("probe-truncation", 3)
    many.reset(seed=0)
    results = [many.step(np.zeros(3, int)) for _ in range(3)]
    assert [r[1].tolist() for r in results] == [[0.0] * 3, [1.0] * 3, [1.0] * 3]
    assert results[-1][3].all()
    np.testing.assert_array_equal(np.stack([*results[-1][4]["final_obs"]]), np.zeros((3, 1)))
    np.testing.assert_array_equal(results[-1][0], np.ones((3, 1)))


def test_discrete_observations():
    """Of 64 bits, as Gymnasium's are, single and batched."""
    env = gymnasium.make("stride/FrozenLake-v1", is_slippery=False)
    assert env.reset(seed=0)[0] == 0
    assert env.step(2)[0] == 1
    many = gymnasium.make_vec("stride/FrozenLake-v1", num_envs=3, is_slippery=False)
    obs, _ = many.reset(seed=0)
    assert obs.dtype == many.observation_space.dtype == np.int64
    assert many.step(np.full(3, 2))[0].tolist() == [1, 1, 1]
    obs, _, terminated, _, infos = many.step(np.array([1, 2, 3]))  # down, into a hole
    assert obs.tolist() == [0, 2, 1]
    assert terminated.tolist() == [True, False, False]
    assert [*infos["final_obs"]] == [5, None, None]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (2, r"the action 2 is not in Discrete\(2\)"),
        (-1, "the action -1 is not in"),
        (0.9, "an action of int64 is wanted, got float64"),
        (None, "an action of int64 is wanted, got object"),
    ],
)
def test_impossible_discrete_actions(action, message):
    env, many = gym.make_gym("probe-action"), gym.make_gym_vector("probe-action", 2)
    env.reset(seed=0)
    many.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    with pytest.raises(ValueError, match="action"):
        many.step([action, action])


def test_actions_of_narrower_types():
    env = gym.make_gym("probe-action")
    env.reset(seed=0)
    assert [env.step(a)[1] for a in (np.int32(1), np.uint8(1), True, np.array(1))] == [1.0] * 4


def test_render():
    env = gymnasium.make(ID, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert before.dtype == np.uint8
    assert before.ndim == 3
    assert before.shape[2] == 3
    assert before.std() > 5
    for _ in range(10):
        env.step(np.ones(6))
    assert not np.array_equal(before, env.render())
    assert gymnasium.make(ID).unwrapped.render() is None
    many = gym.make_gym_vector("walker", 2, render_mode="rgb_array")
    many.reset(seed=0)
    frames = many.render()
    assert [frame.shape for frame in frames] == [before.shape] * 2
    lake = gymnasium.make("stride/FrozenLake-v1", render_mode="rgb_array")
    lake.reset(seed=0)
    assert lake.render().shape == before.shape
    assert lake.metadata["render_fps"] == 4


def test_gymnasium_collects_pictures():
    env = gymnasium.make("stride/CartPole-v1", render_mode="rgb_array_list")
    env.reset(seed=0)
    env.step(0)
    frames = env.render()
    assert [(f.shape, f.dtype) for f in frames] == [((360, 640, 3), np.uint8)] * 2
    assert not np.array_equal(*frames)


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("walker", "human", "render_mode must be rgb_array or None; got 'human'"),
        ("Bandit-v0", "rgb_array", "must be None: there is nothing to see"),
    ],
)
def test_impossible_render_modes(name, mode, message):
    for make in (gym.make_gym, gym.make_gym_vector):
        with pytest.raises(ValueError, match=message):
            make(name, render_mode=mode)
