import gymnasium
import jax
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


class TestElement:
    """Raw actions as elements of an action space; each case has the value that a learner means."""

    @pytest.mark.parametrize(
        ("space", "raw", "wanted"),
        [
            (Box(-1.0, 1.0, (3,), np.float32), [-2.0, 0.3, 7.0], [-1.0, 0.3, 1.0]),
            (Box(0.0, 1000.0, (3,), np.float32), [0.4, -1.0, -1.5], [700.0, 0.0, 0.0]),
            (Box(100, 200, (3,), np.uint8), [0.0, 1.0, -9.0], [150, 200, 100]),
            (Box(-1, 1, (3,), np.int8), [0.6, -0.4, -0.6], [1, 0, -1]),
            (Box(0, 3, (3,), np.int32), [1.0, 0.4, -1.0], [3, 2, 0]),
            (Box(-np.inf, np.inf, (3,), np.float32), [-50.0, 0.3, 7.0], [-50.0, 0.3, 7.0]),
            (Box(0.0, np.inf, (3,), np.float32), [-5.0, 0.3, 7.0], [0.0, 0.3, 7.0]),
            (Box(-3e38, 3e38, (3,), np.float32), [-5.0, 0.3, 7.0], [-5.0, 0.3, 7.0]),
            (Box(0.5, 0.5, (1,), np.float32), [3.0], [0.5]),
        ],
        ids=str,
    )
    def test_of_a_box(self, space, raw, wanted):
        action = np.asarray(spaces.element(space, jnp.asarray(raw)))
        assert space.contains(action)
        np.testing.assert_allclose(action, wanted, rtol=1e-6)

    def test_coordinates_are_scaled_each_by_its_own_bounds(self):
        space = Box(
            np.array([-1.0, 0.0, -np.inf], np.float32), np.array([1.0, 8.0, 2.0], np.float32)
        )
        action = spaces.element(space, jnp.full((5, 3), 0.5))
        np.testing.assert_allclose(action, [[0.5, 6.0, 0.5]] * 5, rtol=1e-6)

    def test_of_bounds_of_1_is_the_raw_action_bit_for_bit(self):
        raw = jax.random.normal(jax.random.key(0), (1000, 2))
        action = spaces.element(Box(-1.0, 1.0, (2,), np.float32), raw)
        np.testing.assert_array_equal(action, np.clip(raw, -1.0, 1.0))

    @pytest.mark.parametrize("start", [0, -1, 5])
    def test_of_a_discrete_space_counts_from_its_start(self, start):
        action = spaces.element(Discrete(3, start=start), jnp.arange(3))
        np.testing.assert_array_equal(action, np.arange(3) + start)


class TestActions:
    @pytest.mark.parametrize(
        ("space", "message"),
        [
            (MultiBinary(2), "Learner needs Discrete or Box actions"),
            (Box(-1.0, 1.0, (0,), np.float32), "a vector of actions"),
            (Box(0, 2**31 - 1, (1,), np.int32), "whole-number actions within a million of 0"),
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


def test_actions_without_bounds_stay_as_they_are():
    """Without a word from NumPy about the sum of two infinities."""
    space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    np.testing.assert_array_equal(spaces.element(space, np.array([3.0, -0.5])), [3.0, -0.5])
