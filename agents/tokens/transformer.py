"""A decoder-only transformer that predicts the next token, with a cache for generation.

Pre-norm blocks of grouped-query attention (Ainslie et al. 2023, https://arxiv.org/abs/2305.13245) with rotary positions
(Su et al. 2021, https://arxiv.org/abs/2104.09864) and SwiGLU (Shazeer 2020, https://arxiv.org/abs/2002.05202); RMSNorm
(Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467); no biases.

Sequences are [N, L]. A token at position -1 is padding: nothing attends to it. Positions, not places in the array, say
where a token is, so padding may stand anywhere and changes nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from agents.networks import Functional
from agents.settings import MOST_LAYERS, Settings, require

_DRAWN = 4096  # random numbers in a round of the loop

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class TransformerConfig(Settings):
    """Sizes of a transformer. Raises ValueError, in one line, for impossible values."""

    vocabulary: int
    layers: int = 2
    width: int = 64
    heads: int = 8
    kv_heads: int = 8  # keys and values are shared by heads / kv_heads queries
    mlp_width: int = 192  # units of each SwiGLU
    tied: bool = False  # the head is the embedding's transpose
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; parameters are float32
    rope_base: float = (
        100.0  # the slowest pair of coordinates rotates by 1 rad in about this number of tokens
    )

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("vocabulary", "layers", "width", "heads", "kv_heads", "mlp_width")
        self.require_positive("rope_base")
        require(
            self.layers <= MOST_LAYERS, f"layers must be at most {MOST_LAYERS}, got {self.layers}"
        )
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of twice the heads ({self.heads})"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")

    @property
    def head_width(self) -> int:
        """Returns the coordinates of each attention head."""
        return self.width // self.heads

    @property
    def parameters(self) -> int:
        """Returns the number of parameters of a `Transformer` without further outputs, which need not be built."""
        width, keys = self.width, self.kv_heads * self.head_width
        block = 2 * width * width + 2 * width * keys + 3 * width * self.mlp_width + 2 * width
        ends = self.vocabulary * width * (1 if self.tied else 2) + width
        return self.layers * block + ends


@flax.struct.dataclass
class Cache:
    """Keys and values of the tokens so far, and where these are."""

    keys: Any  # [layers, N, S, kv_heads, head_width]
    values: Any  # [layers, N, S, kv_heads, head_width]
    positions: Any  # int32 [N, S]; -1: nothing here

    def repeated(self, times: int) -> Cache:
        """Returns the cache of `times` sequences in place of each, contiguous in N."""
        keys, values = (jnp.repeat(x, times, axis=1) for x in (self.keys, self.values))
        return Cache(keys, values, jnp.repeat(self.positions, times, axis=0))


def empty_cache(config: TransformerConfig, num_sequences: int, size: int) -> Cache:
    """Returns a cache with room for `size` tokens of each sequence."""
    shape = (config.layers, num_sequences, size, config.kv_heads, config.head_width)
    zeros = jnp.zeros(shape, DTYPES[config.dtype])
    return Cache(zeros, zeros, jnp.full((num_sequences, size), -1, jnp.int32))


class _Attention(nnx.Module):
    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        self.config = config
        width, head = config.width, config.head_width
        self.query = _linear(config, width, config.heads * head, rngs)
        self.key = _linear(config, width, config.kv_heads * head, rngs)
        self.value = _linear(config, width, config.kv_heads * head, rngs)
        self.out = _linear(config, config.heads * head, width, rngs)

    def project(self, x, positions):
        """Queries [N, L, heads, head], keys and values [N, L, kv_heads, head]."""
        config = self.config
        query = self.query(x).reshape(*x.shape[:2], config.heads, config.head_width)
        key = self.key(x).reshape(*x.shape[:2], config.kv_heads, config.head_width)
        value = self.value(x).reshape(key.shape)
        rotate = _rotation(positions, config)
        return _rotate(query, rotate), _rotate(key, rotate), value

    def attend(self, query, keys, values, positions, key_positions):
        """Computes causal attention: each query attends to keys up to its own position."""
        config = self.config
        n, length = query.shape[:2]
        grouped = query.reshape(n, length, config.kv_heads, -1, config.head_width)
        scores = jnp.einsum("nlkgd,nskd->nkgls", grouped, keys) * config.head_width**-0.5
        visible = (key_positions[:, None] <= positions[..., None]) & (key_positions[:, None] >= 0)
        # Finite, so that a padding token, which sees nothing, gives no NaN.
        scores = jnp.where(visible[:, None, None], scores.astype(jnp.float32), -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        mixed = jnp.einsum("nkgls,nskd->nlkgd", weights, values)
        return self.out(mixed.reshape(n, length, -1))


class _Block(nnx.Module):
    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs):
        dtype = DTYPES[config.dtype]
        self.norm_attention = nnx.RMSNorm(config.width, dtype=dtype, rngs=rngs)
        self.attention = _Attention(config, rngs)
        self.norm_mlp = nnx.RMSNorm(config.width, dtype=dtype, rngs=rngs)
        self.gate = _linear(config, config.width, config.mlp_width, rngs)
        self.up = _linear(config, config.width, config.mlp_width, rngs)
        self.down = _linear(config, config.mlp_width, config.width, rngs)

    def mlp(self, x):
        x = self.norm_mlp(x)
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Transformer(nnx.Module):
    """A decoder that maps tokens to the logits of the next token or, with `outputs`, to that many numbers per token."""

    def __init__(self, config: TransformerConfig, outputs: int | None = None, *, rngs: nnx.Rngs):
        dtype = DTYPES[config.dtype]
        self.config = config
        self.embedding = nnx.Embed(
            config.vocabulary,
            config.width,
            dtype=dtype,
            embedding_init=nnx.initializers.constant(config.width**-0.5),
            rngs=rngs,
        )
        self.blocks = nnx.List(_Block(config, rngs) for _ in range(config.layers))
        self.norm = nnx.RMSNorm(config.width, dtype=dtype, rngs=rngs)
        tied = config.tied and outputs is None
        gain = 1.0 if outputs is None else 0.0
        size = outputs or config.vocabulary
        self.head = None if tied else _linear(config, config.width, size, rngs, gain)

    def embed(self, tokens: Int[Array, "N L"]) -> Float[Array, "N L width"]:
        """Returns the tokens' embeddings, of variance 1."""
        # Tokens to variance 1, while the same matrix, as the head of a tied model, gives logits of variance 1.
        return self.embedding(tokens) * self.config.width**0.5

    def hidden(
        self, tokens: Int[Array, "N L"], positions: Int[Array, "N L"]
    ) -> Float[Array, "N L width"]:
        """Returns the last layer's output, normalised."""
        x = self.embed(tokens)
        for block in self.blocks:
            attention = block.attention
            query, key, value = attention.project(block.norm_attention(x), positions)
            x = x + attention.attend(query, key, value, positions, positions)
            x = x + block.mlp(x)
        return self.norm(x)

    def extend(
        self, cache: Cache, tokens: Int[Array, "N L"], positions: Int[Array, "N L"], at: Any
    ) -> tuple[Cache, Float[Array, "N L width"]]:
        """Returns cache and hidden states of tokens that follow those in the cache, written from place `at` on."""
        key_positions = jax.lax.dynamic_update_slice(cache.positions, positions, (0, at))
        x = self.embed(tokens)
        keys, values = cache.keys, cache.values
        for i, block in enumerate(self.blocks):
            attention = block.attention
            query, key, value = attention.project(block.norm_attention(x), positions)
            keys = jax.lax.dynamic_update_slice(keys, key[None], (i, 0, at, 0, 0))
            values = jax.lax.dynamic_update_slice(values, value[None], (i, 0, at, 0, 0))
            x = x + attention.attend(query, keys[i], values[i], positions, key_positions)
            x = x + block.mlp(x)
        return Cache(keys, values, key_positions), self.norm(x)

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

    def value(self, tokens: Int[Array, "N L"], positions: Int[Array, "N L"]) -> Float[Array, "N L"]:
        """Returns V of the state that each position's token completes; 0 without a critic."""
        if self.critic is None:
            return jnp.zeros(tokens.shape)
        return self.critic.logits(self.critic.hidden(tokens, positions))[..., 0]


