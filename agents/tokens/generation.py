"""Generation of responses with a transformer: one pass over the prompts, then token by token with a cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from agents.settings import Settings, require
from agents.tokens import turns as talks
from agents.tokens.cache import empty_cache
from agents.tokens.transformer import Transformer
from agents.tokens.turns import Talk, Turns

# Logits beyond this many numbers are computed in parts of so many, and again in the backward pass.
_MOST_LOGITS, _LOGITS_OF_PART = 2**26, 2**24
Stop = (
    int | tuple[int, ...] | None
)  # the token or the tokens that end a response; None: all have full length
_NEVER = -1e30  # a logit; finite, so that 0 * log 0 is 0 and gradients stay numbers


@dataclasses.dataclass(frozen=True)
class Sampling(Settings):
    """The distribution that tokens are drawn from. Raises ValueError, in one line, for impossible values."""

    temperature: float = 1.0
    """divides the logits: below 1 sharper, above 1 flatter"""
    top_k: int | None = None
    """sample from the k most likely tokens; None: all"""
    top_p: float | None = None
    """sample from the smallest set of most likely tokens with at least this total probability; None: all"""

    def __post_init__(self):
        super().__post_init__()
        self.require_positive("temperature", "top_k", "top_p")
        require(self.top_p is None or self.top_p <= 1, f"top_p must be at most 1, got {self.top_p}")

    @property
    def sampling(self) -> Sampling:
        """These three alone, of settings that have them among others."""
        return Sampling(self.temperature, self.top_k, self.top_p)

    @property
    def truncated(self) -> bool:
        """True where some tokens may not be drawn."""
        return self.top_k is not None or (self.top_p is not None and self.top_p < 1)

    @property
    def untruncated(self) -> Sampling:
        """The same temperature over the whole vocabulary."""
        return Sampling(self.temperature)


class Generated(NamedTuple):
    """Responses, with the log-probabilities that their tokens were drawn with."""

    tokens: Array  # [N, R] int32; padding after the end
    logp: Array  # [N, R] float32, 0 after the end and for tokens of the environment
    length: Array  # [N] int32, the stop token included
    allowed: Array | None = None  # [N, R, V] bool: what top-k and top-p left to be drawn; None: all
    own: Array | None = None  # [N, R] bool: tokens that the policy drew; None: all up to the end

    @property
    def written(self) -> Int[Array, " N"]:
        """Number of tokens that the policy drew."""
        if self.own is None:
            return self.length
        return jnp.sum(self.own, axis=1, dtype=jnp.int32)


def log_probs(
    logits: Float[Array, "*batch V"],
    sampling: Sampling,
    keep: Int[Array, "*batch"] | None = None,
    allowed: Bool[Array, "*batch V"] | None = None,
) -> Float[Array, "*batch V"]:
    """Returns the log-probs of the sampling distribution: temperature, then top-k, then top-p, renormalised.

    Args:
      keep: a token that is never truncated. The learner passes the sampled token: it was in the truncated set at
        sampling time, and as the policy changes it must stay in the set, or its log-probability would be -inf.
      allowed: the truncated set of the sampling time, in place of a new one from these logits. Probabilities over
        different sets would not form a valid importance ratio.
    """
    logits = logits / sampling.temperature
    if allowed is not None:
        return jax.nn.log_softmax(jnp.where(allowed, logits, _NEVER), axis=-1)
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = jax.lax.top_k(jax.lax.stop_gradient(logits), sampling.top_k)[0][..., -1:]
        logits = _only(logits, logits >= least, keep)
    if sampling.top_p is not None and sampling.top_p < 1:
        ranked = -jnp.sort(-jax.lax.stop_gradient(logits), axis=-1)
        probability = jax.nn.softmax(ranked, axis=-1)
        likelier = jnp.cumsum(probability, axis=-1) - probability  # mass of those before
        least = jnp.min(
            jnp.where(likelier < sampling.top_p, ranked, jnp.inf), axis=-1, keepdims=True
        )
        logits = _only(logits, logits >= least, keep)
    return jax.nn.log_softmax(logits, axis=-1)


def chosen_log_probs(
    model: Transformer,
    hidden: Float[Array, "N T D"],
    chosen: Int[Array, "N T"],
    sampling: Sampling,
    allowed: Bool[Array, "N T V"] | None = None,
) -> tuple[Float[Array, "N T"], Float[Array, "N T"]]:
    """Returns log-probs of chosen tokens, and the entropy of the next token, at hidden states of a model.

    Above 2^26 logits tokens are computed part after part: the logits of all are never in memory together.
    `allowed` as of `log_probs`.
    """

    def of_tokens(part: tuple[Array, Array, Array | None]) -> tuple[Array, Array]:
        hidden, chosen, allowed = part
        logp = log_probs(model.logits(hidden), sampling, chosen, allowed)
        entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
        return jnp.take_along_axis(logp, chosen[..., None], axis=-1)[..., 0], entropy

    return in_parts(of_tokens, (hidden, chosen, allowed), model.config.vocabulary)


def in_parts(of_tokens: Callable[[Any], Any], rows: Any, vocabulary: int) -> Any:
    """Returns `of_tokens(rows)`, leaves [N, T]; of many tokens in a loop over parts, whose logits are computed again in
    the backward pass.

    Args:
      of_tokens: a function of each token by itself; leaves [..., numbers] to leaves [...].
      rows: leaves [N, T, ...].
    """
    n, length = jax.tree.leaves(rows)[0].shape[:2]
    total = n * length
    if total * vocabulary <= _MOST_LOGITS:
        return of_tokens(rows)
    size = min(total, max(1, _LOGITS_OF_PART // vocabulary))
    parts = -(-total // size)

    def divided(x: Array) -> Array:
        flat = x.reshape(total, *x.shape[2:])
        # The last part is filled up, and what fills it is dropped.
        filled = jnp.pad(flat, [(0, parts * size - total)] + [(0, 0)] * (flat.ndim - 1))
        return filled.reshape(parts, size, *flat.shape[1:])

    out = jax.lax.map(jax.checkpoint(of_tokens), jax.tree.map(divided, rows))
    return jax.tree.map(lambda x: x.reshape(-1)[:total].reshape(n, length), out)


def exact_kl(
    models: Sequence[Transformer],
    hidden: Sequence[Float[Array, "N T D"]],
    chosen: Int[Array, "N T"],
    sampling: Sampling,
    allowed: Bool[Array, "N T V"] | None = None,
) -> Float[Array, "N T"]:
    """Returns KL(policy || reference) of the next token, by the sum over the vocabulary.

    The reference is not truncated. Above 2^26 logits tokens are computed part after part.

    Args:
      models, hidden: of the policy and of the reference.
      chosen, allowed: the arguments `keep` and `allowed` of `log_probs`, for the policy.
    """

    def of_tokens(part: tuple[Any, Array, Array | None]) -> Array:
        (own, other), chosen, allowed = part
        logp = log_probs(models[0].logits(own), sampling, chosen, allowed)
        reference = log_probs(models[1].logits(other), sampling.untruncated)
        # What may not be drawn has probability 0, and the limit of p log p is 0.
        return jnp.sum(jnp.exp(logp) * jnp.where(logp > _NEVER / 2, logp - reference, 0.0), axis=-1)

    return in_parts(of_tokens, (tuple(hidden), chosen, allowed), models[0].config.vocabulary)


def generate(
    model: Transformer,
    prompt: Int[Array, "M P"],
    key: PRNGKeyArray,
    response_length: int,
    sampling: Sampling,
    *,
    pad: int,
    stop: Stop,
    cached: bool = True,
    repeats: int = 1,
    turns: Turns | None = None,
) -> Generated:
    """Returns responses of at most `response_length` tokens; each ends with `stop`, if that comes before.

    Args:
      prompt: `pad` on the left, P >= 1; `pad` alone is the empty prompt.
      stop: the token that ends a response, or several that do; None: all have full length.
      cached: False computes everything again for every token. It is there to be compared with.
      repeats: responses to each prompt, contiguous among the N = M * repeats; the prompt is read once for all of them.
      turns: the environment, whose replies stand in the response; None: it says nothing.
    """
    n, size = prompt.shape[0] * repeats, prompt.shape[1]
    model.config.require_context(size, response_length)
    positions = token_positions(prompt, pad)
    cache: Any
    if cached:
        cache = empty_cache(model.config, prompt.shape[0], size + response_length)
        cache, hidden = model.extend(cache, prompt, positions, 0, size - 1)
        positions = positions[:, -1:]
        if repeats > 1:
            cache = cache.repeated(repeats)
            hidden, positions = (jnp.repeat(x, repeats, axis=0) for x in (hidden, positions))
    else:
        prompt, positions = (jnp.repeat(x, repeats, axis=0) for x in (prompt, positions))
        # Space for the whole response: positions of future tokens are -1.
        room = jnp.full((n, response_length), pad, prompt.dtype)
        cache = (
            jnp.concatenate([prompt, room], axis=1),
            jnp.concatenate([positions, jnp.full_like(room, -1)], axis=1),
        )
        hidden = model.hidden(prompt, positions)
    keys = jax.random.split(key, response_length)

    def draw(t, hidden, *written):
        logp = log_probs(model.logits(hidden), sampling)
        return _with_token(t, logp, keys[t], *written, pad=pad, stop=stop, turns=turns)

    def body(carry):
        t, cache, out, done, talk = carry
        token = jax.lax.dynamic_slice_in_dim(out.tokens, t - 1, 1, axis=1)
        position = jnp.where(done, -1, positions[:, -1] + t)[:, None]
        if cached:
            cache, hidden = model.extend(cache, token, position, size + t - 1)
            hidden = hidden[:, 0]
        else:
            cache = tuple(
                jax.lax.dynamic_update_slice(whole, new, (0, size + t - 1))
                for whole, new in zip(cache, (token, position), strict=True)
            )
            hidden = jax.lax.dynamic_index_in_dim(model.hidden(*cache), size + t - 1, 1, False)
        return t + 1, cache, *draw(t, hidden, out, done, talk)

    shape = (n, response_length)
    allowed = jnp.ones((*shape, model.config.vocabulary), bool) if sampling.truncated else None
    out = Generated(
        jnp.full(shape, pad, prompt.dtype),
        jnp.zeros(shape),
        jnp.zeros(n, jnp.int32),
        allowed,
        None if turns is None else jnp.zeros(shape, bool),
    )
    talk = None if turns is None else talks.begin(turns, prompt, pad)
    if turns is not None and cached and repeats > 1:
        talk = jax.tree.map(lambda x: jnp.repeat(x, repeats, axis=0), talk)
    carry = draw(0, hidden[:, -1], out, jnp.zeros(n, bool), talk)
    carry = (jnp.ones((), jnp.int32), cache, *carry)
    return jax.lax.while_loop(lambda c: (c[0] < response_length) & ~jnp.all(c[3]), body, carry)[2]


def _with_token(
    t: Any,
    logp: Float[Array, "N V"],
    key: PRNGKeyArray,
    out: Generated,
    done: Bool[Array, " N"],
    talk: Talk | None,
    *,
    pad: int,
    stop: Stop,
    turns: Turns | None,
) -> tuple[Generated, Bool[Array, " N"], Talk | None]:
    """Returns responses after token `t` of each, True for those that ended, and the conversations."""
    token = jax.random.categorical(key, logp).astype(out.tokens.dtype)
    own, allowed = ~done, logp > _NEVER / 2
    if turns is not None and talk is not None:
        talk, token, free = talk.said(turns, token, pad)
        own &= free
        # Where nothing was drawn, nothing was left out.
        allowed |= ~own[:, None]
    token_logp = jnp.take_along_axis(logp, token[:, None], axis=-1)[:, 0]
    out = Generated(
        out.tokens.at[:, t].set(jnp.where(done, pad, token)),
        out.logp.at[:, t].set(jnp.where(own, token_logp, 0.0)),
        out.length + ~done,
        None if out.allowed is None else out.allowed.at[:, t].set(allowed),
        None if out.own is None else out.own.at[:, t].set(own),
    )
    return out, done if stop is None else done | is_stop(token, stop), talk


def token_positions(prompt: Int[Array, "N P"], pad: int) -> Int[Array, "N P"]:
    """Returns positions 0, 1, 2, ... from the first token after the left padding, and -1 for the padding.

    Only leading `pad` tokens are padding; a later `pad` counts as a token. The last position of a prompt always
    counts: an empty prompt is a single `pad`, after which the response begins. Without it, attention would have no
    key, and a softmax over masked keys attends uniformly to all of them.
    """
    begun = (jnp.cumsum(prompt != pad, axis=1) > 0).at[:, -1].set(True)
    return jnp.cumsum(begun, axis=1).astype(jnp.int32) - 1


def is_stop(tokens: Int[Array, "*batch"], stop: Stop) -> Bool[Array, "*batch"]:
    """Returns True for tokens that end a response."""
    if isinstance(stop, tuple):
        return jnp.isin(tokens, jnp.asarray(stop, tokens.dtype))
    return tokens == (-1 if stop is None else stop)


def _only(logits, chosen, keep):
    if keep is not None:
        chosen = chosen | (jnp.arange(logits.shape[-1]) == keep[..., None])
    return jnp.where(chosen, logits, _NEVER)
