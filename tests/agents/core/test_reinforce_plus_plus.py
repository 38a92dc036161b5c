import jax.numpy as jnp
import numpy as np
import pytest

from agents.core import returns


def test_reward_to_go_by_hand():
    """Before whitening, which moves all numbers by the same line."""
    reward = jnp.array([[0.0, 5.0], [0.0, jnp.nan], [2.0, jnp.nan]])
    kl = jnp.array([[1.0, 0.0], [0.5, jnp.nan], [-2.0, jnp.nan]])
    mask = jnp.array([[True, True], [True, False], [True, False]])
    got = returns.reinforce_plus_plus_advantages(reward, kl, mask, 0.1, 0.5)
    last = 2.0 + 0.2
    middle = -0.05 + 0.5 * last
    raw = np.array([-0.1 + 0.5 * middle, 5.0, middle, last])
    white = (raw - raw.mean()) / np.sqrt(raw.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(got[mask], white, rtol=1e-5)
    np.testing.assert_array_equal(got[~mask], [0.0, 0.0])


def test_the_baseline_is_the_groups_mean_and_the_scale_the_batchs():
    score = jnp.array([1.0, 0.0, 7.0, 3.0])
    mask = jnp.arange(3)[:, None] < jnp.array([3, 1, 2, 0])
    got = returns.reinforce_plus_plus_baseline_advantages(score, mask, 2)
    centred = np.broadcast_to([0.5, -0.5, 2.0, -2.0], (3, 4))[np.asarray(mask)]
    white = (centred - centred.mean()) / centred.std(ddof=1)
    np.testing.assert_allclose(got[mask], white, rtol=1e-5)
    assert (got[~mask] == 0).all()


@pytest.mark.parametrize("padding", [((0, 2), (0, 0)), ((0, 0), (0, 2)), ((3, 1), (0, 2))])
def test_padding_changes_nothing(padding):
    rng = np.random.default_rng(0)
    mask = jnp.asarray(np.arange(5)[:, None] < rng.integers(1, 6, size=4))
    reward, kl = jnp.asarray(rng.normal(size=(2, 5, 4)))
    plain = returns.reinforce_plus_plus_advantages(reward, kl, mask, 0.1)
    holes = [jnp.pad(x, padding, constant_values=jnp.nan) for x in (reward, kl)]
    padded = returns.reinforce_plus_plus_advantages(*holes, jnp.pad(mask, padding), 0.1)
    np.testing.assert_allclose(padded[jnp.pad(mask, padding)], plain[mask], rtol=1e-4, atol=1e-6)


def test_dynamic_sampling_keeps_groups_whose_raw_scores_differ():
    third = (
        0.1 + 0.2
    )  # not 0.3: a mean of these has a rounding error, their minimum and maximum have none
    score = jnp.array([third, third, third, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    kept = returns.groups_with_spread(score, 3)
    np.testing.assert_array_equal(kept, [False] * 3 + [True] * 3 + [False] * 3)
    assert not returns.groups_with_spread(score, 1).any()
