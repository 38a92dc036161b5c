"""A decoder-only transformer that predicts the next token, with a cache for generation.

Pre-norm blocks of grouped-query attention (Ainslie et al. 2023, https://arxiv.org/abs/2305.13245) with rotary positions
(Su et al. 2021, https://arxiv.org/abs/2104.09864) and SwiGLU (Shazeer 2020, https://arxiv.org/abs/2002.05202); RMSNorm
(Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467); no biases. `TransformerConfig` has the variants of published
models as options: biases, norms of queries and keys, LayerNorm, GELU, learned positions.

Sequences are [N, L]. A token at position -1 is padding: nothing attends to it. Positions, not places in the array, say
where a token is, so padding may stand anywhere and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from agents.networks import Functional
from agents.tokens.cache import Cache, as_cached
from agents.tokens.layers import DTYPES, linear_layer, norm_layer, rms_norm
from agents.tokens.rotary import rotated, rotation
from agents.tokens.transformer_config import TransformerConfig

_DRAWN = 4096  # random numbers in a round of the loop
_LEARNED_SPREAD = 0.02  # of positions, at first


class _Attention(nnx.Module):
    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.config = config
        width, head = config.width, config.head_width
        linear = partial(linear_layer, config, width, rngs=rngs, bias=config.bias_qkv)
        self.query = linear(config.heads * head, name="q_proj")
        self.key = linear(config.kv_heads * head, name="k_proj")
        self.value = linear(config.kv_heads * head, name="v_proj")
        self.out = linear_layer(
            config, config.heads * head, width, rngs, bias=config.bias_out, name="o_proj"
        )
        self.norm_query = rms_norm(config, head, rngs) if config.qk_norm else None
        self.norm_key = rms_norm(config, head, rngs) if config.qk_norm else None

    def project(self, x, positions, start):
        """Queries [N, L - start, heads, head], keys and values [N, L, kv_heads, head]."""
        config = self.config
        asking = x[:, start:]
        query = self.query(asking).reshape(*asking.shape[:2], config.heads, config.head_width)
        key = self.key(x).reshape(*x.shape[:2], config.kv_heads, config.head_width)
        value = self.value(x).reshape(key.shape)
        if self.norm_query is not None and self.norm_key is not None:
            query, key = self.norm_query(query), self.norm_key(key)
        if config.positions == "learned":
            return query, key, value
        rotate = rotation(positions, config)
        return rotated(query, [x[:, start:] for x in rotate]), rotated(key, rotate), value

    def mix(self, query, keys, values, positions, key_positions):
        """Returns the mixed values [N, L, heads * head]: each query attends to keys up to its own position.

        Keys and values as `Cache` has them.
        """
        config = self.config
        n, length = query.shape[:2]
        grouped = query.reshape(n, length, config.kv_heads, -1, config.head_width)
        # In the order of the products: [N, kv_heads, queries of a group, head].
        grouped = jnp.transpose(grouped, (0, 2, 3, 1, 4))
        asked = grouped.reshape(n, config.kv_heads, -1, config.head_width)
        scores = (asked @ keys) * config.head_width**-0.5
        scores = scores.reshape(*grouped.shape[:4], -1)
        visible = (key_positions[:, None] <= positions[..., None]) & (key_positions[:, None] >= 0)
        # Finite, so that a padding token, which sees nothing, gives no NaN.
        scores = jnp.where(visible[:, None, None], scores.astype(jnp.float32), -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        mixed = (weights.reshape(*asked.shape[:3], -1) @ values).reshape(grouped.shape)
        return jnp.transpose(mixed, (0, 3, 1, 2, 4)).reshape(n, length, -1)

    def attend(self, query, keys, values, positions, key_positions):
        """Computes causal attention, see `mix`. Keys and values lie as in `Cache`."""
        return self.out(self.mix(query, keys, values, positions, key_positions))


class Block(nnx.Module):
    """One layer: attention and a feed-forward part, each behind its norm."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        width, units = config.width, config.mlp_width
        linear = partial(linear_layer, config, rngs=rngs, bias=config.bias_mlp)
        self.norm_attention = norm_layer(config, rngs)
        self.attention = _Attention(config, rngs)
        self.norm_mlp = norm_layer(config, rngs)
        gated = config.mlp == "swiglu"
        self.gate = linear(width, units, name="gate_proj") if gated else None
        self.up = linear(width, units, name="up_proj")
        self.down = linear(units, width, name="down_proj")

    def mlp(self, x):
        """Returns the feed-forward part of x."""
        x = self.norm_mlp(x)
        if self.gate is None:
            return self.down(jax.nn.gelu(self.up(x), approximate=True))
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Transformer(nnx.Module):
    """A decoder that maps tokens to the logits of the next token or, with `outputs`, to that many numbers per token."""

    def __init__(self, config: TransformerConfig, outputs: int | None = None, *, rngs: nnx.Rngs):
        dtype, width = DTYPES[config.dtype], config.width
        self.config = config
        self.embedding = nnx.Embed(
            config.vocabulary,
            config.width,
            dtype=dtype,
            embedding_init=nnx.initializers.constant(config.width**-0.5),
            rngs=rngs,
        )
        places = nnx.initializers.constant(_LEARNED_SPREAD)
        self.places = (
            nnx.Embed(config.context, width, dtype=dtype, embedding_init=places, rngs=rngs)
            if config.positions == "learned" and config.context is not None
            else None
        )
        self.blocks = nnx.List(Block(config, rngs) for _ in range(config.layers))
        self.norm = norm_layer(config, rngs)
        tied = config.tied and outputs is None
        gain = 1.0 if outputs is None else 0.0
        size = outputs or config.vocabulary
        self.head = None if tied else linear_layer(config, config.width, size, rngs, gain)

    def embed(
        self, tokens: Int[Array, "N L"], positions: Int[Array, "N L"]
    ) -> Float[Array, "N L width"]:
        """Returns the tokens' embeddings, of variance 1 at first where these are scaled; with learned positions, the
        sum of the two."""
        x = self.embedding(tokens)
        if self.config.scaled_embedding:
            # Tokens to variance 1, while the same matrix, as the head of a tied model, gives logits of variance 1.
            x = x * self.config.width**0.5
        # What stands at -1 is padding, and nobody looks at it.
        return x if self.places is None else x + self.places(jnp.maximum(positions, 0))

    def hidden(
        self,
        tokens: Int[Array, "N L"],
        positions: Int[Array, "N L"],
        start: int = 0,
        repeats: int = 1,
    ) -> Float[Array, "N S width"]:
        """Returns the last layer's output, normalised, from place `start` on, S = L - start.

        Of what comes before, the last layer computes keys and values alone. Where each `repeats` contiguous sequences
        share their tokens up to `start`, these are read once.
        """
        if repeats > 1:
            return self._after_shared_prompts(tokens, positions, start, repeats)
        x = self.embed(tokens, positions)
        for block, begin in self._blocks_with_start(start):

            def layer(x: Array, block: Block = block, begin: int = begin) -> Array:
                attention = block.attention
                query, *kept = attention.project(block.norm_attention(x), positions, begin)
                seen = attention.attend(query, *as_cached(*kept), positions[:, begin:], positions)
                x = x[:, begin:] + seen
                return x + block.mlp(x)

            x = self._stored_or_not(layer)(x)
        return self.norm(x)

    def extend(
        self,
        cache: Cache,
        tokens: Int[Array, "N L"],
        positions: Int[Array, "N L"],
        at: Any,
        start: int = 0,
    ) -> tuple[Cache, Float[Array, "N S width"]]:
        """Returns cache and hidden states of tokens that follow those in the cache, written from place `at` on.

        `start` as of `hidden`: a place among these tokens.
        """

        def written(whole: Array, new: Array, axis: int) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(whole, new, at, axis)

        key_positions = written(cache.positions, positions, 1)
        x = self.embed(tokens, positions)
        keys, values = list(cache.keys), list(cache.values)
        for i, (block, begin) in enumerate(self._blocks_with_start(start)):

            def layer(
                x: Array, keys: Array, values: Array, block: Block = block, begin: int = begin
            ) -> tuple[Array, Array, Array]:
                attention = block.attention
                query, *new = attention.project(block.norm_attention(x), positions, begin)
                key, value = as_cached(*new)
                keys, values = written(keys, key, 3), written(values, value, 2)
                seen = attention.attend(query, keys, values, positions[:, begin:], key_positions)
                x = x[:, begin:] + seen
                return x + block.mlp(x), keys, values

            x, keys[i], values[i] = self._stored_or_not(layer)(x, keys[i], values[i])
        return Cache(tuple(keys), tuple(values), key_positions), self.norm(x)

    def _after_shared_prompts(self, tokens, positions, start, repeats):
        """Prompts once and all that follows are rows of the same products; attention alone is of sequences."""
        size = start + 1
        first, later = positions[::repeats, :size], positions[:, size:]
        if not later.size:
            hidden = self.hidden(tokens[::repeats], positions[::repeats], start)
            return jnp.repeat(hidden, repeats, axis=0)

        def rows(prompts: Array, rest: Array) -> Array:
            flat = [x.reshape(1, -1, *x.shape[2:]) for x in (prompts, rest)]
            return jnp.concatenate(flat, axis=1)

        def parts(x: Array) -> tuple[Array, Array]:
            prompts, rest = x[0, : first.size], x[0, first.size :]
            return (
                prompts.reshape(*first.shape, *x.shape[2:]),
                rest.reshape(*later.shape, *x.shape[2:]),
            )

        def layer(x: Array, block: Block) -> Array:
            attention = block.attention
            found = attention.project(block.norm_attention(x), places, 0)
            (query, *kept), (asking, *new) = zip(*map(parts, found), strict=True)
            seen = attention.mix(query, *as_cached(*kept), first, first)
            whole = [
                jnp.concatenate([jnp.repeat(k, repeats, axis=0), n], axis=1)
                for k, n in zip(kept, new, strict=True)
            ]
            following = attention.mix(asking, *as_cached(*whole), later, positions)
            x = x + attention.out(rows(seen, following))
            return x + block.mlp(x)

        places = rows(first, later)
        x = self.embed(rows(tokens[::repeats, :size], tokens[:, size:]), places)
        for block in self.blocks:
            x = self._stored_or_not(partial(layer, block=block))(x)
        prompts, rest = parts(self.norm(x))
        return jnp.concatenate([jnp.repeat(prompts[:, -1:], repeats, axis=0), rest], axis=1)

    def _stored_or_not(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """The layer, of which the backward pass keeps the inputs alone where the settings say so."""
        return jax.checkpoint(layer) if self.config.remat else layer

    def _blocks_with_start(self, start: int) -> list[tuple[Block, int]]:
        """The layers, each with the place from which on its output is needed."""
        begins = [0] * (len(self.blocks) - 1) + [start]
        return list(zip(self.blocks, begins, strict=True))

    def logits(self, hidden: Float[Array, "*batch width"]) -> Float[Array, "*batch V"]:
        """Returns logits in float32, even if activations have fewer bits: probabilities need the precision."""
        hidden = hidden.astype(jnp.float32)
        if self.head is None:
            return hidden @ self.embedding.embedding[...].T
        return hidden @ self.head.kernel[...]


class TokenModel(nnx.Module):
    """Parameters of the policy and, with `critic`, of a value function.

    The value function is a separate transformer: in trials, the squared errors of a value head on the policy's layers
    destroyed what these layers had learned within a few steps. Matrices are filled with their standard deviations here;
    `token_model` draws them.
    """

    def __init__(self, config: TransformerConfig, *, critic: bool = False, rngs: nnx.Rngs):
        self.policy = Transformer(config, rngs=rngs)
        self.critic = Transformer(config, outputs=1, rngs=rngs) if critic else None

    def value(
        self, tokens: Int[Array, "N L"], positions: Int[Array, "N L"], start: int = 0
    ) -> Float[Array, "N L"]:
        """Returns V of the state that each token completes from place `start` on; 0 before, and without a critic."""
        if self.critic is None:
            return jnp.zeros(tokens.shape)
        values = self.critic.logits(self.critic.hidden(tokens, positions, start))[..., 0]
        return jnp.pad(values, ((0, 0), (start, 0)))


class DrawnInOneLoop(Functional):
    """A network whose matrices are drawn in one loop.

    XLA compiles each draw of random numbers apart, and thirty of them took longer than the model's gradient. One draw
    for all matrices it would fuse with its uses, and so compute, and compile, for each of them again. It does not fuse
    a loop.
    """

    def init(self, key: PRNGKeyArray) -> Any:
        """Returns the parameters of a new module."""
        spreads, tree = jax.tree.flatten(super().init(key))
        sizes = [
            0 if x.ndim == 1 else x.size for x in spreads
        ]  # scales of the norms stay 1, biases 0
        normal = draw_normal(key, sum(sizes))
        starts = np.cumsum([0, *sizes])
        drawn = [
            x * normal[start : start + size].reshape(x.shape) if size else x
            for x, start, size in zip(spreads, starts, sizes, strict=False)
        ]
        return jax.tree.unflatten(tree, drawn)


def draw_normal(key: PRNGKeyArray, size: int) -> Float[Array, " numbers"]:
    """Returns `size` normal numbers or a few more, drawn in a loop."""
    keys = jax.random.split(key, -(-size // _DRAWN))
    return jax.lax.map(lambda k: jax.random.normal(k, (_DRAWN,)), keys).reshape(-1)


def token_model(config: TransformerConfig, *, critic: bool = False) -> Functional:
    """Returns the model as pure functions of its parameters."""
    return DrawnInOneLoop(lambda rngs: TokenModel(config, critic=critic, rngs=rngs))


def policy_model(config: TransformerConfig) -> Functional:
    """Returns a `Transformer` that predicts the next token, as pure functions of its parameters."""
    return DrawnInOneLoop(lambda rngs: Transformer(config, rngs=rngs))


def scalar_model(config: TransformerConfig) -> Functional:
    """Returns a `Transformer` with one number for each token, 0 at first, as pure functions of its parameters."""
    return DrawnInOneLoop(lambda rngs: Transformer(config, outputs=1, rngs=rngs))


def parameter_paths(params: Any) -> list[str]:
    """Returns the path of each leaf, such as blocks.0.up.kernel."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [".".join(re.findall(r"\w+", path.removesuffix(".value"))) for path in paths]


def num_parameters(params: Any) -> int:
    """Returns the number of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))
