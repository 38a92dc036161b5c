import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents import grpo, ppo
from agents.batch import Batch, Evaluation, Targets
from agents.core import surrogates
from agents.objectives import Objective, aggregation, clip_indicators, clip_objective

RATIO = jnp.array([[0.5, 1.0, 1.5], [0.9, 1.25, 2.0]])
LOGP = jnp.log(RATIO)
OLD = jnp.zeros((2, 3))
MASK = jnp.array([[True, True, True], [True, True, False]])


def test_indicators_of_the_clip_range():
    found = clip_indicators(LOGP, OLD, MASK, clip_low=0.2, clip_high=0.28)
    np.testing.assert_array_equal(found["clip_fraction_low"], [[1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found["clip_fraction_high"], [[0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize(
    ("how", "total", "denominator"),
    [
        ("token-mean", 15.0, 5.0),  # 1 + 2 + 3 + 4 + 5
        ("seq-mean-token-mean", 2.5 + 3.5 + 3.0, 3.0),
        ("token-sum-constant", 15.0, 30.0),
    ],
)
def test_aggregations(how, total, denominator):
    loss = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, jnp.nan]])
    found = aggregation(how, 10)(loss, MASK)
    np.testing.assert_allclose(found, (total, denominator))
    objective = clip_objective(0.2, 0.2, aggregation(how, 10))
    np.testing.assert_allclose(objective.sizes(MASK), (denominator, 5))
    np.testing.assert_allclose(objective.sizes(jnp.zeros_like(MASK)), (1, 1))


def problem():
    """A table of log-probs as the policy; everything is learnt on where the mask is True."""

    def evaluate(params, obs, action):
        logp = jnp.take_along_axis(params, obs, axis=1)
        return Evaluation(logp, jnp.zeros_like(logp), jnp.zeros_like(logp))

    obs = jnp.broadcast_to(jnp.arange(3), (2, 3))
    flags = jnp.zeros((2, 3), bool)
    zeros = jnp.zeros((2, 3))
    batch = Batch(obs, obs, OLD, zeros, flags, flags, MASK, zeros, zeros)
    advantage = jnp.array([[1.0, 1.0, 1.0], [-1.0, 2.0, 1.0]])
    return batch, Targets(advantage, zeros), evaluate


def step(name, objective, micro_batches=1):
    """The gradient by each log-prob, from one gradient step of size 1."""
    batch, targets, evaluate = problem()
    module, settings = {"ppo": (ppo, ppo.PPOSettings), "grpo": (grpo, grpo.GRPOSettings)}[name]
    config = settings(num_epochs=1, num_minibatches=1, micro_batches=micro_batches)
    if name == "ppo":
        config = dataclasses.replace(config, whiten_advantages=False)
    params, _, metrics = module.update(
        LOGP,
        optax.EmptyState(),
        jax.random.key(0),
        batch,
        targets,
        evaluate=evaluate,
        optimizer=optax.identity(),
        learning_rate=jnp.ones(()),
        entropy_coefficient=0.0,
        objective=objective,
        config=config,
    )
    return LOGP - params, metrics


@pytest.mark.parametrize("name", ["ppo", "grpo"])
@pytest.mark.parametrize("micro_batches", [1, 3])
class TestUpdatesTakeAnObjective:
    def test_of_ones_own(self, name, micro_batches):
        """Any function of the arguments: here the policy gradient without a ratio."""

        def surrogate(logp, old_logp, advantage, mask):
            return -logp * advantage

        objective = Objective(
            surrogate,
            aggregation("token-sum-constant", 10),
            lambda logp, old_logp, mask: {"ratio": jnp.exp(logp - old_logp)},
        )
        gradient, metrics = step(name, objective, micro_batches)
        expected = -np.array([[1, 1, 1], [-1, 2, 0]]) / 30
        np.testing.assert_allclose(gradient, expected, atol=1e-6)
        assert float(metrics["ratio"]) == pytest.approx((0.5 + 1 + 1.5 + 0.9 + 1.25) / 5)

    @pytest.mark.parametrize(
        ("how", "weight"),
        [
            ("token-mean", np.full((2, 3), 1 / 5)),
            ("seq-mean-token-mean", np.array([[1 / 6, 1 / 6, 1 / 3]] * 2)),
        ],
    )
    def test_of_the_clipped_surrogate(self, name, micro_batches, how, weight):
        gradient, metrics = step(name, clip_objective(0.2, 0.2, aggregation(how)), micro_batches)
        # Ratios above 1.2 with a positive advantage have no gradient, nor has what is masked.
        slope = -np.array([[0.5, 1.0, 0.0], [-0.9, 0.0, 0.0]])
        np.testing.assert_allclose(gradient, slope * weight, atol=1e-6)
        assert float(metrics["clip_fraction_low"]) == pytest.approx(1 / 5)
        assert float(metrics["clip_fraction_high"]) == pytest.approx(2 / 5)

    def test_of_sequences(self, name, micro_batches):
        """GSPO: the gradient of a sequence's ratio, the geometric mean, shared by its tokens."""
        objective = Objective(
            partial(surrogates.gspo, clip_low=10.0, clip_high=10.0),
            aggregation("seq-mean-token-mean"),
            lambda logp, old_logp, mask: {},
        )
        gradient, _ = step(name, objective, micro_batches)
        ratio = np.sqrt([0.5 * 0.9, 1.0 * 1.25])
        # d/dlogp_t of -s mean_t(A) is -s mean_t(A) / 2 for two tokens; over three sequences.
        first = -ratio[0] * np.mean([1, -1]) / 2 / 3
        second = -ratio[1] * np.mean([1, 2]) / 2 / 3
        expected = np.array([[first, second, -1.5 / 3], [first, second, 0.0]])
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_ppos_objectives():
    """At ratio 2 and advantage 1: clip 1.2, and no clip where the KL is penalised."""
    two, one, mask = jnp.log(jnp.full((1, 1), 2.0)), jnp.ones((1, 1)), jnp.ones((1, 1), bool)
    for name, loss in (("clip", -1.2), ("kl", -2.0)):
        objective = ppo.objective_of(ppo.PPOSettings(objective=name))
        found = objective.surrogate(two, jnp.zeros((1, 1)), one, mask)
        np.testing.assert_allclose(found, [[loss]], rtol=1e-6)
