"""V-trace against rlax, by hand, and where it must be something simpler."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from agents.core import returns

RLAX = np.load(Path(__file__).parent / "fixtures" / "rlax-vtrace.npz")
CASES = sorted({name.partition("/")[0] for name in RLAX.files} - {"in"})
STEPS = {
    name: jnp.asarray(RLAX[f"in/{name}"], bool if RLAX[f"in/{name}"].dtype == bool else jnp.float32)
    for name in ("ratio", "reward", "value", "next_value", "terminated", "truncated", "mask")
}
ON_POLICY = STEPS | {"ratio": jnp.ones_like(STEPS["ratio"])}
UNBOUNDED = {"rho_bar": jnp.inf, "c_bar": jnp.inf}


def without(steps, *names):
    return {name: x for name, x in steps.items() if name not in names}


@pytest.mark.parametrize("case", CASES)
def test_against_rlax_with_both_flags_and_masks(case):
    trace, rho_bar = map(float, case.split("-"))
    got = returns.vtrace(**STEPS, discount=0.9, trace=trace, rho_bar=rho_bar)
    for name, x in got._asdict().items():
        np.testing.assert_allclose(x, RLAX[f"{case}/{name}"], rtol=1e-4, atol=1e-5)


def column(*numbers):
    return jnp.array(numbers)[:, None]


# Three states in a row, discount 1/2; ratios 2, 1/2, 4, cut to 1, 1/2, 1.
RATIO, REWARD = column(2.0, 0.5, 4.0), column(1.0, 2.0, 3.0)
VALUE, NEXT_VALUE = column(10.0, 20.0, 30.0), column(20.0, 30.0, 40.0)
NEVER, SECOND = column(False, False, False), column(False, True, False)


def chain(terminated, truncated, **settings):
    out = returns.vtrace(RATIO, REWARD, VALUE, NEXT_VALUE, terminated, truncated, 0.5, **settings)
    return out.value[:, 0], out.advantage[:, 0]


def test_a_chain_of_three_states_by_hand():
    # deltas, weighted: 1 (1 + 10 - 10) = 1;  1/2 (2 + 15 - 20) = -1.5;  1 (3 + 20 - 30) = -7
    # vs - V: -7;  -1.5 - 7/4 = -3.25;  1 - 3.25/2 = -0.625
    value, advantage = chain(NEVER, NEVER)
    np.testing.assert_allclose(value, [9.375, 16.75, 23.0])
    # 1 + 16.75/2 - 10;  1/2 (2 + 23/2 - 20);  3 + 40/2 - 30
    np.testing.assert_allclose(advantage, [-0.625, -3.25, -7.0])


def test_at_a_truncation_the_next_value_takes_over():
    value, advantage = chain(NEVER, SECOND)
    np.testing.assert_allclose(value, [10.25, 18.5, 23.0])  # 1 - 1.5/2
    np.testing.assert_allclose(advantage, [0.25, -1.5, -7.0])


def test_after_a_termination_there_is_nothing():
    # second delta: 1/2 (2 - 20) = -9
    value, advantage = chain(SECOND, NEVER)
    np.testing.assert_allclose(value, [6.5, 11.0, 23.0])
    np.testing.assert_allclose(advantage, [-3.5, -9.0, -7.0])


def test_the_two_bounds_by_hand():
    # rho 2, 1/2, 2; c 1/4 each: deltas 2, -1.5, -14; vs - V: -14; -1.5 - 14/8; 2 - 3.25/8
    value, advantage = chain(NEVER, NEVER, rho_bar=2.0, c_bar=0.25)
    np.testing.assert_allclose(value, [11.59375, 16.75, 16.0])
    np.testing.assert_allclose(advantage, [-1.25, -5.0, -14.0])


def test_on_policy_without_bounds_it_is_the_return_to_where_the_data_end():
    got = returns.vtrace(**ON_POLICY, discount=0.9, **UNBOUNDED)
    steps = without(ON_POLICY, "ratio", "value")
    for expected in (
        returns.n_step_returns(**steps, discount=0.9, n=len(STEPS["mask"])),
        returns.discounted_returns(**steps, discount=0.9),
    ):
        np.testing.assert_allclose(got.value, expected, rtol=1e-4, atol=1e-5)


def test_on_policy_with_a_trace_below_one_it_is_gae():
    got = returns.vtrace(**ON_POLICY, discount=0.9, trace=0.8, **UNBOUNDED)
    gae = returns.gae(**without(ON_POLICY, "ratio"), discount=0.9, trace=0.8)
    np.testing.assert_allclose(got.advantage, gae, rtol=1e-4, atol=1e-5)
    value = jnp.where(STEPS["mask"], gae + STEPS["value"], 0.0)
    np.testing.assert_allclose(got.value, value, rtol=1e-4, atol=1e-5)


def test_a_ratio_of_zero_learns_nothing_from_a_step():
    got = returns.vtrace(**STEPS | {"ratio": jnp.zeros_like(STEPS["ratio"])}, discount=0.9)
    np.testing.assert_array_equal(got.value, jnp.where(STEPS["mask"], STEPS["value"], 0.0))
    assert not got.advantage.any()


def test_what_must_not_be_looked_at_may_be_nan():
    hidden = STEPS | {
        name: jnp.where(STEPS["mask"], STEPS[name], jnp.nan)
        for name in ("ratio", "reward", "value", "next_value")
    }
    hidden["next_value"] = jnp.where(STEPS["terminated"], jnp.nan, hidden["next_value"])
    for a, b in zip(
        returns.vtrace(**hidden, discount=0.9), returns.vtrace(**STEPS, discount=0.9), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_no_mask_is_all_ones():
    steps = without(STEPS, "mask") | {"next_value": jnp.nan_to_num(STEPS["next_value"])}
    ones = steps | {"mask": jnp.ones_like(STEPS["mask"])}
    for a, b in zip(
        returns.vtrace(**steps, discount=0.9), returns.vtrace(**ones, discount=0.9), strict=True
    ):
        np.testing.assert_array_equal(a, b)
