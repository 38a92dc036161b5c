"""Rotary positions: each pair of coordinates of queries and keys turns by an angle that grows with the position.

Su et al. 2021, https://arxiv.org/abs/2104.09864
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from agents.tokens.transformer_config import RopeScaling, TransformerConfig


def rotation(
    positions: Int[Array, "N L"], config: TransformerConfig
) -> tuple[Float[Array, "N L 1 pairs"], Float[Array, "N L 1 pairs"]]:
    """Returns cos and sin of the angle by which each pair of coordinates turns."""
    pairs = config.head_width // 2
    frequency = config.rope_base ** (-jnp.arange(pairs) / pairs)
    if config.rope_scaling is not None:
        frequency = slower_frequencies(frequency, config.rope_scaling)
    angle = positions[..., None, None] * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotated(
    x: Float[Array, "N L heads width"], angles: Sequence[Float[Array, "N L 1 pairs"]]
) -> Float[Array, "N L heads width"]:
    """Returns `x`, its first half paired with its second, turned by the angles of `rotation`."""
    cos, sin = angles
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


def slower_frequencies(
    frequency: Float[Array, " pairs"], scaling: RopeScaling
) -> Float[Array, " pairs"]:
    """Returns the angles per token of pairs of coordinates in a longer context; see `RopeScaling`."""
    turns = scaling.original_context * frequency / (2 * jnp.pi)
    kept = (turns - scaling.low_turns) / (scaling.high_turns - scaling.low_turns)
    kept = jnp.clip(kept, 0.0, 1.0)
    return frequency * (kept + (1 - kept) / scaling.factor)
