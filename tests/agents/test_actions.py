"""Actions that reach an environment are elements of its action space, whoever acts: in training and by `act`."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from agents import ALGORITHMS
from agents.rollout import Steps, collect_steps, start
from envs import probes
from envs.base import Env

SPACES = {
    "one": Box(-1.0, 1.0, (2,), np.float32),
    "scaled": Box(np.array([0.0, -2.0], np.float32), np.array([1000.0, 0.1], np.float32)),
    "whole numbers": Box(100, 200, (2,), np.uint8),
    "signs": Box(-1, 1, (2,), np.int8),
    "open": Box(np.array([0.0, -np.inf], np.float32), np.array([np.inf, 3.0], np.float32)),
    "buttons": Discrete(3),
    "shifted": Discrete(3, start=-1),
}
SMALL = {
    "total_steps": 512,
    "num_envs": 4,
    "num_steps": 4,
    "num_minibatches": 1,
    "num_epochs": 1,
    "hidden_sizes": (4,),
    "warmup_steps": 16,
    "buffer_size": 64,
    "batch_size": 4,
    "group_size": 2,
    "update_ratio": 0.25,
    "num_pairs": 16,
    "segment_length": 2,
    "reward_hidden_sizes": (4,),
    "initial_reward_updates": 1,
    "initial_log_std": 2.0,  # most samples lie beyond the bounds
}
STEPWISE = [name for name in ALGORITHMS if not name.endswith("-iteration")]


@flax.struct.dataclass
class Recorder(probes.TruncationOnly):
    """State: the last action, as the environment was given it; the reward counts what is no element."""

    name: str = flax.struct.field(pytree_node=False, default="one")  # a Box has no hash
    observation_space = Discrete(1)

    @property
    def action_space(self):
        return SPACES[self.name]

    def initial(self, key):
        return jnp.zeros(self.action_space.shape), jnp.zeros((), jnp.int32)

    def transition(self, state, action, key):
        assert action.dtype == jax.dtypes.canonicalize_dtype(self.action_space.dtype)
        return action.astype(jnp.float32), state[1] + 1

    def observation(self, state):
        return jnp.zeros((), jnp.int32)

    def reward(self, state, action, next_state):
        return jnp.any(outside(self.action_space, action)).astype(jnp.float32)


def outside(space, action):
    if isinstance(space, Discrete):
        return (action < space.start) | (action >= space.start + space.n)
    return (action < space.low.astype(np.float32)) | (action > space.high.astype(np.float32))


def make(name: str, env: Env):
    kind = ALGORITHMS[name]
    fields = {field.name for field in dataclasses.fields(kind.Config)}
    return kind(kind.Config(**{k: v for k, v in SMALL.items() if k in fields}), env)


# PPO on every space, learners on a Box of another scale, one of each way to act on numbers; the others by hand.
ALIKE = (  # they act as PPO, SAC and TD3 do
    *("pref-ppo", "impala", "crossq", "xqc", "ddpg", "trpo", "a2c", "reinforce", "grpo"),
)
FAST = {("dqn", "shifted"), ("pqn", "shifted"), ("sac", "whole numbers")}
PAIRS = [
    pytest.param(
        name,
        space,
        marks=()
        if name == "ppo" or (space == "scaled" and name not in ALIKE) or (name, space) in FAST
        else pytest.mark.slow,
    )
    for name in STEPWISE
    for space in SPACES
]


@pytest.mark.parametrize(("name", "space"), PAIRS)
def test_training_and_acting_give_elements(name, space):
    env = Recorder(name=space)
    try:
        algo = make(name, env)
    except ValueError as error:
        assert "needs" in str(error)  # noqa: PT017 which algorithms take which spaces, others test
        pytest.skip(str(error))
    state = jax.jit(algo.init)(jax.random.key(0))
    state, metrics = jax.jit(algo.step)(state)
    assert metrics["train/return"] == 0.0

    @jax.jit
    def act(state):
        obs, key = jnp.zeros(32, jnp.int32), jax.random.key(1)
        return [algo.act(state, obs, key, deterministic) for deterministic in (True, False)]

    for actions in map(np.asarray, act(state)):
        assert not np.any(outside(env.action_space, actions))
        assert actions.dtype == jax.dtypes.canonicalize_dtype(env.action_space.dtype)


def test_a_rollout_keeps_the_raw_action_for_its_log_prob():
    env = Recorder(name="scaled")
    raw = jnp.array([[3.0, 0.5], [-3.0, 0.0]])
    stream = start(env, jax.random.key(0), 2)
    _, steps, _ = collect_steps(
        env, lambda obs, key: (raw, jnp.zeros(2)), stream, jax.random.key(1), 1, 0.9
    )
    assert isinstance(steps, Steps)
    np.testing.assert_array_equal(steps.action[0], raw)
    np.testing.assert_array_equal(steps.reward, 0.0)


@pytest.mark.parametrize(
    "name",
    [
        "sac",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("ppo", "a2c", "dqn", "pqn", "td3")),
    ],
)
def test_an_action_beyond_the_bounds_costs_what_the_bound_costs(name):
    """The cost of HalfCheetah's actions: at most 0.6 a step, of six torques of 1 at most."""
    from envs import make as make_env

    env = make_env("HalfCheetah-v5", forward_reward_weight=0.0)
    algo = make(name, env)
    state = jax.jit(algo.init)(jax.random.key(0))
    _, metrics = jax.jit(algo.step)(state)
    assert -0.6 - 1e-6 <= metrics["reward_ctrl"] < 0.0