class _DrawnInOneLoop(Functional):
    """A network whose matrices are drawn in one loop.

    XLA compiles each draw of random numbers apart, and thirty of them took longer than the model's gradient. One draw
    for all matrices it would fuse with its uses, and so compute, and compile, for each of them again. It does not fuse
    a loop.
    """

    def init(self, key: PRNGKeyArray) -> Any:
        spreads, tree = jax.tree.flatten(super().init(key))
        sizes = [0 if x.ndim == 1 else x.size for x in spreads]  # scales of the norms stay 1
        keys = jax.random.split(key, -(-sum(sizes) // _DRAWN))
        normal = jax.lax.map(lambda k: jax.random.normal(k, (_DRAWN,)), keys).reshape(-1)
        starts = np.cumsum([0, *sizes])
        drawn = [
            x * normal[start : start + size].reshape(x.shape) if size else x
            for x, start, size in zip(spreads, starts, sizes, strict=False)
        ]
        return jax.tree.unflatten(tree, drawn)


def token_model(config: TransformerConfig, *, critic: bool = False) -> Functional:
    """Returns the model as pure functions of its parameters."""
    return _DrawnInOneLoop(lambda rngs: TokenModel(config, critic=critic, rngs=rngs))


def scalar_model(config: TransformerConfig) -> Functional:
    """Returns a `Transformer` with one number for each token, 0 at first, as pure functions of its parameters."""
    return _DrawnInOneLoop(lambda rngs: Transformer(config, outputs=1, rngs=rngs))


def num_parameters(params: Any) -> int:
    """Returns the number of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))


class _Linear(nnx.Linear):
    """Rows [..., inputs] to [..., outputs], without a bias, in two dimensions.

    The barriers keep XLA's CPU compiler from writing a transposed copy of the activations, element by element, for
    each gradient of a kernel: with them an iteration of PPO or GRPO takes a fifth less time.
    """

    def __call__(self, x):
        rows = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]))
        return jax.lax.optimization_barrier(super().__call__(rows)).reshape(*x.shape[:-1], -1)


def _linear(
    config: TransformerConfig, inputs: int, outputs: int, rngs: nnx.Rngs, gain: float = 1.0
) -> _Linear:
    spread = nnx.initializers.constant(gain * inputs**-0.5)
    dtype = DTYPES[config.dtype]
    return _Linear(inputs, outputs, use_bias=False, dtype=dtype, kernel_init=spread, rngs=rngs)


def _rotation(positions, config):
    """cos and sin of the angle by which each pair of coordinates turns, [N, L, 1, head / 2]."""
    pairs = config.head_width // 2
    frequency = config.rope_base ** (-jnp.arange(pairs) / pairs)
    angle = positions[..., None, None] * frequency
    return jnp.cos(angle), jnp.sin(angle)


def _rotate(x, rotation):
    cos, sin = rotation
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)
