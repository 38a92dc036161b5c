import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import segments
from agents.segment_reward import SegmentReward, SegmentRewardSettings, is_held_out
from agents.segments import Segments

WEIGHTS = jnp.array([1.0, -2.0, 0.5])
LENGTH = 4


def see(x):
    return x


def random_segments(key, n, ends=False):
    """Segments whose reward is WEIGHTS . (obs, action, next obs) + 1; some end early, if wanted."""
    frames_key, action_key, end_key = jax.random.split(key, 3)
    frames = jax.random.normal(frames_key, (n, LENGTH + 1, 1))
    action = jax.random.normal(action_key, (n, LENGTH, 1))
    reward = 1.0 + jnp.concatenate([frames[:, :-1], action, frames[:, 1:]], -1) @ WEIGHTS
    length = jax.random.randint(end_key, (n, 1), 1 if ends else LENGTH, LENGTH + 1)
    return Segments(frames, action, reward, jnp.arange(LENGTH) < length)


def fitted(num_pairs=512, updates=600, ends=False, **settings):
    """The model fitted to exact Bradley-Terry labels, the probabilities themselves."""
    settings = {"reward_members": 2, "reward_weight_decay": 0.0, "label_error": 0.0} | settings
    model = SegmentReward(SegmentRewardSettings(reward_hidden_sizes=(), **settings), 1, 1)
    keys = jax.random.split(jax.random.key(0), 4)
    first, second = (random_segments(key, num_pairs, ends) for key in keys[:2])
    lead = segments.true_return(first) - segments.true_return(second)
    store = segments.empty_store(num_pairs, LENGTH, 1, 1)
    store = segments.add(store, first, second, jax.nn.sigmoid(lead), jnp.ones(num_pairs, bool))
    state, metrics = jax.jit(lambda: model.fit(model.init(keys[2]), store, see, keys[3], updates))()
    return model, state, store, metrics


def rewards_of_basis(model, state):
    """The raw rewards at 0 and at the unit vectors, [E, 4]."""
    basis = jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3)])
    parts = basis[:, :1], basis[:, 1:2], basis[:, 2:]
    return jax.vmap(model.raw, (0, None, None, None))(state.params, *parts)


class TestLinearReward:
    """A reward that the network can represent is recovered from Bradley-Terry labels."""

    def test_up_to_a_constant_where_segments_are_equally_long(self):
        model, state, _, _ = fitted(reward_learning_rate=0.02)
        found = rewards_of_basis(model, state)
        np.testing.assert_allclose(found[:, 1:] - found[:, :1], [WEIGHTS] * 2, atol=0.08)

    def test_constant_and_all_where_some_end_early(self):
        model, state, _, _ = fitted(reward_learning_rate=0.02, ends=True)
        np.testing.assert_allclose(
            rewards_of_basis(model, state), [[1.0, *(1.0 + WEIGHTS)]] * 2, atol=0.08
        )


@pytest.fixture(scope="module")
def model_and_store():
    model, state, store, _ = fitted(num_pairs=64, updates=3)
    return model, state, store


def test_a_constant_of_all_steps_changes_no_loss(model_and_store):
    model, state, store = model_and_store
    member = jax.tree.map(lambda x: x[0], state.params)
    index = jnp.arange(64)
    shifted = jax.tree.map(lambda x: x + 3.0 if x.shape == (1,) else x, member)
    losses = [model.loss(p, store, index, see)[0] for p in (member, shifted)]
    assert losses[0] == pytest.approx(float(losses[1]), rel=1e-5)


def test_masked_steps_and_pairs_without_weight_count_nowhere(model_and_store):
    model, state, store = model_and_store
    member = jax.tree.map(lambda x: x[0], state.params)
    index = jnp.arange(64)
    shorter = store._replace(
        mask=store.mask.at[:, :, 2:].set(False), weight=store.weight.at[:32].set(0.0)
    )
    filled = shorter._replace(
        frames=shorter.frames.at[:, :, 3:].set(1e3).at[:32].set(1e3),
        label=shorter.label.at[:32].set(0),
    )
    (loss, (metrics, *_)), (other, (others, *_)) = (
        model.loss(member, x, index, see) for x in (shorter, filled)
    )
    assert loss == other
    assert metrics == others
    gradient = jax.grad(lambda p: model.loss(p, filled, index, see)[0])(member)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_pairs_for_validation_are_not_trained_on(model_and_store):
    model, state, store = model_and_store
    member = jax.tree.map(lambda x: x[0], state.params)
    held_out = is_held_out(jnp.arange(64), 0.1)
    assert held_out.sum() == 6
    turned = store._replace(label=jnp.where(held_out, 1.0 - store.label, store.label))
    gradients = [
        jax.grad(lambda p, x=x: model.loss(p, x, jnp.arange(64), see)[0])(member)
        for x in (store, turned)
    ]
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rewards_have_the_size_of_one_over_the_compared_segments():
    for offset, centre in (("learned", None), ("zero-mean", 0.0)):
        model, state, store, _ = fitted(
            num_pairs=256, reward_learning_rate=0.02, ends=True, reward_offset=offset
        )
        obs, action, next_obs = store.frames[:, :, :-1], store.action, store.frames[:, :, 1:]
        rewards = model.members(state, obs, action, next_obs)
        rewards = jnp.where(store.mask, rewards, jnp.nan)
        size = jnp.sqrt(jnp.nanmean(jnp.square(rewards), axis=(1, 2, 3)))
        np.testing.assert_allclose(size, 1.0, atol=0.1)
        if centre is not None:
            np.testing.assert_allclose(jnp.nanmean(rewards, axis=(1, 2, 3)), centre, atol=0.1)


def test_networks_of_one_mind_do_not_disagree():
    model = SegmentReward(SegmentRewardSettings(reward_hidden_sizes=(4,)), 1, 1)
    state = model.init(jax.random.key(0))
    first, second = (random_segments(jax.random.key(i), 3) for i in range(2))
    assert (model.disagreement(state, first, second, see) > 0).all()
    same = state.replace(params=jax.tree.map(lambda x: x.at[:].set(x[0]), state.params))
    np.testing.assert_allclose(model.disagreement(same, first, second, see), 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward_members": 0}, "reward_members must be at least 1, got 0"),
        ({"reward_hidden_sizes": (0,)}, "reward_hidden_sizes must be at most 10 positive numbers"),
        ({"label_error": 1.0}, "label_error must be at least 0 and below 1, got 1.0"),
        ({"validation_share": -0.1}, "validation_share must be at least 0 and below 1"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SegmentRewardSettings(**change)
