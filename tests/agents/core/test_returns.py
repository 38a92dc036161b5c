import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.core import returns

T, N = 23, 6
DISCOUNT, TRACE = 0.9, 0.8


def random_steps(seed, masked=True):
    """Random data as NumPy arrays; NaN wherever a value must not be looked at."""
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, T, N)).astype(np.float32)
    kind = rng.choice(3, size=(T, N), p=[0.75, 0.15, 0.1])
    mask = rng.random((T, N)) < 0.7 if masked else np.ones((T, N), bool)
    mask[:, -1] &= not masked  # one column without a single real step
    reward[~mask] = value[~mask] = next_value[~mask] = np.nan
    next_value[kind == 1] = np.nan
    return {
        "reward": reward,
        "value": value,
        "next_value": next_value,
        "terminated": kind == 1,
        "truncated": kind == 2,
        "mask": mask,
    }


def without_value(steps):
    return {name: x for name, x in steps.items() if name != "value"}


def jnp_all(steps):
    return {name: jnp.asarray(x) for name, x in steps.items()}


def real_steps(steps, n):
    return [t for t in range(T) if steps["mask"][t, n]]


def slow_n_step(steps, horizon):
    """By the definition: walk forward from every step."""
    result = np.zeros((T, N))
    for n in range(N):
        real = real_steps(steps, n)
        for i, start in enumerate(real):
            weight = 1.0
            for t in real[i : i + horizon]:
                result[start, n] += weight * steps["reward"][t, n]
                weight *= DISCOUNT
                if steps["terminated"][t, n] or steps["truncated"][t, n]:
                    break
            if not steps["terminated"][t, n]:
                result[start, n] += weight * steps["next_value"][t, n]
    return result


def slow_gae(steps):
    """By the definition: sum the discounted deltas forward from every step."""
    result = np.zeros((T, N))
    for n in range(N):
        real = real_steps(steps, n)
        for i, start in enumerate(real):
            weight = 1.0
            for t in real[i:]:
                over = steps["terminated"][t, n]
                bootstrap = 0.0 if over else DISCOUNT * steps["next_value"][t, n]
                delta = steps["reward"][t, n] + bootstrap - steps["value"][t, n]
                result[start, n] += weight * delta
                weight *= DISCOUNT * TRACE
                if over or steps["truncated"][t, n]:
                    break
    return result


def slow_q_lambda(steps):
    """By the definition: the mixture, with weights (1 - trace) trace^k, of all k-step returns; the longest of them has
    the rest of the weight."""
    result = np.zeros((T, N))
    for n in range(N):
        real = real_steps(steps, n)
        for i, start in enumerate(real):
            total, weight, share = 0.0, 1.0, 1.0
            for later, t in enumerate(real[i:], i):
                total += weight * steps["reward"][t, n]
                weight *= DISCOUNT
                over = steps["terminated"][t, n] or steps["truncated"][t, n]
                last = over or later + 1 == len(real)
                part = share if last else share * (1 - TRACE)
                bootstrap = 0.0 if steps["terminated"][t, n] else steps["next_value"][t, n]
                result[start, n] += part * (total + weight * bootstrap)
                share *= TRACE
                if last:
                    break
    return result


def column(*numbers):
    return jnp.array(numbers)[:, None]


REWARD = column(1.0, 2.0, 3.0, 4.0)
VALUE = column(10.0, 20.0, 30.0, 40.0)
NEXT_VALUE = column(20.0, 100.0, 40.0, 200.0)
NEVER = column(False, False, False, False)
SECOND = column(False, True, False, False)


def test_discounted_returns_by_hand():
    # last: 4 + 200/2 = 104; third: 3 + 104/2 = 55
    terminated = returns.discounted_returns(REWARD, NEXT_VALUE, SECOND, NEVER, 0.5)
    np.testing.assert_allclose(terminated[:, 0], [2.0, 2.0, 55.0, 104.0])
    # second: 2 + 100/2 = 52; first: 1 + 52/2 = 27
    truncated = returns.discounted_returns(REWARD, NEXT_VALUE, NEVER, SECOND, 0.5)
    np.testing.assert_allclose(truncated[:, 0], [27.0, 52.0, 55.0, 104.0])


