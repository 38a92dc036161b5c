import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import envs
from agents import spaces
from envs import probes
from envs.callback import host_failure
from envs.host_values import Observations, jax_space


@pytest.mark.parametrize("what", ["observations", "actions"])
@pytest.mark.parametrize(
    "space",
    [
        Discrete(2**33),
        Discrete(2**31 + 1),
        Discrete(5, start=2**31 - 4),
        Discrete(5, start=-(2**31) - 1),
        Discrete(5, start=2**40),
        Box(0, 2**33, (2,), np.int64),
        Box(-(2**40), 0, (2,), np.int64),
        Box(0, 2**63, (2,), np.uint64),
    ],
    ids=str,
)
def test_discrete_beyond_32_bits(space, what):
    with pytest.raises(
        ValueError, match=rf"the {what} of Far-v0 are u?int64 and go beyond 32 bits"
    ):
        jax_space(space, what, "Far-v0")
    with pytest.raises(ValueError, match="go beyond 32 bits") as error:
        spaces.num_inputs(space)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "space",
    [
        Discrete(2**31),
        Discrete(5, start=2**31 - 5),
        Discrete(5, start=-(2**31)),
        Box(-(2**31), 2**31 - 1, (2,), np.int64),
        Box(0, 255, (2,), np.uint8),
        Box(0, 2**32 - 1, (2,), np.uint32),
        Box(-1, 1, (2,), np.float64),
    ],
    ids=str,
)
def test_what_32_bits_hold_passes(space):
    jax_space(space, "observations", "Near-v0")


def test_a_discrete_space_that_no_network_could_see_is_refused():
    class Many(probes.ConstantReward):
        action_space = Discrete(2**20 + 1)

    with pytest.raises(ValueError, match=r"observation of Discrete\(2097152\) .* at most 1048576"):
        spaces.num_inputs(Discrete(2**21))
    with pytest.raises(ValueError, match=r"an action of Discrete\(1048577\) .* at most 1048576"):
        spaces.require_actions("PPO", Many(), Discrete)
    assert spaces.num_inputs(Discrete(2**20)) == 2**20


def test_an_observation_outside_its_discrete_space_is_refused():
    checked = Observations(Discrete(3, start=2), Discrete(3, start=2)).checked
    assert [checked(np.int64(x)) for x in (2, 4)] == [2, 4]
    for outside in (1, 5, 2**32 + 2):
        with pytest.raises(
            ValueError,
            match=f"its observation is {outside}, but its Discrete space goes from 2 to 4",
        ):
            checked(np.int64(outside))


class Old(gymnasium.Env):
    """As Gym had it before 0.26, in one method or both."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(self, old_reset=False, old_step=False, render_mode=None):
        self.old_reset, self.old_step = old_reset, old_step

    def reset(self, *, seed=None, options=None):
        obs = np.zeros(2, np.float32)
        return obs if self.old_reset else (obs, {})

    def step(self, action):
        outcome = np.zeros(2, np.float32), 0.0, False
        return (*outcome, {}) if self.old_step else (*outcome, False, {})


@pytest.fixture
def registered():
    gymnasium.register("TestOld-v0", Old, max_episode_steps=5)
    yield
    del gymnasium.registry["TestOld-v0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"old_reset": True},
            "failed in reset: TypeError: its reset returned one value of type ndarray, where Gymnasium wants "
            "(observation, info): the observation alone is Gym's way before 0.26",
        ),
        (
            {"old_step": True},
            "failed in step: TypeError: its step returned 4 values, where Gymnasium wants (observation, reward, "
            "terminated, truncated, info): four values with one `done` are Gym's way before 0.26",
        ),
    ],
)
def test_an_environment_of_the_old_gym(registered, options, message):
    env = envs.make("gym:TestOld-v0", **options)

    def play(key):
        return env.transition(env.initial(key), jnp.int32(0), key)

    with pytest.raises(Exception, match="TestOld-v0 failed in") as error:
        jax.block_until_ready(play(jax.random.key(0)))
    assert host_failure(error.value) == f"TestOld-v0 {message}"
