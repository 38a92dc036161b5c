import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gymnasium.spaces import Box, Discrete

from agents.q_values import (
    ActionGrid,
    QNetwork,
    epsilon_greedy,
    greedy,
    value_of,
)
from agents.schedules import linear

LOW, HIGH = np.array([-2.0, 0.1, -0.3], np.float32), np.array([1.0, 0.7, 5.0], np.float32)
JOINTS = ActionGrid(Box(LOW, HIGH), 4)
BUTTONS = ActionGrid(Discrete(5), 3)


class TestChoices:
    def test_coordinates_and_values(self):
        assert (JOINTS.coordinates, JOINTS.values) == (3, 4)
        assert (BUTTONS.coordinates, BUTTONS.values) == (1, 5)  # bins are for a Box

    def test_the_ends_are_the_bounds_and_steps_are_equal(self):
        choice = jnp.arange(4)[:, None] * jnp.ones(3, jnp.int32)
        action = np.asarray(JOINTS.action(choice))
        np.testing.assert_array_equal(action[[0, -1]], [[-1.0] * 3, [1.0] * 3])
        np.testing.assert_allclose(np.diff(action, axis=0), 2 / 3, rtol=1e-5)

    def test_they_may_span_a_part_of_the_range(self):
        narrow = ActionGrid(JOINTS.space, 5, 0.6)
        choice = jnp.arange(5)[:, None] * jnp.ones(3, jnp.int32)
        action = np.asarray(narrow.action(choice))
        np.testing.assert_allclose(action[[0, 2, 4]], [[-0.6] * 3, [0.0] * 3, [0.6] * 3], atol=1e-6)
        np.testing.assert_array_equal(narrow.choice(jnp.asarray(action)), choice)

    @pytest.mark.parametrize("bins", [2, 3, 4, 101])
    def test_choice_undoes_action(self, bins):
        choices = ActionGrid(Box(LOW, HIGH), bins)
        choice = choices.random(jax.random.key(0), 200)
        np.testing.assert_array_equal(choices.choice(choices.action(choice)), choice)
        assert choices.choice(choices.action(choice)).dtype == jnp.int32

    def test_choice_undoes_action_of_a_discrete_space(self):
        choice = BUTTONS.random(jax.random.key(0), 50)
        action = BUTTONS.action(choice)
        assert action.shape == (50,)
        np.testing.assert_array_equal(BUTTONS.choice(action), choice)

    def test_random_choices_are_uniform_and_independent(self):
        choice = np.asarray(JOINTS.random(jax.random.key(1), 6400))
        joint = np.ravel_multi_index(choice.T, (4, 4, 4))
        count = np.bincount(joint, minlength=64)  # 100 each, standard deviation 10
        np.testing.assert_allclose(count, 100, atol=45)


class TestDecoupledValues:
    def test_the_mean_over_joints(self):
        q = jax.random.normal(jax.random.key(0), (6, 3, 4))
        choice = JOINTS.random(jax.random.key(1), 6)
        expected = [
            np.mean([q[b, d, choice[b, d]] for d in range(3)])  #
            for b in range(6)
        ]
        np.testing.assert_allclose(value_of(q, choice), expected, rtol=1e-5)

    def test_greedy_is_the_best_of_all_combinations(self):
        q = np.asarray(jax.random.normal(jax.random.key(2), (8, 3, 4)))
        everything = np.array(list(itertools.product(range(4), repeat=3)))  # [64, 3]
        total = np.stack([q[:, d, everything[:, d]] for d in range(3)]).mean(axis=0)  # [8, 64]
        best = greedy(jnp.asarray(q))
        np.testing.assert_array_equal(best, everything[total.argmax(axis=1)])
        np.testing.assert_allclose(value_of(jnp.asarray(q), best), total.max(axis=1), rtol=1e-5)