def test_n_step_by_hand():
    one = returns.n_step_returns(REWARD, NEXT_VALUE, NEVER, NEVER, 0.5, 1)
    np.testing.assert_allclose(one[:, 0], [11.0, 52.0, 23.0, 104.0])
    two = returns.n_step_returns(REWARD, NEXT_VALUE, NEVER, NEVER, 0.5, 2)
    np.testing.assert_allclose(two[:, 0], [27.0, 13.5, 55.0, 104.0])
    two = returns.n_step_returns(REWARD, NEXT_VALUE, SECOND, NEVER, 0.5, 2)
    np.testing.assert_allclose(two[:, 0], [2.0, 2.0, 55.0, 104.0])


def test_gae_by_hand():
    # discount = trace = 1/2. deltas without flags: 1, 32, -7, 64
    free = returns.gae(REWARD, VALUE, NEXT_VALUE, NEVER, NEVER, 0.5, 0.5)
    np.testing.assert_allclose(free[:, 0], [1 + 34.25 / 4, 32 + 9 / 4, -7 + 64 / 4, 64.0])
    truncated = returns.gae(REWARD, VALUE, NEXT_VALUE, NEVER, SECOND, 0.5, 0.5)
    np.testing.assert_allclose(truncated[:, 0], [1 + 32 / 4, 32.0, 9.0, 64.0])
    # second delta: 2 - 20 = -18
    terminated = returns.gae(REWARD, VALUE, NEXT_VALUE, SECOND, NEVER, 0.5, 0.5)
    np.testing.assert_allclose(terminated[:, 0], [1 - 18 / 4, -18.0, 9.0, 64.0])


def test_masked_step_is_skipped_by_hand():
    mask = ~SECOND
    # deltas 1, -, -7, 64: the first continues with the third
    advantage = returns.gae(REWARD, VALUE, NEXT_VALUE, NEVER, NEVER, 0.5, 0.5, mask)
    np.testing.assert_allclose(advantage[:, 0], [1 + 9 / 4, 0.0, 9.0, 64.0])
    # a flag on a masked step means nothing
    again = returns.gae(REWARD, VALUE, NEXT_VALUE, SECOND, NEVER, 0.5, 0.5, mask)
    np.testing.assert_array_equal(advantage, again)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_against_slow_loops(seed, masked):
    steps = random_steps(seed, masked)
    fast = jnp_all(steps)
    close = {"rtol": 1e-4, "atol": 1e-5}
    for n in (1, 3, 50):
        got = returns.n_step_returns(**without_value(fast), discount=DISCOUNT, n=n)
        np.testing.assert_allclose(got, slow_n_step(steps, n), **close)
    got = returns.discounted_returns(**without_value(fast), discount=DISCOUNT)
    np.testing.assert_allclose(got, slow_n_step(steps, T), **close)
    got = returns.gae(**fast, discount=DISCOUNT, trace=TRACE)
    np.testing.assert_allclose(got, slow_gae(steps), **close)


@pytest.mark.parametrize("masked", [True, False])
def test_q_lambda_against_the_mixture_of_n_step_returns(masked):
    steps = without_value(random_steps(5, masked))
    got = returns.q_lambda(**jnp_all(steps), discount=DISCOUNT, trace=TRACE)
    np.testing.assert_allclose(got, slow_q_lambda(steps), rtol=1e-4, atol=1e-5)


def test_q_lambda_by_hand():
    # last: 4 + 200/2 = 104; third: 3 + (0.75 * 40 + 0.25 * 104) / 2 = 31
    # second: truncated, 2 + 100/2 = 52, or terminated, 2; first: 1 + (0.75 * 20 + 0.25 * second) / 2
    truncated = returns.q_lambda(REWARD, NEXT_VALUE, NEVER, SECOND, 0.5, 0.25)
    np.testing.assert_allclose(truncated[:, 0], [15.0, 52.0, 31.0, 104.0])
    terminated = returns.q_lambda(REWARD, NEXT_VALUE, SECOND, NEVER, 0.5, 0.25)
    np.testing.assert_allclose(terminated[:, 0], [8.75, 2.0, 31.0, 104.0])


