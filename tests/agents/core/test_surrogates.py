import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.core import policy_losses, surrogates

SURROGATES = {
    "clip": surrogates.clip,
    "gspo": surrogates.gspo,
    "gspo_token": surrogates.gspo_token,
    "cispo": surrogates.cispo,
}


def random_tokens(seed=0, t=7, n=6, off=0.3):
    """log-probs, old log-probs, an advantage per sequence, and a mask that leaves the last sequence nothing."""
    rng = np.random.default_rng(seed)
    old = -rng.exponential(size=(t, n))
    logp = old + off * rng.normal(size=(t, n))
    advantage = np.broadcast_to(rng.normal(size=n), (t, n))
    length = rng.integers(1, t + 1, size=n)
    length[-1] = 0
    mask = np.arange(t)[:, None] < length
    return tuple(map(jnp.asarray, (logp, old, advantage, mask)))


def reduced(surrogate, how="token-mean", **settings):
    def loss(logp, old_logp, advantage, mask):
        each = surrogate(logp, old_logp, advantage, mask, **settings)
        total, denominator = policy_losses.aggregate(each, mask, how)
        return total / denominator

    return jax.value_and_grad(loss)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("how", ["token-mean", "seq-mean-token-mean"])
def test_padding_and_what_lies_under_the_mask_change_nothing(name, how):
    *arrays, mask = random_tokens()
    value, slope = reduced(SURROGATES[name], how)(*arrays, mask)
    edges = ((2, 3), (0, 1))
    hole = [jnp.pad(jnp.where(mask, x, jnp.nan), edges, constant_values=jnp.nan) for x in arrays]
    value_padded, slope_padded = reduced(SURROGATES[name], how)(*hole, jnp.pad(mask, edges))
    assert value_padded == pytest.approx(float(value), rel=1e-5)
    np.testing.assert_allclose(slope_padded[2:-3, :-1], slope, rtol=1e-5, atol=1e-7)
    assert jnp.isfinite(slope_padded).all()
    assert (slope[~mask] == 0).all()


@pytest.mark.parametrize("name", SURROGATES)
def test_on_policy_the_gradient_is_that_of_the_policy_gradient(name):
    logp, _, advantage, mask = random_tokens()
    *_, slope = reduced(SURROGATES[name], "seq-mean-token-mean")(logp, logp, advantage, mask)

    def plain(logp, old_logp, advantage, mask):
        return policy_losses.policy_gradient_loss(logp, advantage)

    expected = reduced(plain, "seq-mean-token-mean")(logp, logp, advantage, mask)[1]
    if (
        name == "gspo"
    ):  # each token has the mean of its sequence; the advantage is the same along it
        assert (jnp.abs(expected).sum(axis=0)[:-1] > 0).all()
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)


def test_clip_by_hand():
    ratio = jnp.array([[0.5, 0.5, 1.1, 2.0, 2.0, 9.0, 9.0]])
    advantage = jnp.array([[1.0, -1.0, 3.0, 1.0, -1.0, 1.0, -2.0]])
    mask = jnp.ones((1, 7), bool)

    def loss(logp, dual_clip):
        given = logp, jnp.zeros((1, 7)), advantage, mask
        return surrogates.clip(*given, clip_low=0.2, clip_high=0.28, dual_clip=dual_clip)

    logp = jnp.log(ratio)
    expected = np.array([[-0.5, 0.8, -3.3, -1.28, 2.0, -1.28, 18.0]])
    np.testing.assert_allclose(loss(logp, None), expected, rtol=1e-5)
    # The dual clip bounds negative advantages alone, and ends their gradient.
    expected[0, 6] = 6.0
    np.testing.assert_allclose(loss(logp, 3.0), expected, rtol=1e-5)
    slope = jax.grad(lambda x: loss(x, 3.0).sum())(logp)
    np.testing.assert_allclose(slope, [[-0.5, 0, -3.3, 0, 2.0, 0, 0]], rtol=1e-5)


