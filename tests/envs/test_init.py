import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import pytest

import envs
from envs import base, probes

PROBES = [name for name in envs.names() if name.startswith("probe-")]
advance = jax.jit(base.advance)
one = jnp.int32(1)


def test_names():
    assert "walker" in envs.names()
    assert envs.names() == sorted(envs.names())
    assert len(PROBES) == 5


@pytest.mark.parametrize("name", envs.names())
def test_make(name):
    env = envs.make(name)
    assert isinstance(env, base.Env)
    obs = jax.eval_shape(lambda key: base.reset(env, key)[1], jax.random.key(0))
    assert obs.shape == env.observation_space.shape
    assert obs.dtype == jax.dtypes.canonicalize_dtype(env.observation_space.dtype)


def test_all_but_the_probes_are_registered_with_gymnasium():
    ids = {i.removeprefix("stride/") for i in gymnasium.registry if i.startswith("stride/")}
    assert ids == {*envs.names(), "Walker-v0"} - {"walker", *PROBES}


def test_make_passes_options_on():
    assert envs.make("probe-truncation", max_episode_steps=7).max_episode_steps == 7


LIMITED = [name for name in envs.names() if not name.startswith("tokens-")]


@pytest.mark.parametrize("limit", [0, -3, 2.5, True])
@pytest.mark.parametrize("name", [*LIMITED, "gym:CartPole-v1"])
def test_time_limits_are_positive_integers(unchecked, name, limit):
    with pytest.raises(
        ValueError, match=r"\Amax_episode_steps must be an integer of at least 1, got"
    ):
        envs.make(name, max_episode_steps=limit)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("wlaker", "unknown environment 'wlaker': did you mean walker?"),
        ("Walker", "did you mean walker?"),
        ("probe-delay", "did you mean probe-delayed?"),
        ("zzzz", "choose from Acrobot-v1, "),
    ],
)
def test_unknown_name_gets_the_nearest(wrong, message):
    with pytest.raises(ValueError, match=r"unknown environment") as error:
        envs.make(wrong)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_gymnasiums_own_environments():
    env = envs.make("gym:CartPole-v1", max_episode_steps=7)
    assert env.max_episode_steps == 7
    assert env.observation_space.shape == (4,)
    assert "gym:CartPole-v1" not in envs.names()


def test_register(monkeypatch):
    monkeypatch.setattr(envs, "_FACTORIES", dict(envs._FACTORIES))
    envs.register("mine", lambda **kwargs: kwargs)
    assert envs.make("mine", size=3) == {"size": 3}
    assert "mine" in envs.names()
    with pytest.raises(ValueError, match="'mine' is taken"):
        envs.register("mine", dict)
    with pytest.raises(ValueError, match="'walker' is taken"):
        envs.register("walker", dict)


def test_importing_envs_is_cheap():
    code = (
        "import envs, sys; assert not {'mujoco', 'flax', 'envs.gym', 'envs.host'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_environment_with_nothing_to_see_says_so():
    env = envs.make("probe-constant")
    assert env.render_fps is None
    with pytest.raises(NotImplementedError, match="ConstantReward has nothing to draw"):
        env.render(env.initial(jax.random.key(0)), 32, 32)


def value(env, policy, discount, key=0):
    """Discounted sum of rewards from the first observation on; a time limit interrupts but does not end."""
    running, obs = base.reset(env, jax.random.key(key))
    first, total, weight = obs[0], 0.0, 1.0
    for _ in range(150):
        running, timestep = advance(env, jax.random.key(0), running, policy(obs))
        total, weight, obs = (
            total + weight * float(timestep.reward),
            weight * discount,
            timestep.obs,
        )
        if timestep.terminated:
            break
    return float(first), total


@pytest.mark.parametrize("discount", [0.5, 0.9])
@pytest.mark.parametrize(
    ("env", "best", "by_hand"),
    [
        (probes.ConstantReward(), lambda obs: one, lambda g: 1),
        (probes.RewardIsAction(), lambda obs: one, lambda g: 1),
        (probes.RewardIsAction(continuous=True), lambda obs: jnp.array([0.5]), lambda g: 0),
        (probes.DelayedReward(), lambda obs: one, lambda g: g),
        (probes.TruncationOnly(), lambda obs: one, lambda g: g / (1 - g)),
    ],
    ids=["constant", "action", "continuous", "delayed", "truncation"],
)
def test_values_of_the_probes(env, best, by_hand, discount):
    assert value(env, best, discount)[1] == pytest.approx(by_hand(discount), abs=1e-5)


def test_reward_is_observation():
    env = envs.make("probe-observation")
    firsts, totals = zip(*[value(env, lambda obs: one, 0.9, key) for key in range(12)], strict=True)
    assert totals == firsts
    assert set(firsts) == {-1.0, 1.0}


def test_reward_is_action_by_hand():
    env = probes.RewardIsAction()
    state = env.initial(jax.random.key(0))
    assert [float(env.reward(state, jnp.int32(a), state)) for a in (0, 1)] == [-1, 1]
    env = probes.RewardIsAction(continuous=True)
    assert float(env.reward(state, jnp.array([-0.5]), state)) == -1


@pytest.mark.parametrize("name", PROBES)
def test_lengths_of_the_probes(name):
    env = envs.make(name)
    length, ends = {
        "probe-delayed": (2, "terminated"),
        "probe-truncation": (3, "truncated"),
    }.get(name, (1, "terminated"))
    running, _ = base.reset(env, jax.random.key(0))
    for t in range(length):
        running, timestep = base.advance(env, jax.random.key(0), running, one)
        done = timestep.terminated | timestep.truncated
        assert bool(done) == (t == length - 1)
    assert getattr(timestep, ends)
