import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents.core import preference_losses as pref
from agents.core.returns import masked_mean

BETA = 0.3
REF_LOGITS = jnp.array([0.5, -0.4, 0.0, 0.9])
REWARD = jnp.array([0.3, 1.0, -0.5, 0.1])
REF_LOGP = jax.nn.log_softmax(REF_LOGITS)


def random_pairs(seed=0, t=7, n=5):
    """Token log-probs [2, T, N] of chosen and rejected, policy and reference, and masks; the last pair is padding."""
    rng = np.random.default_rng(seed)
    policy, reference = -rng.exponential(size=(2, 2, t, n))
    length = rng.integers(1, t + 1, size=(2, n))
    length[:, -1] = 0
    mask = np.arange(t)[None, :, None] < length[:, None]
    return jnp.asarray(policy), jnp.asarray(reference), jnp.asarray(mask)


def log_ratios(policy, reference, mask, normalise=False):
    of = jax.vmap(lambda logp, mask: pref.sequence_logp(logp, mask, normalise))
    return of(policy, mask) - of(reference, mask)


def kto(log_ratio, mismatched, mask):
    """Every second response is desirable; the mismatched ones only set the reference point."""
    reference_point = pref.kto_reference_point(mismatched, mask[1])
    return pref.kto_loss(log_ratio, jnp.arange(len(log_ratio)) % 2 == 0, reference_point, BETA)


LOSSES = {
    "dpo": lambda p, r, m: pref.dpo_loss(*log_ratios(p, r, m), BETA),
    "cdpo": lambda p, r, m: pref.dpo_loss(*log_ratios(p, r, m), BETA, 0.1),
    "ipo": lambda p, r, m: pref.ipo_loss(*log_ratios(p, r, m), *m.sum(axis=1), BETA),
    "ipo-sum": lambda p, r, m: pref.ipo_loss(
        *log_ratios(p, r, m), *m.sum(axis=1), BETA, normalise=False
    ),
    "kto": lambda p, r, m: kto(*log_ratios(p, r, m), m.any(axis=1)),
    "simpo": lambda p, r, m: pref.simpo_loss(*log_ratios(p, 0 * r, m, normalise=True)),
    "orpo": lambda p, r, m: pref.orpo_loss(*log_ratios(p, 0 * r, m, normalise=True)),
}


def test_sequence_logp_by_hand():
    logp = jnp.array([[-1.0, -2.0, jnp.nan], [-3.0, jnp.nan, jnp.nan]])
    mask = jnp.array([[True, True, False], [True, False, False]])
    np.testing.assert_array_equal(pref.sequence_logp(logp, mask), [-4.0, -2.0, 0.0])
    np.testing.assert_array_equal(pref.sequence_logp(logp, mask, True), [-2.0, -2.0, 0.0])


@pytest.mark.parametrize("name", LOSSES)
def test_padding_and_wholly_masked_rows(name):
    """Padding on either side changes no value and no gradient, and NaN under the mask reaches neither."""
    policy, reference, mask = random_pairs()

    def mean(policy, reference, mask):
        return masked_mean(LOSSES[name](policy, reference, mask), mask.any(axis=(0, 1)))

    value, slope = jax.value_and_grad(mean)(policy, reference, mask)
    edges = ((0, 0), (2, 3), (0, 1))
    hole = [jnp.where(mask, x, jnp.nan) for x in (policy, reference)]
    padded = [jnp.pad(x, edges, constant_values=jnp.nan) for x in hole]
    value_padded, slope_padded = jax.value_and_grad(mean)(*padded, jnp.pad(mask, edges))
    assert value_padded == pytest.approx(float(value), rel=1e-6)
    np.testing.assert_allclose(slope_padded[:, 2:-3, :-1], slope, rtol=1e-5, atol=1e-7)
    assert (slope[~mask] == 0).all()
    assert (slope[0][mask[0]] != 0).all()
    assert jnp.isfinite(LOSSES[name](*hole, mask)).all()


def test_the_first_loss_of_dpo_is_log_2_and_its_gradient_that_of_the_difference():
    policy, _, mask = random_pairs()

    def loss(policy, smoothing=0.0):
        return pref.dpo_loss(
            *log_ratios(policy, jax.lax.stop_gradient(policy), mask), BETA, smoothing
        ).sum()

    n = mask.shape[-1]
    assert loss(policy) == pytest.approx(n * np.log(2), rel=1e-6)
    assert loss(policy, 0.1) == pytest.approx(n * np.log(2), rel=1e-6)
    sign = jnp.array([1.0, -1.0])[:, None, None]
    expected = jnp.where(mask, -BETA / 2 * sign, 0.0)
    np.testing.assert_allclose(jax.grad(loss)(policy), expected, rtol=1e-6)


