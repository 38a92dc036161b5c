"""The cache of a transformer: keys and values of the tokens so far."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array

from agents.tokens.layers import DTYPES
from agents.tokens.transformer_config import TransformerConfig


@flax.struct.dataclass
class Cache:
    """Keys and values of the tokens so far, and where these are.

    They lie as the products of attention take them: XLA's CPU compiler would copy each whole cache for each token.
    """

    keys: Any  # of each layer [N, kv_heads, head_width, S]
    values: Any  # of each layer [N, kv_heads, S, head_width]
    positions: Any  # int32 [N, S]; -1: nothing here

    def repeated(self, times: int) -> Cache:
        """Returns the cache of `times` sequences in place of each, contiguous in N."""
        return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), self)


def as_cached(key: Array, value: Array) -> tuple[Array, Array]:
    """Returns keys and values [N, L, kv_heads, head_width] as `Cache` has them."""
    return jnp.transpose(key, (0, 2, 3, 1)), jnp.swapaxes(value, 1, 2)


def empty_cache(config: TransformerConfig, num_sequences: int, size: int) -> Cache:
    """Returns a cache with room for `size` tokens of each sequence."""
    heads, head, dtype = config.kv_heads, config.head_width, DTYPES[config.dtype]
    keys = (jnp.zeros((num_sequences, heads, head, size), dtype),) * config.layers
    values = (jnp.zeros((num_sequences, heads, size, head), dtype),) * config.layers
    return Cache(keys, values, jnp.full((num_sequences, size), -1, jnp.int32))
