import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary

from agents import spaces
from envs import probes


def env_with(action_space):
    class Odd(probes.ConstantReward):
        pass

    Odd.action_space = action_space
    return Odd()


class TestEncode:
    def test_a_box_is_flattened_whatever_the_batch(self):
        space = Box(-1.0, 1.0, (2, 3), np.float32)
        obs = np.arange(24.0).reshape(4, 2, 3)
        assert spaces.num_inputs(space) == 6
        np.testing.assert_array_equal(spaces.encode(space, obs), obs.reshape(4, 6))
        np.testing.assert_array_equal(spaces.encode(space, obs[0]), obs[0].reshape(6))
        assert spaces.encode(space, obs.reshape(2, 2, 2, 3)).shape == (2, 2, 6)

    def test_a_box_without_axes_is_one_input(self):
        space = Box(-1.0, 1.0, (), np.float32)
        assert spaces.num_inputs(space) == 1
        assert spaces.encode(space, np.zeros(5)).shape == (5, 1)

    def test_whole_numbers_become_floats(self):
        obs = np.array([[0, 255]], np.uint8)
        out = spaces.encode(Box(0, 255, (2,), np.uint8), obs)
        assert out.dtype == jnp.float32
        np.testing.assert_array_equal(out, [[0.0, 255.0]])

    def test_a_number_is_one_hot_from_where_the_space_starts(self):
        space = Discrete(3, start=-1)
        assert spaces.num_inputs(space) == 3
        np.testing.assert_array_equal(spaces.encode(space, np.array([-1, 1])), np.eye(3)[[0, 2]])

    def test_other_spaces_are_refused(self):
        with pytest.raises(ValueError, match="need Box or Discrete observations"):
            spaces.num_inputs(MultiBinary(3))


def test_outputs_are_logits_or_coordinates():
    assert spaces.num_outputs(Discrete(4)) == 4
    assert spaces.num_outputs(Box(-1.0, 1.0, (3,), np.float32)) == 3


class TestActions:
    @pytest.mark.parametrize(
        ("space", "message"),
        [
            (MultiBinary(2), "Learner needs Discrete or Box actions"),
            (Discrete(3, start=1), "counted from 0"),
            (Box(-1.0, 1.0, (2, 2), np.float32), "a vector of actions"),
            (Box(-1.0, 1.0, (), np.float32), "a vector of actions"),
        ],
    )
    def test_impossible_ones_are_refused(self, space, message):
        with pytest.raises(ValueError, match=message):
            spaces.require_actions("Learner", env_with(space), Discrete, Box)

    def test_only_the_kinds_asked_for(self):
        spaces.require_actions("Learner", env_with(Discrete(2)), Discrete)
        with pytest.raises(ValueError, match="Learner needs Box actions, got Discrete"):
            spaces.require_actions("Learner", env_with(Discrete(2)), gymnasium.spaces.Box)

    @pytest.mark.parametrize(
        ("low", "high"), [(-np.inf, 1.0), (0.0, np.inf), (-1e30, 1e30), (0.5, 0.5)]
    )
    def test_a_box_without_a_range_is_refused(self, low, high):
        low, high = (np.array([-1.0, x], np.float32) for x in (low, high))
        high[0] = 1.0
        with pytest.raises(ValueError, match="needs bounded actions"):
            spaces.require_bounds("Learner", env_with(Box(low, high)))

    def test_bounded_boxes_and_numbers_pass(self):
        spaces.require_bounds("Learner", env_with(Box(-3.0, 1.0, (2,), np.float32)))
        spaces.require_bounds("Learner", env_with(Discrete(2)))
