"""Formulas of language-model learners against a public library's, verl: `fixtures/verl.json` says how it was made."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents import grpo
from agents.batch import Batch, Evaluation, Targets
from agents.core import kl, policy_losses, returns, value_losses
from agents.groups import group_targets

STORED = json.loads((Path(__file__).parent / "fixtures/verl.json").read_text())
# Theirs are [N, T].
GIVEN = {name: jnp.asarray(x, jnp.float32).T for name, x in STORED["inputs"].items()}
GIVEN["mask"] = GIVEN["mask"].astype(bool)
THEIRS = STORED["outputs"]
T, N = GIVEN["mask"].shape


def batch():
    """Columns know which they are, for an update deals them out in any order."""
    column = jnp.broadcast_to(jnp.arange(N), (T, N))
    length = GIVEN["mask"].sum(axis=0)
    return Batch(
        obs=column,
        action=column,
        logp=GIVEN["old"],
        value=GIVEN["values"],
        next_value=jnp.concatenate([GIVEN["values"][1:], jnp.zeros((1, N))]),
        reward=GIVEN["reward"],
        terminated=jnp.arange(T)[:, None] == length - 1,
        truncated=jnp.zeros((T, N), bool),
        mask=GIVEN["mask"],
        ref_logp=GIVEN["ref"],
    )


def close(ours, theirs):
    np.testing.assert_allclose(ours, np.asarray(theirs).T, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("scale", "name"), [(True, "advantage_grpo"), (False, "advantage_dr_grpo")]
)
def test_group_advantages(scale, name):
    targets, found = group_targets(batch(), STORED["group_size"], scale=scale)
    close(targets.advantage, THEIRS[name])
    assert found["frac_zero_std"] == pytest.approx(1 / 3)


def test_leave_one_out_advantages():
    advantage = returns.leave_one_out_advantages(GIVEN["reward"].sum(axis=0), STORED["group_size"])
    close(jnp.where(GIVEN["mask"], advantage, 0.0), THEIRS["advantage_rloo"])


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_kl_estimators(name):
    close(getattr(kl, name)(GIVEN["new"], GIVEN["ref"]), THEIRS[f"kl_{name}"])


@pytest.mark.parametrize(
    ("name", "advantage", "settings"),
    [
        ("loss_grpo_k3", "advantage_grpo", {"aggregation": "seq-mean-token-mean"}),
        (
            "loss_grpo_k2",
            "advantage_grpo",
            {"aggregation": "seq-mean-token-mean", "kl_estimator": "k2"},
        ),
        ("loss_token_mean", "advantage_grpo", {"aggregation": "token-mean"}),
        ("loss_dr_grpo", "advantage_dr_grpo", {"aggregation": "token-sum-constant"}),
    ],
)
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_update_of_grpo(name, advantage, settings, micro_batches):
    """Its loss, and the gradient by every token's log-probability: one step of size 1 goes down it."""
    config = grpo.GRPOSettings(
        num_epochs=1,
        num_minibatches=1,
        micro_batches=micro_batches,
        clip_high=0.28,
        kl_coefficient=STORED["beta"],
        kl_estimator=settings.get("kl_estimator", "k3"),
        aggregation=settings["aggregation"],
    )

    def evaluate(params, obs, action):
        logp = jnp.take_along_axis(params, obs, axis=1)
        return Evaluation(logp, jnp.zeros_like(logp), jnp.zeros_like(logp))

    @jax.jit
    def update(batch, targets):
        return grpo.update(
            GIVEN["new"],
            optax.EmptyState(),
            jax.random.key(0),
            batch,
            targets,
            evaluate=evaluate,
            optimizer=optax.identity(),
            learning_rate=jnp.ones(()),
            entropy_coefficient=0.0,
            objective=grpo.objective_of(config, T),
            config=config,
        )

    advantages = jnp.asarray(THEIRS[advantage], jnp.float32).T
    params, _, metrics = update(batch(), Targets(advantages, jnp.zeros((T, N))))
    assert float(metrics["loss/policy"]) == pytest.approx(THEIRS[name]["loss"], rel=2e-5)
    # Differences of numbers near 1 keep seven digits of the numbers, not of the difference.
    np.testing.assert_allclose(
        GIVEN["new"] - params, np.asarray(THEIRS[name]["grad_logp"]).T, atol=1e-6
    )


def test_value_loss():
    each = value_losses.clipped_value_loss(
        GIVEN["new_values"], GIVEN["values"], GIVEN["returns"], 0.2
    )
    total, count = policy_losses.aggregate(each, GIVEN["mask"], "token-mean")
    assert float(total / count) == pytest.approx(THEIRS["value_loss"], rel=1e-5)


def test_masked_whitening():
    close(returns.masked_whiten(GIVEN["returns"], GIVEN["mask"]), THEIRS["whitened"])


def test_generalised_advantages():
    b = batch()
    advantage = returns.gae(
        b.reward, b.value, b.next_value, b.terminated, b.truncated, 0.99, 0.9, b.mask
    )
    close(
        jnp.where(b.mask, advantage + b.value, 0.0),
        np.where(GIVEN["mask"].T, THEIRS["gae_returns"], 0.0),
    )