def test_swapping_the_pair_turns_the_sign_of_the_difference():
    chosen, rejected = jnp.array([1.0, 0.2]), jnp.array([-2.0, 0.5])
    swapped = pref.dpo_loss(rejected, chosen, BETA)
    d = BETA * (chosen - rejected)
    np.testing.assert_allclose(swapped, jax.nn.softplus(d), rtol=1e-6)
    # log sigmoid(-d) = log sigmoid(d) - d
    np.testing.assert_allclose(swapped - pref.dpo_loss(chosen, rejected, BETA), d, rtol=1e-5)
    # With every second label wrong, both orders cost the same.
    halves = [pref.dpo_loss(a, b, BETA, 0.5) for a, b in [(chosen, rejected), (rejected, chosen)]]
    np.testing.assert_allclose(*halves, rtol=1e-6)


def optimum(loss, steps=3_000):
    """Logits after gradient descent on `loss(logp)` from the reference's."""
    optimizer = optax.chain(
        optax.scale_by_adam(), optax.scale_by_schedule(lambda i: -0.1 * 0.998**i)
    )

    def step(carry, _):
        logits, state = carry
        slope = jax.grad(lambda x: loss(jax.nn.log_softmax(x)))(logits)
        updates, state = optimizer.update(slope, state)
        return (logits + updates, state), jnp.abs(slope).max()

    start = REF_LOGITS, optimizer.init(REF_LOGITS)
    (logits, _), slopes = jax.lax.scan(step, start, length=steps)
    return jax.nn.log_softmax(logits), slopes[-1]


def bandit_loss(pair_loss, preferred):
    """Mean over every ordered pair (i, j), i above j with probability `preferred[i, j]`, of a loss of log-ratios."""
    i, j = jnp.array(list(itertools.permutations(range(4), 2))).T

    def loss(logp):
        log_ratio = logp - REF_LOGP
        each = pair_loss(log_ratio[i], log_ratio[j])
        return jnp.sum(preferred[i, j] * each) / len(i)

    return loss


def test_the_optimum_of_dpo_is_the_reference_tilted_by_the_reward():
    preferred = jax.nn.sigmoid(REWARD[:, None] - REWARD[None, :])
    logp, slope = optimum(bandit_loss(lambda c, r: pref.dpo_loss(c, r, BETA), preferred))
    assert slope < 1e-7
    np.testing.assert_allclose(logp, jax.nn.log_softmax(REF_LOGITS + REWARD / BETA), atol=5e-6)


def first_two(pair_loss):
    """Action 0 is always preferred to action 1: labels without noise."""

    def loss(logp):
        log_ratio = logp - REF_LOGP
        return pair_loss(log_ratio[:1], log_ratio[1:2]).sum()

    def margin(logp):
        return float((logp - REF_LOGP)[0] - (logp - REF_LOGP)[1])

    return loss, margin


def test_the_margin_of_ipo_ends_where_that_of_dpo_grows_for_ever():
    one = jnp.ones(1, int)
    loss, margin = first_two(lambda c, r: pref.ipo_loss(c, r, one, one, BETA))
    assert margin(optimum(loss)[0]) == pytest.approx(1 / (2 * BETA), rel=1e-4)
    loss, margin = first_two(lambda c, r: pref.dpo_loss(c, r, BETA))
    short, long = (margin(optimum(loss, steps)[0]) for steps in (300, 3_000))
    assert short > 3 / (2 * BETA)
    assert long > 1.3 * short


def test_ipo_by_hand():
    chosen, rejected = jnp.array([6.0]), jnp.array([-4.0])
    lengths = jnp.array([3]), jnp.array([2])
    np.testing.assert_allclose(
        pref.ipo_loss(chosen, rejected, *lengths, 0.25), [(2 + 2 - 2.0) ** 2], rtol=1e-6
    )
    np.testing.assert_allclose(
        pref.ipo_loss(chosen, rejected, *lengths, 0.25, normalise=False),
        [(10 - 2.0) ** 2],
        rtol=1e-6,
    )