def test_sequence_ratio_by_hand():
    logp = jnp.array([[0.0, 500.0, 900.0], [3.0, -500.0, 900.0], [jnp.nan, 0.0, jnp.inf]])
    mask = jnp.array([[True, True, False], [True, True, False], [False, True, False]])
    ratio = surrogates.sequence_ratio(logp, jnp.zeros((3, 3)), mask)
    # The masked length divides; wild tokens cancel before the clamp; nothing is a ratio of 1.
    np.testing.assert_allclose(ratio, [np.exp(1.5), 1.0, 1.0], rtol=1e-6)
    wild = surrogates.sequence_ratio(jnp.full((2, 1), 500.0), jnp.zeros((2, 1)), mask[:2, :1])
    np.testing.assert_allclose(wild, [np.exp(20.0)], rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_both_forms_of_gspo_have_one_value_and_one_gradient(seed):
    given = random_tokens(seed, off=0.02)
    clips = {"clip_low": 0.003, "clip_high": 0.004}
    one, other = (
        reduced(SURROGATES[name], "seq-mean-token-mean", **clips)(*given)
        for name in ("gspo", "gspo_token")
    )
    assert one[0] == pytest.approx(float(other[0]), rel=1e-6)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-5, atol=1e-8)
    clipped = (one[1] == 0).all(axis=0)[:-1]
    assert clipped.any()
    assert not clipped.all()


def test_gspo_is_the_mean_over_sequences_of_the_papers_objective():
    logp, old, advantage, mask = map(np.asarray, random_tokens(off=0.02))
    value, _ = reduced(surrogates.gspo, "seq-mean-token-mean")(*random_tokens(off=0.02))
    objective = []
    for n in range(logp.shape[1] - 1):
        real = mask[:, n]
        s = np.exp((logp - old)[real, n].sum() / real.sum())
        a = advantage[0, n]
        objective.append(min(s * a, np.clip(s, 1 - 3e-4, 1 + 4e-4) * a))
    assert value == pytest.approx(-np.mean(objective), rel=1e-5)


def test_a_token_that_cispo_clips_still_learns():
    """Its gradient is the clipped ratio's; under `clip` the same token has none."""
    ratio = jnp.array([[0.1, 1.0, 5.0]])
    given = jnp.log(ratio), jnp.zeros((1, 3)), jnp.array([[-1.0, 1.0, 2.0]]), jnp.ones((1, 3), bool)
    slopes = [
        jax.grad(lambda *x, f=f: f(*x, clip_low=0.2, clip_high=0.28).sum())(*given)
        for f in (surrogates.cispo, surrogates.clip)
    ]
    np.testing.assert_allclose(slopes[0], [[0.8, -1.0, -2.56]], rtol=1e-6)
    np.testing.assert_allclose(slopes[1], [[0.0, -1.0, 0.0]], rtol=1e-6)


def test_truncated_importance_weight_by_hand():
    ratio = jnp.array([[0.5, 1.0], [4.0, jnp.nan]])
    mask = jnp.array([[True, True], [True, False]])
    given = jnp.log(ratio), jnp.zeros((2, 2)), mask
    weight, metrics = surrogates.truncated_importance_weight(*given, 2.0)
    np.testing.assert_allclose(weight, [[0.5, 1.0], [2.0, 0.0]], rtol=1e-6)
    expected = (5.5 / 3, 4.0, 3.5**2 / (0.25 + 1 + 4) / 3, 1 / 3)
    np.testing.assert_allclose(metrics, expected, rtol=1e-6)
    slope = jax.grad(lambda x: surrogates.truncated_importance_weight(x, *given[1:])[0].sum())
    np.testing.assert_array_equal(slope(given[0]), np.zeros((2, 2)))


def test_the_weight_corrects_the_sampler_in_expectation():
    """Untruncated, the sampler's expectation of the weighted loss is the old policy's expectation of the loss."""
    old = jax.nn.log_softmax(jnp.array([0.2, -0.3, 0.5]))[:, None]
    sampler = jax.nn.log_softmax(jnp.array([0.0, 0.1, 0.4]))[:, None]
    loss = jnp.array([[1.0], [-2.0], [3.0]])
    mask = jnp.ones((3, 1), bool)
    weight, _ = surrogates.truncated_importance_weight(old, sampler, mask, 100.0)
    expectation = jnp.sum(jnp.exp(sampler) * weight * loss)
    assert expectation == pytest.approx(float(jnp.sum(jnp.exp(old) * loss)), rel=1e-6)
    same, metrics = surrogates.truncated_importance_weight(old, old, mask)
    np.testing.assert_array_equal(same, np.ones((3, 1)))
    assert tuple(map(float, metrics)) == (1.0, 1.0, 1.0, 0.0)


def test_importance_metrics_of_nothing_are_zero():
    nothing = jnp.full((2, 2), jnp.nan), jnp.full((2, 2), jnp.nan), jnp.zeros((2, 2), bool)
    weight, metrics = surrogates.truncated_importance_weight(*nothing)
    np.testing.assert_array_equal(weight, np.zeros((2, 2)))
    assert tuple(map(float, metrics)) == (0.0, 0.0, 0.0, 0.0)
