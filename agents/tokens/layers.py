"""Layers of transformers: linear ones, also with low-rank adapters, and normalisations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from agents.tokens.lora_config import Lora
from agents.tokens.transformer_config import TransformerConfig

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class _Linear(nnx.Linear):
    """Rows [..., inputs] to [..., outputs], in two dimensions.

    The barriers keep XLA's CPU compiler from writing a transposed copy of the activations, element by element, for
    each gradient of a kernel: with them an iteration of PPO or GRPO takes a fifth less time.
    """

    def __call__(self, x):
        rows = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]))
        return jax.lax.optimization_barrier(super().__call__(rows)).reshape(*x.shape[:-1], -1)


class _AdaptedLinear(_Linear):
    """A linear layer with a low-rank adapter, see `Lora`; A is filled with its standard deviation."""

    def __init__(self, inputs: int, outputs: int, lora: Lora, **options: Any):
        super().__init__(inputs, outputs, **options)
        self.lora_scale = lora.scale
        self.lora_a = nnx.Param(jnp.full((inputs, lora.rank), (3 * inputs) ** -0.5))
        self.lora_b = nnx.Param(jnp.zeros((lora.rank, outputs)))

    def __call__(self, x):
        rows = x.reshape(-1, x.shape[-1])
        a, b = (w[...].astype(self.dtype) for w in (self.lora_a, self.lora_b))
        change = self.lora_scale * ((rows.astype(self.dtype) @ a) @ b)
        return super().__call__(x) + change.reshape(*x.shape[:-1], -1)


def linear_layer(
    config: TransformerConfig,
    inputs: int,
    outputs: int,
    rngs: nnx.Rngs,
    gain: float = 1.0,
    bias: bool = False,
    name: str | None = None,
) -> _Linear:
    """Returns a layer whose matrix is filled with its standard deviation; `name` is the adapters'."""
    spread = nnx.initializers.constant(gain * inputs**-0.5)
    dtype = DTYPES[config.dtype]
    options: dict[str, Any] = {
        "use_bias": bias,
        "dtype": dtype,
        "kernel_init": spread,
        "rngs": rngs,
    }
    if config.lora is not None and name in config.lora.targets:
        return _AdaptedLinear(inputs, outputs, config.lora, **options)
    return _Linear(inputs, outputs, **options)


def rms_norm(config: TransformerConfig, size: int, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """Returns a root-mean-square normalisation of `size` numbers."""
    return nnx.RMSNorm(size, epsilon=config.norm_epsilon, dtype=DTYPES[config.dtype], rngs=rngs)


def norm_layer(config: TransformerConfig, rngs: nnx.Rngs) -> nnx.RMSNorm | nnx.LayerNorm:
    """Returns the normalisation of the settings."""
    if config.norm == "rms":
        return rms_norm(config, config.width, rngs)
    # E[x^2] - E[x]^2, the fast variance, loses digits where the mean is large, as in GPT-2.
    return nnx.LayerNorm(
        config.width,
        epsilon=config.norm_epsilon,
        dtype=DTYPES[config.dtype],
        use_fast_variance=False,
        rngs=rngs,
    )