def test_dpo_with_an_imitation_term_raises_the_chosen_log_probability():
    """The composition that the module's docstring gives: its gradient has the sign of both terms on the chosen one."""
    policy, reference, mask = random_pairs()

    def loss(policy, weight):
        dpo = pref.dpo_loss(*log_ratios(policy, reference, mask), BETA)
        return jnp.sum(dpo - weight * pref.sequence_logp(policy[0], mask[0], normalise=True))

    extra = jax.grad(loss)(policy, 2.0) - jax.grad(loss)(policy, 0.0)
    lengths = jnp.maximum(mask[0].sum(axis=0), 1)
    np.testing.assert_allclose(extra[0], jnp.where(mask[0], -2.0 / lengths, 0.0), atol=1e-6)
    np.testing.assert_allclose(extra[1], jnp.zeros_like(extra[1]), atol=1e-6)


def test_kto_by_hand():
    log_ratio = jnp.array([2.0, 2.0, -500.0])
    desirable = jnp.array([True, False, True])
    loss = pref.kto_loss(log_ratio, desirable, jnp.array(1.0), 0.5, 1.0, 1.5)
    s = 1 / (1 + np.exp(-0.5))
    np.testing.assert_allclose(loss, [1 - s, 1.5 * s, 1.0], rtol=1e-6)
    mask = jnp.array([True, True, False])
    assert pref.kto_reference_point(log_ratio, mask) == 2.0
    assert pref.kto_reference_point(log_ratio) == 0.0
    slope = jax.grad(lambda x: pref.kto_reference_point(x, mask))(log_ratio)
    np.testing.assert_array_equal(slope, np.zeros(3))


def test_simpo_by_hand():
    loss = pref.simpo_loss(jnp.array([-0.5]), jnp.array([-1.5]), beta=2.0, gamma=1.0)
    np.testing.assert_allclose(loss, [np.log1p(np.exp(-1.0))], rtol=1e-6)


def test_the_odds_ratio_by_hand_and_at_certainty():
    p, q = 0.8, 0.3
    odds = p / (1 - p) / (q / (1 - q))
    loss = pref.odds_ratio_loss(jnp.log(jnp.array([p])), jnp.log(jnp.array([q])))
    np.testing.assert_allclose(loss, [np.log1p(1 / odds)], rtol=1e-5)
    for pair in itertools.product([0.0, 1e-9, -1e-9, -200.0], repeat=2):
        a, b = jnp.array([pair[0]]), jnp.array([pair[1]])
        value, slope = jax.value_and_grad(lambda a, b: pref.orpo_loss(a, b).sum(), (0, 1))(a, b)
        assert jnp.isfinite(value)
        assert jnp.isfinite(jnp.stack(slope)).all()


def test_a_constant_per_prompt_changes_no_loss_of_a_reward_model():
    rng = np.random.default_rng(0)
    chosen, rejected, constant = jnp.asarray(rng.normal(size=(3, 9)))
    plain = pref.bradley_terry_loss(chosen, rejected, 0.2)
    shifted = pref.bradley_terry_loss(chosen + constant, rejected + constant, 0.2)
    np.testing.assert_allclose(shifted, plain, rtol=1e-5)
    centred = pref.bradley_terry_loss(chosen, rejected, 0.2, 0.01)
    np.testing.assert_allclose(centred - plain, 0.01 * (chosen + rejected) ** 2, atol=1e-6)


def test_bradley_terry_recovers_scores_up_to_a_constant():
    preferred = jax.nn.sigmoid(REWARD[:, None] - REWARD[None, :])
    i, j = jnp.array(list(itertools.permutations(range(4), 2))).T

    def loss(score):
        return jnp.sum(preferred[i, j] * pref.bradley_terry_loss(score[i], score[j]))

    def step(score, _):
        return score - 0.5 * jax.grad(loss)(score), None

    score, _ = jax.lax.scan(step, jnp.array([5.0, 0.0, 0.0, 0.0]), length=2_000)
    np.testing.assert_allclose(score - score.mean(), REWARD - REWARD.mean(), atol=1e-4)
    # A margin in the labels' own units is what the scores then exceed it by.
    assert pref.bradley_terry_loss(jnp.ones(1), jnp.zeros(1), 1.0)[0] == pytest.approx(np.log(2))


def test_metrics_by_hand():
    given = [[-1.0, -2.0, jnp.nan], [-3.0, -2.0, jnp.nan], [-2.0, -2.0, 0.0], [-1.0, -2.0, 0.0]]
    metrics = pref.preference_metrics(*map(jnp.array, given), 0.5, jnp.arange(3) < 2)
    expected = {
        "reward_chosen": 0.25,
        "reward_rejected": -0.5,
        "margin": 0.75,
        "accuracy": 0.5,  # the second pair is a tie
        "logp_chosen": -1.5,
        "logp_rejected": -2.5,
    }
    assert {name: float(x) for name, x in metrics._asdict().items()} == expected