def test_q_lambda_extremes():
    """Trace 0 is one step; trace 1 never bootstraps before the end."""
    steps = without_value(jnp_all(random_steps(6)))
    one_step = returns.n_step_returns(**steps, discount=DISCOUNT, n=1)
    whole = returns.discounted_returns(**steps, discount=DISCOUNT)
    for trace, expected in ((0.0, one_step), (1.0, whole)):
        got = returns.q_lambda(**steps, discount=DISCOUNT, trace=trace)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_no_mask_is_all_ones():
    steps = jnp_all(random_steps(0, masked=False))
    with_mask = returns.gae(**steps, discount=DISCOUNT, trace=TRACE)
    del steps["mask"]
    without = returns.gae(**steps, discount=DISCOUNT, trace=TRACE)
    np.testing.assert_array_equal(with_mask, without)


@pytest.mark.parametrize("where", ["before", "between", "after"])
def test_padding_changes_nothing(where):
    steps = random_steps(1)
    at = {"before": 0, "between": 9, "after": T}[where]
    padding = {"mask": False, "terminated": True, "truncated": True}
    padded = {
        name: np.insert(x, [at] * 4, padding.get(name, np.nan), axis=0) for name, x in steps.items()
    }
    functions = [
        lambda s: returns.gae(**s, discount=DISCOUNT, trace=TRACE),
        lambda s: returns.discounted_returns(**without_value(s), discount=DISCOUNT),
        lambda s: returns.n_step_returns(**without_value(s), discount=DISCOUNT, n=3),
        lambda s: returns.q_lambda(**without_value(s), discount=DISCOUNT, trace=TRACE),
    ]
    for function in functions:
        longer = np.asarray(function(jnp_all(padded)))
        assert not longer[at : at + 4].any()
        shorter = np.delete(longer, range(at, at + 4), axis=0)
        np.testing.assert_allclose(shorter, function(jnp_all(steps)), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_value_after_termination_does_not_leak(bad):
    steps = random_steps(2, masked=False)
    clean = steps | {"next_value": np.where(steps["terminated"], 0.0, steps["next_value"])}
    dirty = steps | {"next_value": np.where(steps["terminated"], bad, steps["next_value"])}
    want, got = (returns.gae(**jnp_all(s), discount=0.9, trace=0.8) for s in (clean, dirty))
    np.testing.assert_array_equal(got, want)


def test_an_episode_does_not_see_the_next_one():
    reward = REWARD.at[2].set(jnp.nan)
    for terminated, truncated in [(SECOND, NEVER), (NEVER, SECOND)]:
        flags = (terminated, truncated)
        advantage = returns.gae(reward, VALUE, NEXT_VALUE, *flags, 0.5, 0.5)
        assert jnp.isfinite(advantage[:2]).all()
        to_go = returns.discounted_returns(reward, NEXT_VALUE, *flags, 0.5)
        assert jnp.isfinite(to_go[:2]).all()


def test_gae_extremes():
    """Trace 0 is one step, trace 1 is Monte Carlo, less the value, when next_value is the value of the next row."""
    rng = np.random.default_rng(0)
    reward, value = jnp.asarray(rng.normal(size=(2, T, N)), jnp.float32)
    next_value = jnp.concatenate([value[1:], jnp.ones((1, N))])
    flags = (jnp.zeros((T, N), bool), jnp.zeros((T, N), bool))
    zero = returns.gae(reward, value, next_value, *flags, 0.9, 0.0)
    one = returns.gae(reward, value, next_value, *flags, 0.9, 1.0)
    step = returns.n_step_returns(reward, next_value, *flags, 0.9, 1)
    full = returns.discounted_returns(reward, next_value, *flags, 0.9)
    np.testing.assert_allclose(zero + value, step, atol=1e-5)
    np.testing.assert_allclose(one + value, full, atol=1e-5)


def test_jit_and_vmap_over_discounts():
    steps = jnp_all(random_steps(3))
    gae = jax.jit(jax.vmap(lambda g: returns.gae(**steps, discount=g, trace=0.5)))
    both = gae(jnp.array([0.5, 0.9]))
    single = returns.gae(**steps, discount=0.9, trace=0.5)
    np.testing.assert_allclose(both[1], single, rtol=1e-5, atol=1e-6)


def test_n_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        returns.n_step_returns(REWARD, NEXT_VALUE, NEVER, NEVER, 0.5, 0)


def test_group_advantages_by_hand():
    score = jnp.array([0.0, 0.0, 1.0, 1.0, 0.7, 0.7, 0.7, 0.7])
    advantage, share = returns.group_advantages(score, 4)
    a = 0.5 / (np.sqrt(1 / 3) + 1e-4)
    np.testing.assert_allclose(advantage, [-a, -a, a, a, 0, 0, 0, 0], rtol=1e-6)
    assert share == 0.5
    plain, _ = returns.group_advantages(score, 4, scale=False)
    np.testing.assert_allclose(plain, [-0.5, -0.5, 0.5, 0.5, 0, 0, 0, 0])


def test_group_advantages_against_numpy():
    score = np.random.default_rng(0).normal(size=24).astype(np.float32)
    groups = score.reshape(3, 8).astype(np.float64)
    mean, std = groups.mean(1, keepdims=True), groups.std(1, ddof=1, keepdims=True)
    advantage, share = returns.group_advantages(jnp.asarray(score), 8)
    np.testing.assert_allclose(advantage, ((groups - mean) / (std + 1e-4)).ravel(), rtol=1e-4)
    assert share == 0


@pytest.mark.parametrize("size", [1, 3])
def test_groups_without_spread_give_exactly_zero(size):
    score = jnp.full(6, 0.1)  # the float32 mean of three of them is not 0.1
    advantage, share = returns.group_advantages(score, size)
    assert (advantage == 0).all()
    assert share == 1
    assert (returns.leave_one_out_advantages(score, size) == 0).all()


def test_group_of_one_is_zero_for_different_scores():
    advantage, share = returns.group_advantages(jnp.array([1.0, 5.0, -2.0]), 1)
    assert (advantage == 0).all()
    assert share == 1


def test_leave_one_out():
    score = np.random.default_rng(1).normal(size=10).astype(np.float32)
    got = returns.leave_one_out_advantages(jnp.asarray(score), 5)
    for i in range(10):
        group = [j for j in range(i // 5 * 5, i // 5 * 5 + 5) if j != i]
        assert got[i] == pytest.approx(score[i] - score[group].mean(), abs=1e-5)


def test_scores_must_divide_into_groups():
    with pytest.raises(ValueError, match="groups of 4"):
        returns.group_advantages(jnp.zeros(6), 4)


def test_masked_statistics_against_numpy():
    rng = np.random.default_rng(0)
    x, mask = rng.normal(3, 2, size=(7, 5)).astype(np.float32), rng.random((7, 5)) < 0.5
    kept = x[mask].astype(np.float64)
    x[~mask] = np.nan
    args = (jnp.asarray(x), jnp.asarray(mask))
    assert returns.masked_mean(*args) == pytest.approx(kept.mean(), rel=1e-5)
    assert returns.masked_std(*args) == pytest.approx(kept.std(ddof=1), rel=1e-5)
    white = np.asarray(returns.masked_whiten(*args))
    expected = (kept - kept.mean()) / np.sqrt(kept.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(white[mask], expected, rtol=1e-4, atol=1e-6)
    assert (white[~mask] == 0).all()


def test_whitening_without_mask():
    white = returns.masked_whiten(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(white, [-1.0, 0.0, 1.0], atol=1e-6)


def test_weighted_advantages_are_whitened_with_a_baseline_inside_of_the_weight():
    """By hand: weights 1, 1/2, 1/2; A = 1, 2, 6 has the weighted mean 5/2, and so becomes -3/2, -1/4, 7/4."""
    weight, advantage = jnp.array([1.0, 0.5, 0.5]), jnp.array([1.0, 2.0, 6.0])
    white = returns.masked_whiten_weighted(weight * advantage, weight)
    np.testing.assert_allclose(white, returns.masked_whiten(jnp.array([-1.5, -0.25, 1.75])))
    moved = returns.masked_whiten_weighted(weight * (advantage + 100.0), weight)
    np.testing.assert_allclose(moved, white, atol=1e-4)
    even = returns.masked_whiten_weighted(advantage, jnp.ones(3))
    np.testing.assert_allclose(even, returns.masked_whiten(advantage), atol=1e-6)


@pytest.mark.parametrize("kept", [0, 1])
def test_fewer_than_two_entries(kept):
    x, mask = jnp.array([5.0, 6.0, jnp.nan]), jnp.arange(3) < kept
    assert returns.masked_mean(x, mask) == 5.0 * kept
    assert returns.masked_std(x, mask) == 0
    assert (returns.masked_whiten(x, mask) == 0).all()
