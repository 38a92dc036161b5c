"""One environment for each way in which it can be wrong."""

import sys

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.base import Env
from envs.callback import host_call
from experiments.user_envs import check, random_run


@flax.struct.dataclass
class Drift(Env):
    """Right in every way: a point that drifts until it is too far away."""

    push: float = 0.5
    max_episode_steps: int = flax.struct.field(pytree_node=False, default=50)

    observation_space = gymnasium.spaces.Box(-9.0, 9.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    render_fps = 10

    def initial(self, key):
        return {"x": jax.random.uniform(key, (2,)), "t": jnp.int32(0)}

    def transition(self, state, action, key):
        noise = 0.1 * jax.random.normal(key, (2,))
        return {"x": state["x"] + self.push * action[0] + noise, "t": state["t"] + 1}

    def observation(self, state):
        return state["x"]

    def reward(self, state, action, next_state):
        return -jnp.sum(next_state["x"] ** 2)

    def terminal(self, state):
        return jnp.any(jnp.abs(state["x"]) > 2.0)

    def render(self, state, width, height):
        return np.full((height, width, 3), 255, np.uint8)


def broken(**methods):
    """`Drift` with some methods or attributes replaced."""
    return flax.struct.dataclass(type("Broken", (Drift,), methods))()


def acting_in(low, high):
    return broken(action_space=gymnasium.spaces.Box(low, high, (1,), np.float32))


def counting(space):
    """Observes the step of its episode, 0 to 50."""
    return broken(
        observation_space=space,
        observation=lambda self, s: s["t"],
        terminal=lambda self, s: jnp.zeros((), bool),
    )


CALLS = {"n": 0}


def count():
    CALLS["n"] += 1
    return CALLS["n"]


def growing(self, state, action, key):
    state["t"] = state["t"] + 1
    return state


def with_fields(**fields):
    annotations = {name: type(value) for name, value in fields.items()}
    return broken(**fields, __annotations__=annotations)


def x_and_t(x, t):
    return lambda self, state, action, key: {"x": x(state), "t": t(state)}


def later(state):
    return state["t"] + 1


def moves(x):
    return x_and_t(x, later)


BROKEN = [
    (
        "it is an environment",
        with_fields(max_episode_steps=0),
        "has max_episode_steps 0: it must be",
    ),
    ("its fields", with_fields(label="a"), ".label holds a str"),
    (
        "its fields",
        broken(
            sizes=flax.struct.field(pytree_node=False, default_factory=lambda: [1]),
            __annotations__={"sizes": list},
        ),
        "cannot be hashed",
    ),
    ("spaces", broken(observation_space=3), "observation_space is a int"),
    (
        "spaces",
        broken(observation_space=gymnasium.spaces.Dict(x=Drift.observation_space)),
        "observation_space is Dict: learners here know Box and Discrete",
    ),
    (
        "spaces",
        broken(observation_space=gymnasium.spaces.MultiDiscrete([3, 3])),
        "observation_space is MultiDiscrete",
    ),
    ("spaces", broken(action_space=gymnasium.spaces.MultiBinary(2)), "Box and Discrete"),
    ("spaces", broken(action_space=gymnasium.spaces.Box(-1, 1, (1,), np.float64)), "float32"),
    (
        "initial",
        broken(initial=lambda self, key: {"x": np.asarray(jax.random.uniform(key, (2,)))}),
        "jax.numpy",
    ),
    (
        "transition keeps the state's shape",
        broken(transition=moves(lambda s: s["x"][:1])),
        "state['x'] is float32 (2,) from initial, but float32 (1,) from transition",
    ),
    (
        "transition keeps the state's shape",
        broken(transition=x_and_t(lambda s: s["x"], lambda s: s["t"] + 1.0)),
        "state['t'] is int32 () from initial, but float32 () from transition",
    ),
    (
        "transition keeps the state's shape",
        broken(transition=lambda self, state, action, key: {"x": state["x"]}),
        "initial gives a state with ['t'], transition one without",
    ),
    (
        "transition keeps the state's shape",
        broken(transition=moves(lambda s: s["x"] if s["t"] > 3 else -s["x"])),
        "a Python if",
    ),
    (
        "transition keeps the state's shape",
        broken(transition=moves(lambda s: jnp.zeros(int(s["t"])))),
        "depends on an array",
    ),
    (
        "transition keeps the state's shape",
        broken(transition=lambda self, state, action, key: sys.exit(3)),
        "SystemExit: 3",
    ),
    ("observation fits its space", broken(observation=lambda self, s: s["x"][:1]), "shape (1,)"),
    (
        "observation fits its space",
        broken(observation=lambda self, s: s["x"].astype(jnp.int32)),
        "dtype int32, but the space says float32",
    ),
    ("reward is a number", broken(reward=lambda self, s, a, n: n["x"]), "jnp.sum, perhaps"),
    ("reward is a number", broken(reward=lambda self, s, a, n: n["t"]), "return a float"),
    ("terminal is a bool", broken(terminal=lambda self, s: s["x"] > 2), "jnp.any, perhaps"),
    ("terminal is a bool", broken(terminal=lambda self, s: s["t"]), "return a bool"),
    ("info", broken(info=lambda self, s, a, n: {"x": n["x"]}), "info['x'] has shape (2,)"),
    ("info", broken(info=lambda self, s, a, n: {"x": "far"}), "info['x'] is a str: give one"),
    ("info", broken(info=lambda self, s, a, n: [n["t"]]), "info is a list: return a dict"),
    ("info", broken(info=lambda self, s, a, n: {f"n{count()}": n["t"]}), "keys change"),
    ("at", broken(at=lambda self, n: None), "return an environment"),
    (
        "functions are pure",
        broken(transition=moves(lambda s: s["x"] + np.random.default_rng().uniform())),
        "transition gives different results (['x']): draw from the key",
    ),
    ("functions are pure", broken(transition=growing), "transition changes the state"),
    (
        "functions are pure",
        broken(reward=lambda self, s, a, n: jnp.float32(count())),
        "reward gives different results",
    ),
    (
        "no episode is over at its start",
        broken(terminal=lambda self, s: s["x"][0] < 0.9),
        "over at their start",
    ),
    (
        "finite under random actions",
        broken(transition=moves(lambda s: jnp.where(s["t"] == 6, jnp.nan, s["x"]))),
        "state['x'] is not finite after 7 steps",
    ),
    (
        "finite under random actions",
        broken(initial=lambda self, key: {"x": jnp.full(2, jnp.nan), "t": jnp.int32(0)}),
        "state['x'] is not finite as initial gives it",
    ),
    (
        "finite under random actions",
        broken(reward=lambda self, s, a, n: jnp.log(-n["t"].astype(jnp.float32))),
        "reward is not finite after 1 steps",
    ),
    (
        "finite under random actions",
        broken(observation=lambda self, s: s["x"] / jnp.where(s["t"] < 3, 1, 0)),
        "observation is not finite after 3 steps",
    ),
    (
        "observations stay within bounds",
        broken(observation_space=gymnasium.spaces.Box(-9, 1.5, (2,), np.float32)),
        "the space ends at -9 and 1.5",
    ),
    (
        "observations stay within bounds",
        counting(gymnasium.spaces.Discrete(8)),
        "from 0 to 50 under",
    ),
    (
        "observations stay within bounds",
        counting(gymnasium.spaces.Discrete(60, start=1)),
        "ends at 1 and 60",
    ),
    (
        "how episodes end",
        broken(terminal=lambda self, s: s["t"] >= 50),
        "leave the time limit to max_episode_steps",
    ),
    ("pictures", broken(render_fps=0), "render_fps is 0"),
    ("pictures", broken(render_fps=float("nan")), "render_fps is nan"),
    ("pictures", broken(render_fps=-5.0), "render_fps is -5.0"),
    ("pictures", broken(render_fps=1e12), "a number from 0.05 to 10000"),
    ("pictures", broken(render=Env.render), "render is not written"),
    (
        "pictures",
        broken(render=lambda self, s, w, h: np.zeros((w, h, 3), np.uint8)),
        "(160, 90, 3)",
    ),
]

NOTES = [
    (
        "starts differ",
        broken(initial=lambda self, key: {"x": jnp.zeros(2), "t": jnp.int32(0)}),
        "the same state for every key",
    ),
    ("how episodes end", broken(terminal=lambda self, s: s["t"] >= 7), "after exactly 7 steps"),
    ("how episodes end", broken(terminal=lambda self, s: s["t"] < 0), "no episode terminated"),
    ("pictures", broken(render_fps=None), "no videos"),
    ("action bounds", acting_in(-np.inf, np.inf), "sac, td3 and ddpg refuse it"),
    ("action bounds", acting_in(0.0, 1e30), "bounds 0 and 1e+30 at [0]"),
    ("action bounds", acting_in(1.0, 1.0), "all but a single value"),
    ("action bounds", acting_in(1.0, np.nextafter(np.float32(1), 2)), "all but a single value"),
]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """The looks at random steps compile once for each environment: no more of them than needed."""
    monkeypatch.setattr(random_run, "STEPS", 120)


def only(env, name):
    """The findings of the checks that `name` stands on, and its own."""
    costly = ("works in batches", "finite under random actions")
    names = [c[0] for c in check.CHECKS]
    before = [c for c in check.CHECKS[: names.index(name)] if c[2] and c[0] not in costly]
    return check.check(env, checks=[*before, check.CHECKS[names.index(name)]])


def test_an_environment_that_is_right_passes_every_check():
    findings = check.check(Drift())
    assert [f.check for f in findings] == [name for name, _, _ in check.CHECKS]
    assert [f for f in findings if f.problem or f.note] == []
    assert check.passed(findings)


@pytest.mark.parametrize(
    ("name", "env", "words"), BROKEN, ids=[f"{name}: {words}" for name, _, words in BROKEN]
)
def test_what_is_wrong_is_found_and_said(name, env, words):
    findings = only(env, name)
    assert findings[-1].check == name
    assert words in findings[-1].problem
    assert not check.passed(findings)
    assert all(f.problem is None for f in findings[:-1])


@pytest.mark.parametrize(("name", "env", "words"), NOTES, ids=[words for _, _, words in NOTES])
def test_what_may_be_meant_is_noted(name, env, words):
    findings = only(env, name)
    assert words in findings[-1].note
    assert check.passed(findings)


def test_what_stands_on_a_broken_part_is_left():
    findings = check.check(broken(transition=moves(lambda s: s["x"][:1])))
    assert findings[-1].check == "transition keeps the state's shape"
    assert len(findings) < len(check.CHECKS)


def test_an_environment_that_looks_at_its_neighbours_is_found():
    class Neighbours(Drift):
        def observation(self, state):
            largest = jax.pure_callback(
                lambda x: np.full(x.shape, x.max(), np.float32),
                jax.ShapeDtypeStruct((2,), jnp.float32),
                state["x"],
                vmap_method="broadcast_all",
            )
            return jnp.where(state["t"] > 0, largest, state["x"])

    findings = only(flax.struct.dataclass(Neighbours)(), "works in batches")
    assert "see one environment only" in findings[-1].problem


def test_a_failure_on_the_host_is_one_line():
    def fail(x):
        raise RuntimeError("no power\nat all")

    def observation(self, state):
        return host_call(fail, jax.ShapeDtypeStruct((2,), jnp.float32), state["x"])

    findings = only(broken(observation=observation), "works in batches")
    assert findings[-1].problem.endswith(": RuntimeError: no power at all")
    assert "Traceback" not in findings[-1].problem


def test_a_discrete_space_that_holds_what_is_observed():
    for space in (gymnasium.spaces.Discrete(51), gymnasium.spaces.Discrete(54, start=-2)):
        assert check.passed(only(counting(space), "observations stay within bounds"))


def test_an_undecorated_class_is_told():
    class Plain(Drift):
        pass

    findings = check.check(Plain())
    assert "put @flax.struct.dataclass above class Plain" in findings[0].problem


def test_observations_of_any_finite_number_pass_without_a_warning():
    largest = np.finfo(np.float32).max
    env = broken(observation_space=gymnasium.spaces.Box(-largest, largest, (2,), np.float32))
    assert check.passed(check.check(env))