def by_hand(network, obs):
    """Plain NumPy, hidden layers of one rectified linear unit each, normalised where the network does."""
    x = np.asarray(obs, float)
    for layer, norm in zip(network.hidden, network.norms, strict=True):
        x = x @ np.asarray(layer.kernel[...], float) + np.asarray(layer.bias[...])
        if norm is not None:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = np.maximum(x, 0.0)
    head = x @ np.asarray(network.head.kernel[...]) + np.asarray(network.head.bias[...])
    return x, head.reshape(*head.shape[:-1], *network.shape)


class TestQNetwork:
    obs = np.asarray(jax.random.normal(jax.random.key(3), (2, 5, 6)))

    @pytest.mark.parametrize("layer_norm", [False, True])
    def test_against_numpy(self, layer_norm):
        network = QNetwork(6, JOINTS, (8, 7), layer_norm=layer_norm, rngs=nnx.Rngs(0))
        out = network(jnp.asarray(self.obs))
        assert out.shape == (2, 5, 3, 4)
        np.testing.assert_allclose(out, by_hand(network, self.obs)[1], atol=1e-5)

    def test_duelling_advantages_have_mean_zero(self):
        network = QNetwork(6, JOINTS, (8,), dueling=True, rngs=nnx.Rngs(0))
        out = np.asarray(network(jnp.asarray(self.obs)))
        hidden, advantage = by_hand(network, self.obs)
        value = hidden @ np.asarray(network.value.kernel[...]) + np.asarray(network.value.bias[...])
        np.testing.assert_allclose(out.mean(axis=-1), np.repeat(value, 3, axis=-1), atol=1e-5)
        differences = advantage - advantage[..., :1]
        np.testing.assert_allclose(out - out[..., :1], differences, atol=1e-5)

    def test_without_hidden_layers_it_is_linear(self):
        network = QNetwork(6, BUTTONS, (), rngs=nnx.Rngs(0))
        np.testing.assert_allclose(
            network(jnp.asarray(2 * self.obs)), 2 * network(jnp.asarray(self.obs)), atol=1e-5
        )


class TestEpsilonGreedy:
    q = jnp.tile(jax.random.normal(jax.random.key(4), (1, 3, 4)), (4000, 1, 1))

    def test_zero_is_greedy(self):
        choice = epsilon_greedy(self.q, JOINTS, 0.0, jax.random.key(0))
        np.testing.assert_array_equal(choice, greedy(self.q))

    @pytest.mark.parametrize("batch", [(), (2,), (3, 2)])
    def test_any_axes_of_a_batch(self, batch):
        q = jnp.broadcast_to(self.q[0], (*batch, 3, 4))
        for epsilon in (0.0, 1.0):
            assert epsilon_greedy(q, JOINTS, epsilon, jax.random.key(0)).shape == (*batch, 3)

    def test_each_coordinate_is_random_for_itself(self):
        choice = epsilon_greedy(self.q, JOINTS, 0.5, jax.random.key(0))
        as_greedy = np.asarray(choice == greedy(self.q))
        # Half are greedy, and a quarter of the other half; standard error 0.008.
        np.testing.assert_allclose(as_greedy.mean(axis=0), 0.625, atol=0.03)
        # In how many of the three joints an action is greedy: binomial.
        counts = np.bincount(as_greedy.sum(axis=1), minlength=4) / len(as_greedy)
        p = 0.625
        binomial = [(1 - p) ** 3, 3 * p * (1 - p) ** 2, 3 * p**2 * (1 - p), p**3]
        np.testing.assert_allclose(counts, binomial, atol=0.03)


def test_linear():
    now = np.array([0, 50, 100, 150])
    values = [linear(1.0, 0.2, 100.0, jnp.asarray(t)) for t in now]
    np.testing.assert_allclose(values, [1.0, 0.6, 0.2, 0.2], rtol=1e-6)
    assert linear(1.0, 0.2, 0.0, jnp.asarray(1)) == pytest.approx(0.2)
