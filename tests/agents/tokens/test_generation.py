import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.tokens.generation import Sampling, generate, log_probs, token_positions
from agents.tokens.transformer import TransformerConfig, token_model

PAD, STOP = 0, 1
CONFIG = TransformerConfig(vocabulary=9, layers=2, width=16, heads=4, kv_heads=2, mlp_width=24)
NETWORK = token_model(CONFIG)


@pytest.fixture(scope="module")
def params():
    # Weights of blocks begin at zero; noise everywhere, so that everything takes part.
    @jax.jit
    def make(key, noise_key):
        leaves, tree = jax.tree.flatten(NETWORK.init(key))
        keys = jax.random.split(noise_key, len(leaves))
        noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(tree, noisy)

    return make(jax.random.key(0), jax.random.key(1))


@jax.jit
def hidden(params, tokens, positions):
    return NETWORK.module(params).policy.hidden(tokens, positions)


PROMPT = jnp.array([[PAD, PAD, 4, 5], [2, 3, 4, 5], [PAD, 8, 8, 2]])


def write(params, prompt=PROMPT, sampling=Sampling(), cached=True, stop=STOP, seed=3, n=6):  # noqa: B008
    @jax.jit
    def run(params, prompt):
        policy = NETWORK.module(params).policy
        key = jax.random.key(seed)
        return generate(policy, prompt, key, n, sampling, pad=PAD, stop=stop, cached=cached)

    return run(params, prompt)


@pytest.mark.parametrize("stop", [STOP, None])
def test_the_cache_changes_nothing(params, stop):
    with_cache, without = (write(params, cached=c, stop=stop) for c in (True, False))
    np.testing.assert_array_equal(with_cache.tokens, without.tokens)
    np.testing.assert_array_equal(with_cache.length, without.length)
    np.testing.assert_allclose(with_cache.logp, without.logp, atol=1e-5)


@pytest.mark.parametrize("cached", [True, False])
def test_a_prompt_is_read_once_for_all_of_its_responses(params, cached):
    """The same as for prompts that are repeated."""

    @jax.jit
    def run(params, prompt):
        policy = NETWORK.module(params).policy
        settings = {"pad": PAD, "stop": STOP, "cached": cached, "repeats": 3}
        return generate(policy, prompt, jax.random.key(3), 6, Sampling(top_k=4), **settings)

    found = run(params, PROMPT)
    expected = write(params, jnp.repeat(PROMPT, 3, axis=0), Sampling(top_k=4), cached=cached)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.length, expected.length)
    np.testing.assert_array_equal(found.allowed, expected.allowed)
    np.testing.assert_allclose(found.logp, expected.logp, atol=1e-5)
    assert (np.asarray(found.allowed).sum(-1) == 4).all(where=np.arange(6) < found.length[:, None])


def test_padding_before_a_prompt_changes_nothing(params):
    short = write(params, PROMPT[:1, 2:])
    padded = write(params, jnp.pad(PROMPT[:1, 2:], ((0, 0), (5, 0))))
    np.testing.assert_array_equal(short.tokens, padded.tokens)
    np.testing.assert_allclose(short.logp, padded.logp, atol=1e-5)


def test_an_empty_prompt_is_one_token(params):
    """It attends to that, and not to everything: to places still to be written, or to the response itself."""
    empty = jnp.full((1, 3), PAD)
    found, longer = write(params, empty), write(params, jnp.full((1, 5), PAD))
    np.testing.assert_array_equal(found.tokens, longer.tokens)
    np.testing.assert_allclose(found.logp, longer.logp, atol=1e-5)
    without = write(params, empty, cached=False)
    np.testing.assert_array_equal(found.tokens, without.tokens)
    np.testing.assert_allclose(found.logp, without.logp, atol=1e-5)

    @jax.jit
    def first(params, response):
        tokens = jnp.concatenate([empty, response[None]], axis=1)
        places = jnp.concatenate([token_positions(empty, PAD), 1 + jnp.arange(2)[None]], axis=1)
        policy = NETWORK.module(params).policy
        return log_probs(policy.logits(policy.hidden(tokens, places)[:, 2]), Sampling())[0]

    one, other = first(params, jnp.array([2, 3])), first(params, jnp.array([7, 8]))
    np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(one[found.tokens[0, 0]], found.logp[0, 0], atol=1e-5)


