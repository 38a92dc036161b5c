import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import segments
from agents.segments import Segments, Trail

KEY = jax.random.key(0)


def trail(rows=6, columns=2, terminated=(), truncated=()):
    """Observation of row t: 10 t + column; the one after it: 0.5 more; reward t."""
    t, n = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    flags = [np.zeros((rows, columns), bool) for _ in range(2)]
    for flag, places in zip(flags, (terminated, truncated), strict=True):
        for place in places:
            flag[place] = True
    obs = (10.0 * t + n)[..., None]
    arrays = obs, np.ones((rows, columns, 1)), obs + 0.5, 1.0 * t, *flags
    return Trail(*(jnp.asarray(x, x.dtype if x.dtype == bool else np.float32) for x in arrays))


def returns_as_segments(returns):
    """Segments of one step that have these returns."""
    reward = jnp.asarray(returns, jnp.float32)[:, None]
    n = len(reward)
    return Segments(jnp.zeros((n, 2, 1)), jnp.zeros((n, 1, 1)), reward, jnp.ones((n, 1), bool))


class TestCut:
    def test_steps_in_a_row_with_their_true_successors(self):
        cut, usable = segments.cut(trail(), jnp.array([1]), jnp.array([1]), 3)
        np.testing.assert_array_equal(cut.frames[0, :, 0], [11.0, 11.5, 21.5, 31.5])
        np.testing.assert_array_equal(cut.reward[0], [1.0, 2.0, 3.0])
        assert cut.mask.all()
        assert usable.all()

    def test_an_end_masks_what_follows(self):
        cut, usable = segments.cut(
            trail(terminated=[(2, 0)]), jnp.array([1, 2, 3]), jnp.array([0, 0, 0]), 3
        )
        np.testing.assert_array_equal(
            cut.mask, [[True, True, False], [True, False, False], [True, True, True]]
        )
        np.testing.assert_array_equal(segments.true_return(cut), [3.0, 2.0, 12.0])
        assert usable.all()

    def test_a_time_limit_spoils_a_segment_unless_it_comes_last_or_after_the_end(self):
        _, usable = segments.cut(
            trail(truncated=[(2, 0), (3, 1)], terminated=[(2, 1)]),
            jnp.array([0, 1, 2, 3, 1]),
            jnp.array([0, 0, 0, 0, 1]),
            3,
        )
        np.testing.assert_array_equal(usable, [True, False, False, True, True])


class TestCandidates:
    def test_every_segment_occurs_once(self):
        first, second, eligible = segments.candidate_pairs(trail(5, 3), KEY, 99, 3)
        assert len(eligible) == 4  # 9 segments
        begins = jnp.concatenate([first.frames[:, 0, 0], second.frames[:, 0, 0]])
        assert len(np.unique(begins)) == 8
        assert eligible.all()

    def test_pairs_of_two_usable_ones_alone(self):
        whole = segments.candidate_pairs(trail(4, 8), KEY, 99, 3)
        cut = segments.candidate_pairs(trail(4, 8, truncated=[(1, 3)]), KEY, 99, 3)
        assert whole[2].sum() - cut[2].sum() in (
            1,
            2,
        )  # two segments of the one column, of one pair or two


def test_choose_takes_the_highest_of_the_eligible_and_no_more_than_wanted():
    score = jnp.array([0.1, 0.9, 0.5, 0.7])
    eligible = jnp.array([True, False, True, True])
    index, taken = segments.choose(score, eligible, 2, 3)
    np.testing.assert_array_equal(index[taken], [3, 2])
    _, taken = segments.choose(score, eligible, 9, 4)
    assert taken.sum() == 3


class TestByReturn:
    def test_the_higher_return_is_preferred_and_equal_ones_are_ties(self):
        first = returns_as_segments([1.0, 0.0, 2.0, 2.0])
        second = returns_as_segments([0.0, 1.0, 2.0, 1.95])
        label = segments.by_return(tie=0.1)(first, second, KEY)
        np.testing.assert_array_equal(label, [1.0, 0.0, 0.5, 0.5])

    def test_returns_that_are_not_finite_cannot_be_compared(self):
        label = segments.by_return()(
            returns_as_segments([jnp.nan, jnp.inf]), returns_as_segments([0.0, 0.0]), KEY
        )
        assert jnp.isnan(label).all()

    def test_noise_has_the_probabilities_it_is_given(self):
        n = 200_000
        first, second = returns_as_segments(np.full(n, 1.0)), returns_as_segments(np.zeros(n))
        label = segments.by_return(temperature=2.0)(first, second, KEY)
        assert jnp.mean(label) == pytest.approx(1 / (1 + np.exp(-0.5)), abs=0.01)
        label = segments.by_return(flips=0.1)(first, second, KEY)
        assert jnp.mean(label) == pytest.approx(0.9, abs=0.01)


class TestStore:
    def test_taken_pairs_fill_it_in_order_and_no_further(self):
        store = segments.empty_store(3, 1, 1, 1)
        first, second = returns_as_segments([1.0, 2.0, 3.0]), returns_as_segments([0.0, 0.0, 0.0])
        first = first._replace(frames=first.frames + jnp.array([1.0, 2.0, 3.0])[:, None, None])
        label = jnp.array([1.0, 0.0, jnp.nan])
        store = segments.add(store, first, second, label, jnp.array([True, False, True]))
        assert store.filled == 2
        np.testing.assert_array_equal(store.frames[:, 0, 0, 0], [1.0, 3.0, 0.0])
        np.testing.assert_array_equal(store.weight, [1.0, 0.0, 0.0])  # NaN: not compared
        store = segments.add(store, first, second, label, jnp.ones(3, bool))
        assert store.filled == 3
        np.testing.assert_array_equal(store.frames[:, 0, 0, 0], [1.0, 3.0, 1.0])
        assert jnp.isfinite(store.label).all()
