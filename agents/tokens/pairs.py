"""Pairs of responses to one prompt, a chosen and a rejected one, and where they come from.

    samples   two responses of a policy, ranked by a score; ties train nothing      `ranked_pairs`
    expert    an expert's response against itself with one token changed            `corrupted`
    a file    read on the host, `experiments.run.pair_files`

Pure functions of fixed shapes, for use inside `jit`: a pair that must not train has weight 0 and stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from agents.tokens.generation import Generated, Stop, is_stop


class Pairs(NamedTuple):
    """N pairs of responses. Prompts are padded on the left, responses on the right."""

    prompts: Array  # [N, P] int32
    chosen: Array  # [N, R] int32
    rejected: Array  # [N, R] int32
    chosen_length: Array  # [N] int32, the stop token included
    rejected_length: Array  # [N] int32
    weight: Array  # [N] float32; 0: the pair trains nothing
    margin: Array | Any = None  # [N] float32, by which the chosen score should lead; None: 0

    @property
    def prompts_twice(self) -> Array:
        """Returns the prompt of each response in `responses`, [2N, P]."""
        return jnp.concatenate([self.prompts, self.prompts])

    @property
    def responses(self) -> Array:
        """Returns the chosen responses, then the rejected ones, [2N, R]."""
        return jnp.concatenate([self.chosen, self.rejected])

    @property
    def lengths(self) -> Array:
        """Returns the lengths of `responses`, [2N]."""
        return jnp.concatenate([self.chosen_length, self.rejected_length])


def ranked_pairs(
    prompts: Int[Array, "N P"],
    first: Generated,
    second: Generated,
    scores: Float[Array, "2 N"],
    key: PRNGKeyArray,
    temperature: float = 0.0,
    flips: float = 0.0,
) -> Pairs:
    """Returns each prompt's two responses as a pair, the one of the higher score chosen, labels noisy if wanted.

    Equal scores, and scores that are not finite, give weight 0.

    Args:
      scores: of the first responses, and of the second ones.
      temperature: labels are drawn by Bradley-Terry, P(second) = sigmoid((s_2 - s_1) / temperature); 0: no noise.
      flips: probability that a label is turned round, whatever the scores.
    """
    noise_key, flip_key = jax.random.split(key)
    lead = scores[1] - scores[0]
    noisy = lead + temperature * jax.random.logistic(noise_key, lead.shape)
    takes_second = (noisy > 0) ^ jax.random.bernoulli(flip_key, flips, lead.shape)
    trains = jnp.isfinite(lead) & (lead != 0)

    def select(where: Bool[Array, " N"]) -> tuple[Array, Array]:
        tokens = jnp.where(where[:, None], second.tokens, first.tokens)
        return tokens, jnp.where(where, second.length, first.length)

    chosen, chosen_length = select(takes_second)
    rejected, rejected_length = select(~takes_second)
    weight = trains.astype(jnp.float32)
    return Pairs(prompts, chosen, rejected, chosen_length, rejected_length, weight)


def corrupted(
    key: PRNGKeyArray,
    responses: Int[Array, "N R"],
    lengths: Int[Array, " N"],
    vocabulary: int,
    stop: Stop,
) -> tuple[Int[Array, "N R"], Bool[Array, " N"]]:
    """Returns the responses with one token changed, and True where one could be.

    The place is drawn from those before the stop token; the new token from those that occur in the responses, so that
    digits are replaced by digits.
    """
    place_key, token_key = jax.random.split(key)
    places = jnp.arange(responses.shape[1])
    written = (places < lengths[:, None]) & ~is_stop(responses, stop)
    place = jax.random.categorical(place_key, jnp.where(written, 0.0, -jnp.inf), axis=1)
    old = jnp.take_along_axis(responses, place[:, None], axis=1)
    occurs = jnp.zeros(vocabulary, bool).at[responses].max(written)
    others = occurs & (jnp.arange(vocabulary) != old)
    new = jax.random.categorical(token_key, jnp.where(others, 0.0, -jnp.inf), axis=1)
    can = jnp.any(written, axis=1) & jnp.any(others, axis=1)
    changed = jnp.where(places == place[:, None], new[:, None].astype(responses.dtype), responses)
    return jnp.where(can[:, None], changed, responses), can


def map_parts(f: Callable[[Any], Any], tree: Any, size: int) -> Any:
    """Returns `f` of all rows, computed in parts of `size` rows one after another, which bounds the memory.

    Args:
      f: leaves [size, ...] to leaves [size, ...], row by row.
      tree: leaves [N, ...]; the last part is filled with first rows, whose results are dropped.
    """
    n = jax.tree.leaves(tree)[0].shape[0]
    parts = -(-n // size)
    rows = (jnp.arange(parts * size) % n).reshape(parts, size)
    out = jax.lax.map(lambda i: f(jax.tree.map(lambda x: x[i], tree)), rows)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], out)
