"""Losses of preferences and of the GRPO family against TRL, veRL and OpenRLHF, in value and gradient.

`fixtures/make_alignment.py` made what is compared with, in double precision, and says how. One sequence is wholly
masked: theirs counts it in means over sequences in some places, ours never; each test says where.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.core import kl, policy_losses, returns, reward_scores, surrogates
from agents.core import preference_losses as pref

FIXTURES = Path(__file__).parent / "fixtures"
TRL, VERL, OPENRLHF = (
    dict(np.load(FIXTURES / f"{name}.npz"))
    for name in ("trl-0.28.0", "verl-0.9.1", "openrlhf-0.11.0")
)
GROUP = 4


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def given(name):
    """An input, [T, N] where theirs is [N, T]."""
    return jnp.asarray(TRL[f"in/{name}"].T)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def check(loss, policy, theirs, name, factor=1.0):
    """`loss(logp)`, of any shape, against theirs, and the gradient of its mean."""
    logp = given(policy)

    def mean(logp):
        each = loss(logp)
        return jnp.mean(each), each

    slope, each = jax.jit(jax.grad(mean, has_aux=True))(logp)
    close(each, theirs[f"{name}/loss"] * factor)
    close(slope, theirs[f"{name}/grad"].T * factor)


def test_all_libraries_had_the_same_inputs():
    for name in (name for name in VERL if name.startswith("in/")):
        np.testing.assert_array_equal(TRL[name], VERL[name])
        np.testing.assert_array_equal(TRL[name], OPENRLHF[name])
    assert not TRL["in/mask"][-1].any()


def pairs(logp, normalise=False):
    """Log-probs of chosen and rejected responses."""
    logps = pref.sequence_logp(logp, given("mask"), normalise)
    return logps[0::2], logps[1::2]


def log_ratios(logp):
    return [a - b for a, b in zip(pairs(logp), pairs(given("ref")), strict=True)]


def ipo(logp, normalise):
    lengths = given("mask").sum(axis=0)
    return pref.ipo_loss(*log_ratios(logp), lengths[0::2], lengths[1::2], 0.3, normalise=normalise)


PAIR_LOSSES = {
    "dpo": lambda logp: pref.dpo_loss(*log_ratios(logp), 0.3),
    "cdpo": lambda logp: pref.dpo_loss(*log_ratios(logp), 0.3, 0.1),
    "ipo": partial(ipo, normalise=True),
    "ipo-sum": partial(ipo, normalise=False),
    "simpo": lambda logp: pref.simpo_loss(*pairs(logp, True), 2.0, 0.7),
    "simpo-smooth": lambda logp: pref.simpo_loss(*pairs(logp, True), 2.0, 0.7, 0.1),
    # Theirs is infinite on the last pair, where a mean log-prob is 0.
    "orpo": lambda logp: 0.25 * pref.odds_ratio_loss(*(p[:-1] for p in pairs(logp, True))),
}


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_losses_of_pairs_against_trl(name):
    check(PAIR_LOSSES[name], "new", TRL, name)


@pytest.mark.parametrize("name", ["dpo", "cdpo", "ipo-sum"])
def test_losses_of_pairs_against_openrlhf(name):
    check(lambda logp: jnp.mean(PAIR_LOSSES[name](logp)), "new", OPENRLHF, name)


def test_rewards_of_pairs_against_trl():
    metrics = pref.preference_metrics(*pairs(given("new")), *pairs(given("ref")), 0.3)
    rewards = TRL["dpo/rewards"]
    close(metrics.reward_chosen, rewards[0].mean())
    close(metrics.reward_rejected, rewards[1].mean())
    close(metrics.margin, (rewards[0] - rewards[1]).mean())
    close(metrics.accuracy, (rewards[0] > rewards[1]).mean())


def test_kto_against_trl():
    mismatched = jnp.concatenate(
        [a - b for a, b in zip(pairs(given("sampler")), pairs(given("old") - 0.1), strict=True)]
    )
    z = pref.kto_reference_point(mismatched)
    close(z, TRL["kto/reference_point"])
    desirable = jnp.arange(12) < 6  # theirs has the chosen first

    def loss(logp):
        log_ratio = jnp.concatenate(log_ratios(logp))
        return pref.kto_loss(log_ratio, desirable, z, 0.3, 1.0, 1.33)

    check(loss, "new", TRL, "kto")


def test_bradley_terry_against_openrlhf():
    def loss(logp):
        return jnp.mean(pref.bradley_terry_loss(*pairs(logp), given("score")[:6]))

    check(loss, "new", OPENRLHF, "bradley-terry")


def reduced(surrogate, how, advantage="advantage", weight=1.0, extra=None, **settings):
    """A surrogate's loss as a number: aggregated over the whole batch."""
    mask = given("mask")

    def loss(logp):
        scores = jnp.broadcast_to(given(advantage), mask.shape)
        each = weight * surrogate(logp, given("old"), scores, mask, **settings)
        if extra is not None:
            each += extra(logp)
        total, denominator = policy_losses.aggregate(each, mask, how, mask.shape[0])
        return total / denominator

    return loss


