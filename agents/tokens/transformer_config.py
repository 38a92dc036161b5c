"""The sizes and the variants of a transformer: ours by default, and those of Llama, Qwen2, Qwen3 and GPT-2."""

from __future__ import annotations

import dataclasses
from typing import Literal

from agents.settings import MOST_LAYERS, Settings, require
from agents.tokens.lora_config import Lora


@dataclasses.dataclass(frozen=True)
class RopeScaling(Settings):
    """Slower rotations for a longer context, as Llama 3.1 has them: pairs of coordinates that turn less than
    `low_turns` times within the `original_context` turn `factor` times slower, those that turn more than `high_turns`
    times as before, and those between are interpolated.

    Grattafiori et al. 2024, https://arxiv.org/abs/2407.21783; the rule is that of the model's published code.
    Raises ValueError, in one line, for impossible values.
    """

    factor: float
    low_turns: float
    high_turns: float
    original_context: int  # tokens

    def __post_init__(self):
        super().__post_init__()
        self.require_positive("factor", "low_turns", "high_turns", "original_context")
        require(
            self.high_turns > self.low_turns,
            f"high_turns must be more than low_turns = {self.low_turns:g}, got {self.high_turns:g}",
        )


@dataclasses.dataclass(frozen=True)
class TransformerConfig(Settings):
    """Sizes of a transformer. Raises ValueError, in one line, for impossible values.

    The defaults are this package's own model. What follows `rope_base` is there for published weights, which differ in
    it: see `agents.tokens.published`.
    """

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
    head_size: int | None = None  # coordinates of each attention head; None: width / heads
    scaled_embedding: bool = True  # embeddings are multiplied by sqrt(width)
    bias_qkv: bool = False  # of queries, keys and values
    bias_out: bool = False  # of the attention's output
    bias_mlp: bool = False
    qk_norm: bool = False  # RMSNorm of each head's queries and keys, before they are rotated
    norm: Literal["rms", "layer"] = "rms"
    norm_epsilon: float = 1e-6
    mlp: Literal["swiglu", "gelu"] = "swiglu"  # gelu: one matrix up, tanh approximation
    positions: Literal["rotary", "learned"] = "rotary"
    context: int | None = None  # most tokens of a sequence; None: no limit
    rope_scaling: RopeScaling | None = None
    lora: Lora | None = None  # low-rank adapters
    remat: bool = (
        False  # the backward pass computes each layer again, in place of keeping what is inside it
    )

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("vocabulary", "layers", "width", "heads", "kv_heads", "mlp_width")
        self.require_positive("rope_base", "norm_epsilon", "head_size", "context")
        require(
            self.layers <= MOST_LAYERS, f"layers must be at most {MOST_LAYERS}, got {self.layers}"
        )
        rotary = self.positions == "rotary"
        parts = self.heads * (2 if rotary else 1)
        if self.head_size is None and self.width % parts:
            times = "twice the heads" if rotary else "the heads"
            raise ValueError(f"width {self.width} must be a multiple of {times} ({self.heads})")
        require(
            not rotary or self.head_width % 2 == 0,
            f"head_size must be even, for rotations turn pairs of coordinates; got {self.head_width}",
        )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        require(rotary or self.context is not None, "learned positions need a context")

    @property
    def head_width(self) -> int:
        """Returns the coordinates of each attention head."""
        return self.head_size or self.width // self.heads

    @property
    def parameters(self) -> int:
        """Returns the number of parameters of a `Transformer` without further outputs and adapters, which need not be
        built."""
        width, units = self.width, self.mlp_width
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        norm = width * (2 if self.norm == "layer" else 1)
        block = 2 * width * queries + 2 * width * keys + 2 * norm
        block += width * units * (3 if self.mlp == "swiglu" else 2)
        block += self.bias_qkv * (queries + 2 * keys) + self.bias_out * width
        block += self.bias_mlp * (width + units * (2 if self.mlp == "swiglu" else 1))
        block += self.qk_norm * 2 * self.head_width
        ends = self.vocabulary * width * (1 if self.tied else 2) + norm
        table = (self.context or 0) * width if self.positions == "learned" else 0
        return self.layers * block + ends + table

    def require_context(self, prompt_length: int, response_length: int) -> None:
        """Raises ValueError, in one line, for sequences longer than the context."""
        total = prompt_length + response_length
        require(
            self.context is None or total <= self.context,
            f"a prompt of {prompt_length} tokens with a response of {response_length} is longer than the model's "
            f"context of {self.context}",
        )
