"""What is looked at before a training in somebody's own environment."""

import textwrap

import gymnasium
import numpy as np
import pytest

import envs
from experiments.console import exits
from experiments.run import command
from experiments.run.spec import make_env
from experiments.user_envs import preflight

HEAD = """
import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from envs.base import Env


@flax.struct.dataclass
class Cart(Env):
    max_episode_steps: int = flax.struct.field(pytree_node=False, default=10)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def initial(self, key):
        return jnp.stack([jax.random.uniform(key), 0.0])

    def transition(self, state, action, key):
        return jnp.stack([state[0] + 0.1 * action[0], state[1] + 1])

    def observation(self, state):
        return state

    def reward(self, state, action, next_state):
        return jnp.float32(1.0)

    def terminal(self, state):
        return jnp.zeros((), bool)


@flax.struct.dataclass
class One(Cart):
"""


@pytest.fixture
def named(tmp_path):
    """The lines of a class on top of `Cart` to the name of that environment."""

    def name(lines):
        path = tmp_path / "odd.py"
        path.write_text(HEAD + textwrap.indent(textwrap.dedent(lines), "    "))
        return f"{path}:One"

    return name


REFUSED = {
    "reward is not finite after 1 steps of random actions": "def reward(self, s, a, n): return jnp.float32(np.nan)",
    "reward is not finite after 1 steps of": "def reward(self, s, a, n): return jnp.log(-jnp.ones(()))",
    "reward has shape (1,)": "def reward(self, s, a, n): return jnp.ones(1)",
    "reward has dtype int32": "def reward(self, s, a, n): return jnp.int32(1)",
    "observation is not finite after a reset": (
        "def observation(self, s): return jnp.where(s[1] == 0, jnp.nan, s)"
    ),
    "observation is not finite after 1 steps": (
        "def observation(self, s): return jnp.where(s[1] > 0, jnp.inf, s)"
    ),
    "observation has shape (3,), but the space says (2,)": (
        "def observation(self, s): return jnp.zeros(3)"
    ),
    "observation has dtype int32": "def observation(self, s): return jnp.zeros(2, jnp.int32)",
    "but the space ends at 0 and 2": (
        "observation_space = gymnasium.spaces.Discrete(3)\n"
        "def observation(self, s): return s[1].astype(jnp.int32)"
    ),
    "observation[1] goes from 0 to 10": (
        "observation_space = gymnasium.spaces.Box(-5, 5, (2,), np.float32)"
    ),
    "odd.py, line 35: KeyError: 'x'": "def reward(self, s, a, n): return {}['x']",
    "odd.py, line 36: RuntimeError: a loose screw": (
        "def transition(self, s, a, k):\n    raise RuntimeError('a loose\\n screw')"
    ),
    "a Python if, while": "def terminal(self, s): return True if s[0] > 2 else False",
    "render_fps is nan": "render_fps = float('nan')",
    "low must not be above high": (
        "action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)\n"
        "action_space.low = np.full(1, 2.0, np.float32)"
    ),
}


@pytest.mark.parametrize(("words", "lines"), REFUSED.items(), ids=REFUSED)
def test_training_on_nonsense_is_refused_in_one_line(tmp_path, named, capsys, words, lines):
    out = tmp_path / "run"
    flags = ["--env", named(lines), "--algo", "ppo", "--out", str(out), "--no-video"]
    assert command.main(flags) == exits.BAD_INPUT
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not out.exists()


SAID = {
    "": "pass",
    "reward is not finite in 9.4% of 256 first steps": (
        "def reward(self, s, a, n): return jnp.where(n[1] == 10, jnp.nan, 1.0)"
    ),
    "action_space has bounds -inf and inf at [0]": (
        "action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)"
    ),
    "bounds 1 and 1 at [0]: all but a single value": (
        "action_space = gymnasium.spaces.Box(1.0, 1.0, (1,), np.float32)"
    ),
}


@pytest.mark.parametrize(("words", "lines"), SAID.items(), ids=[w or "nothing" for w in SAID])
def test_what_happens_now_and_then_or_may_be_meant_is_a_warning(named, words, lines):
    name = named(lines)
    said = preflight.require_sound(name, make_env(name, {}))
    assert len(said) == bool(words)
    assert all(words in line for line in said)


def test_a_rounded_cosine_is_within_its_bounds(named):
    name = named(
        "observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)\n"
        "def observation(self, s): return jnp.full(2, 1.0000002)"
    )
    assert preflight.require_sound(name, make_env(name, {})) == []


class Odd(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2, start=3)

    def __init__(self, obs=0.0, reward=1.0, start=0.0, when=0, render_mode=None):
        self.shown, self.reward, self.start, self.when, self.t = obs, reward, start, when, 0

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.full(1, self.start, np.float32), {}

    def step(self, action):
        assert action in (3, 4)
        self.t += 1
        odd = self.t > self.when
        obs = self.shown if odd else 0.0
        return np.full(1, obs, np.float32), self.reward if odd else 1.0, False, False, {}


@pytest.fixture
def odd():
    gymnasium.register("TestOdd-v1", Odd, max_episode_steps=50)
    yield lambda **kwargs: envs.make("gym:TestOdd-v1", **kwargs)
    del gymnasium.registry["TestOdd-v1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward": np.nan}, "reward is not finite in any of its first 8 steps"),
        ({"reward": np.inf}, "reward is not finite in any of its first 8 steps"),
        ({"obs": np.nan}, "observation is not finite in any of its first 8 steps"),
        ({"start": np.nan}, "failed in reset: ValueError: an episode's first observation"),
        ({"reward": "high"}, "failed in step: TypeError: its reward is 'high', not a number"),
    ],
)
def test_gym_environments_are_refused_in_one_line(odd, options, words):
    with pytest.raises(ValueError, match=rf"\A[^\n]*{words}[^\n]*\Z"):
        preflight.require_sound("gym:TestOdd-v1", odd(**options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, None),
        ({"reward": np.nan, "when": 3}, "reward is not finite in 2 of 8 first steps"),
        ({"obs": 1.5, "when": 3}, "observation[0] was 1.5, but its space goes from -1 to 1"),
    ],
)
def test_gym_environments_are_warned_of(odd, options, words):
    said = preflight.require_sound("gym:TestOdd-v1", odd(**options))
    assert len(said) == (words is not None)
    assert all(words in line for line in said)


def test_one_that_somebody_registered_is_looked_at(named):
    """By whatever name it goes."""
    env = make_env(named("def observation(self, s): return jnp.zeros(3)"), {})
    with pytest.raises(ValueError, match=r"\AOne: observation has shape .*--check 'my cart' looks"):
        preflight.require_sound("my cart", env)


def test_environments_of_this_package_are_passed_over(monkeypatch):
    monkeypatch.setattr(preflight.check, "check", None)
    assert preflight.require_sound("CartPole-v1", envs.make("CartPole-v1")) == []