# One of the twelve sequences is empty: TRL divides by twelve.
TRL_SEQUENCES = 11 / 12


def truncated(bound):
    return surrogates.truncated_importance_weight(
        given("old"), given("sampler"), given("mask"), bound
    )


@pytest.mark.parametrize(
    ("name", "loss", "factor"),
    [
        ("grpo", partial(reduced, surrogates.clip, "seq-mean-token-mean"), TRL_SEQUENCES),
        ("bnpo", partial(reduced, surrogates.clip, "token-mean"), 1),
        # Their `delta` bounds the ratio, which for negative advantages is the dual clip.
        ("dapo", partial(reduced, surrogates.clip, "token-mean", dual_clip=1.5), 1),
        ("dr_grpo", partial(reduced, surrogates.clip, "token-sum-constant"), TRL_SEQUENCES),
        # Their bound of the ratio is absolute, and there is none below.
        ("cispo", partial(reduced, surrogates.cispo, "token-mean", clip_low=1.0), 1),
    ],
)
def test_grpo_and_its_kin_against_trl(name, loss, factor):
    check(loss(), "new", TRL, name, 1 / factor)


@pytest.mark.parametrize("form", [surrogates.gspo, surrogates.gspo_token])
def test_both_forms_of_gspo_against_all(form):
    loss = reduced(form, "seq-mean-token-mean")
    check(loss, "near", TRL, "gspo", 1 / TRL_SEQUENCES)
    check(loss, "near", OPENRLHF, "gspo")
    check(loss, "near", VERL, "gspo")


def test_gspo_with_an_advantage_per_token_against_verl():
    loss = reduced(surrogates.gspo_token, "seq-mean-token-mean", "token_advantage")
    check(loss, "near", VERL, "gspo-tokens")


def test_truncated_importance_sampling_against_trl_and_openrlhf():
    loss = reduced(surrogates.clip, "seq-mean-token-mean", weight=truncated(2.0)[0])
    check(loss, "new", TRL, "grpo-tis", 1 / TRL_SEQUENCES)
    loss = reduced(
        surrogates.clip, "token-mean", "token_advantage", truncated(1.5)[0], dual_clip=1.5
    )
    check(loss, "new", OPENRLHF, "tis")


def test_importance_weights_and_their_metrics_against_verl():
    weight, metrics = truncated(1.5)
    close(weight, VERL["tis/weight"].T)
    close(metrics.effective_sample_size, VERL["tis/effective_sample_size"])
    close(metrics.share_cut, VERL["tis/share_cut"])


def test_kl_in_the_loss_against_trl():
    loss = reduced(
        surrogates.clip, "seq-mean-token-mean", extra=lambda x: 0.04 * kl.k3(x, given("ref"))
    )
    check(loss, "new", TRL, "grpo-k3", 1 / TRL_SEQUENCES)


@pytest.mark.parametrize(
    ("name", "surrogate", "settings"),
    [("vanilla", surrogates.clip, {"dual_clip": 1.5}), ("cispo", surrogates.cispo, {})],
)
def test_token_surrogates_against_verl(name, surrogate, settings):
    loss = reduced(surrogate, "token-mean", "token_advantage", **settings)
    check(loss, "new", VERL, name)


@pytest.mark.parametrize(
    ("name", "how", "factor"),
    [
        ("token-mean", "token-mean", 1),
        ("seq-mean-token-mean", "seq-mean-token-mean", 1),
        ("seq-mean-token-sum", "token-sum-constant", 7),
        ("seq-mean-token-sum-norm", "token-sum-constant", 1),
    ],
)
def test_aggregations_against_verl(name, how, factor):
    total, denominator = policy_losses.aggregate(
        given("token_advantage"), given("mask"), how, given("mask").shape[0]
    )
    close(factor * total / denominator, VERL[f"agg/{name}"])


@pytest.mark.parametrize("name", ["k1", "k2", "k3", "k3+"])
def test_kl_estimators_against_verl(name):
    estimator = kl.k3_plus if name == "k3+" else getattr(kl, name)
    check(lambda logp: estimator(logp, given("ref")).T, "new", VERL, f"kl/{name}")


def test_reinforce_plus_plus_against_verl():
    k1 = kl.k1(given("new"), given("ref"))
    advantage = returns.reinforce_plus_plus_advantages(
        given("reward"), k1, given("mask"), 0.1, 0.97
    )
    close(advantage, VERL["reinforce++"].T)
    baseline = returns.reinforce_plus_plus_baseline_advantages(given("score"), given("mask"), GROUP)
    close(baseline, VERL["reinforce++-baseline"].T)


def test_soft_overlong_penalty_against_trl():
    penalty = reward_scores.soft_overlong_penalty(given("overlong_length"), 20, 8)
    close(penalty, TRL["overlong/penalty"])