def test_responses_end_where_they_end(params):
    found = jax.tree.map(np.asarray, write(params, jnp.tile(PROMPT, (30, 1))))
    assert {int(n) for n in found.length} > {1, 6}
    for tokens, logp, length in zip(found.tokens, found.logp, found.length, strict=True):
        ends = np.flatnonzero(np.asarray(tokens) == STOP)
        assert (ends[0] + 1 if len(ends) else 6) == length
        assert (tokens[length:] == PAD).all()
        assert (logp[length:] == 0).all()
        assert (logp[:length] < 0).all()


def test_tokens_are_drawn_as_often_as_they_are_likely(params):
    prompt = jnp.tile(PROMPT[1:2], (20_000, 1))
    tokens = write(params, prompt, n=1).tokens[:, 0]

    @jax.jit
    def probabilities(params):
        policy = NETWORK.module(params).policy
        last = policy.hidden(PROMPT[1:2], jnp.arange(4)[None])[:, -1]
        return jnp.exp(log_probs(policy.logits(last), Sampling()))[0]

    expected = probabilities(params)
    np.testing.assert_allclose(np.bincount(tokens, minlength=9) / 20_000, expected, atol=0.012)


class TestLogProbs:
    LOGITS = jnp.log(jnp.array([0.5, 0.25, 0.15, 0.1]))

    @pytest.mark.parametrize(
        ("sampling", "expected"),
        [
            (Sampling(), [0.5, 0.25, 0.15, 0.1]),
            (Sampling(top_k=2), [2 / 3, 1 / 3, 0, 0]),
            (Sampling(top_p=0.75), [2 / 3, 1 / 3, 0, 0]),
            (Sampling(top_p=0.76), [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
            (Sampling(top_p=0.1), [1, 0, 0, 0]),
            (Sampling(temperature=0.5), np.array([25, 6.25, 2.25, 1]) / 34.5),
            (Sampling(temperature=0.5, top_k=2), np.array([25, 6.25, 0, 0]) / 31.25),
        ],
    )
    def test_by_hand(self, sampling, expected):
        np.testing.assert_allclose(jnp.exp(log_probs(self.LOGITS, sampling)), expected, rtol=1e-4)

    def test_a_token_that_was_drawn_stays_in_the_choice(self):
        found = jnp.exp(log_probs(self.LOGITS, Sampling(top_k=1), jnp.array(3)))
        np.testing.assert_allclose(found, [5 / 6, 0, 0, 1 / 6], rtol=1e-5)

    def test_gradients_are_numbers(self):
        def total(logits):
            logp = log_probs(logits, Sampling(top_k=2, top_p=0.9), jnp.array(0))
            return logp[0] - jnp.sum(jnp.exp(logp) * logp)

        assert jnp.isfinite(jax.grad(total)(self.LOGITS)).all()


def test_positions_start_at_the_first_token():
    prompts = jnp.array([[PAD, PAD, 4, PAD], [3, 4, 5, 6], [PAD, PAD, PAD, PAD]])
    found = token_positions(prompts, PAD)
    assert found.tolist() == [[-1, -1, 0, 1], [0, 1, 2, 3], [-1, -1, -1, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"top_k": 0}, "top_k must be positive"),
        ({"top_p": 1.5}, "top_p must be at most 1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers must be at least 1"),
        ({"width": 20}, "multiple of twice the heads"),
        ({"kv_heads": 3}, "multiple of kv_heads"),
    ],
)
def test_bad_models(change, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{"vocabulary": 5, "heads": 4, **change})


def test_later_tokens_are_not_seen(params):
    a, b = np.array([[2, 3, 4, 5]]), np.array([[2, 3, 7, 8]])
    one, other = (np.asarray(hidden(params, x, np.arange(4)[None])) for x in (a, b))
    np.testing.assert_allclose(one[:, :2], other[:, :2], atol=1e-6)
    assert np.abs(one[:, 2:] - other[:, 2:]).max() > 1e-2


def test_positions_are_relative(params):
    tokens, places = np.array([[2, 3, 4, 5]]), np.arange(4)[None]
    near, far = (np.asarray(hidden(params, tokens, places + shift)) for shift in (0, 50))
    np.testing.assert_allclose(near, far, atol=2e-4)
    assert np.abs(hidden(params, tokens, places * 2) - near).max() > 1e-2
