"""The configurations of published Llama, Qwen2, Qwen3 and GPT-2 models, to and from `TransformerConfig`.

The fields are those of config.json in Hugging Face's format, as versions 4 (`rope_theta`, `rope_scaling`,
`torch_dtype`) and 5 (`rope_parameters`, `dtype`) of its library write them. Both are read; what is written has both.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from agents.settings import require, shortened
from agents.tokens.transformer_config import RopeScaling, TransformerConfig

Family = Literal["llama", "qwen2", "qwen3", "gpt2"]
Storage = Literal["float32", "bfloat16"]

_CLASSES: dict[Family, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
_GELU = ("gelu_new", "gelu_pytorch_tanh")  # two names of the tanh approximation
_CONTEXT = 2048  # written for models that have no limit


class Published(NamedTuple):
    """A published model's configuration."""

    family: Family
    transformer: TransformerConfig
    stops: tuple[int, ...]  # tokens that end a response
    pad: int | None


def read_config(fields: Mapping[str, Any], further: Mapping[str, Any] | None = None) -> Published:
    """Returns the configuration that config.json describes.

    Args:
      fields: the content of config.json.
      further: the content of generation_config.json, whose tokens that end a response come first.

    Raises ValueError, in one line, for an unknown architecture, for what it has and this transformer has not (sliding
    windows, other activations, other rotations, quantised weights), and for missing or impossible sizes.
    """
    family: Any = fields.get("model_type")
    if family not in get_args(Family):
        near = difflib.get_close_matches(str(family), get_args(Family), n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(get_args(Family))}"
        raise ValueError(f"the architecture {shortened(repr(family))} is unknown: {hint}")
    require("quantization_config" not in fields, "the weights are quantised: dequantise them first")
    read = _gpt2 if family == "gpt2" else _llama_like
    stops = _tokens({**fields, **(further or {})}, "eos_token_id")
    pad = _tokens(fields, "pad_token_id")
    return Published(family, read(family, fields), stops, pad[0] if pad else None)


def family_of(config: TransformerConfig) -> Family:
    """Returns the published architecture that a transformer is one of; this package's own model is a Llama, whose
    embeddings are scaled. Raises ValueError, in one line, where it is none of them."""
    even = config.bias_qkv == config.bias_out
    plain = config.head_width * config.heads == config.width
    if config.norm == "layer":
        biased = config.bias_qkv and config.bias_out and config.bias_mlp
        fits = biased and config.kv_heads == config.heads and plain and not config.qk_norm
        if fits and config.positions == "learned" and config.mlp == "gelu":
            return "gpt2"
    elif config.positions == "rotary" and config.mlp == "swiglu":
        if config.qk_norm and even and not config.bias_mlp:
            return "qwen3"
        if not config.qk_norm and even:
            return "llama"
        if not config.qk_norm and config.bias_qkv and plain and not config.bias_mlp:
            return "qwen2"
    raise ValueError("no known architecture has this transformer's norms, biases and positions")


def write_config(
    config: TransformerConfig, stops: tuple[int, ...], pad: int | None, storage: Storage
) -> dict[str, Any]:
    """Returns the content of config.json, for both versions. Raises ValueError as `family_of` does."""
    family = family_of(config)
    shared = {
        "architectures": [_CLASSES[family]],
        "model_type": family,
        "vocab_size": config.vocabulary,
        "tie_word_embeddings": config.tied,
        "eos_token_id": stops[0] if len(stops) == 1 else list(stops) or None,
        "bos_token_id": None,
        "pad_token_id": pad,
        "torch_dtype": storage,
        "dtype": storage,
    }
    if family == "gpt2":
        return shared | {
            "n_embd": config.width,
            "n_layer": config.layers,
            "n_head": config.heads,
            "n_inner": config.mlp_width,
            "n_positions": config.context,
            "layer_norm_epsilon": config.norm_epsilon,
            "activation_function": "gelu_new",
        }
    own: dict[str, Any] = {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.context or _CONTEXT,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": "silu",
    }
    if family != "qwen2":
        own["attention_bias"] = config.bias_qkv
    if family == "llama":
        own["mlp_bias"] = config.bias_mlp
    return shared | own | _write_rotations(config)


def _llama_like(family: Family, fields: Mapping[str, Any]) -> TransformerConfig:
    """Reads the fields of Llama, Qwen2 and Qwen3, whose names are the same."""
    _refuse_windows(fields)
    activation = fields.get("hidden_act", "silu")
    require(activation == "silu", f"hidden_act {activation!r} is unknown: only silu is known")
    width, heads = _whole(fields, "hidden_size"), _whole(fields, "num_attention_heads")
    of_class = {"llama": heads, "qwen2": 32, "qwen3": 32}[family]
    attention = _flag(fields, "attention_bias") and family != "qwen2"
    base, scaling = _read_rotations(fields)
    size = _whole(fields, "head_dim", 128 if family == "qwen3" else width // heads)
    return TransformerConfig(
        vocabulary=_whole(fields, "vocab_size"),
        layers=_whole(fields, "num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=_whole(fields, "num_key_value_heads", of_class),
        mlp_width=_whole(fields, "intermediate_size"),
        tied=_flag(fields, "tie_word_embeddings"),
        rope_base=base,
        head_size=None if size * heads == width else size,
        scaled_embedding=False,
        bias_qkv=attention or family == "qwen2",
        bias_out=attention,
        bias_mlp=family == "llama" and _flag(fields, "mlp_bias"),
        qk_norm=family == "qwen3",
        norm_epsilon=_number(fields, "rms_norm_eps", 1e-6),
        context=_whole(fields, "max_position_embeddings", _CONTEXT),
        rope_scaling=scaling,
    )


def _gpt2(family: Family, fields: Mapping[str, Any]) -> TransformerConfig:
    for name, wanted in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        require(_flag(fields, name, wanted) == wanted, f"{name} {not wanted} is unknown")
    activation = fields.get("activation_function", "gelu_new")
    known = " and ".join(_GELU)
    require(
        activation in _GELU, f"activation_function {activation!r} is unknown: known are {known}"
    )
    width, heads = _whole(fields, "n_embd"), _whole(fields, "n_head")
    return TransformerConfig(
        vocabulary=_whole(fields, "vocab_size"),
        layers=_whole(fields, "n_layer"),
        width=width,
        heads=heads,
        kv_heads=heads,
        mlp_width=_whole(fields, "n_inner", 4 * width),
        tied=_flag(fields, "tie_word_embeddings", True),
        scaled_embedding=False,
        bias_qkv=True,
        bias_out=True,
        bias_mlp=True,
        norm="layer",
        norm_epsilon=_number(fields, "layer_norm_epsilon", 1e-5),
        mlp="gelu",
        positions="learned",
        context=_whole(fields, "n_positions", 1024),
    )


def _refuse_windows(fields: Mapping[str, Any]) -> None:
    kinds = fields.get("layer_types") or ()
    windows = [kind for kind in kinds if kind != "full_attention"]
    # Llama's own configuration knows no windows, those of Qwen have a switch.
    if windows or fields.get("use_sliding_window"):
        raise ValueError("attention in sliding windows is on, and this transformer has none")


def _read_rotations(fields: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    scaling = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise ValueError(f"rope_parameters must be a table, got {shortened(repr(scaling))}")
    base = _number({**fields, **scaling}, "rope_theta", 10_000.0)
    share = _number({**fields, **scaling}, "partial_rotary_factor", 1.0)
    require(share == 1.0, f"partial_rotary_factor {share:g} is unknown: all coordinates rotate")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return base, None
    if kind != "llama3":
        raise ValueError(f"rotations of type {kind!r} are unknown: known are default and llama3")
    return base, RopeScaling(
        _number(scaling, "factor"),
        _number(scaling, "low_freq_factor"),
        _number(scaling, "high_freq_factor"),
        _whole(scaling, "original_max_position_embeddings"),
    )


def _write_rotations(config: TransformerConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        parameters = {"rope_type": "default", "rope_theta": config.rope_base}
        return {
            "rope_theta": config.rope_base,
            "rope_scaling": None,
            "rope_parameters": parameters,
        }
    rule = {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_turns,
        "high_freq_factor": scaling.high_turns,
        "original_max_position_embeddings": scaling.original_context,
    }
    parameters = {**rule, "rope_theta": config.rope_base}
    return {"rope_theta": config.rope_base, "rope_scaling": rule, "rope_parameters": parameters}


def _value(fields: Mapping[str, Any], name: str, default: Any) -> Any:
    """A field's value; null counts as absent. Raises ValueError where it is absent and there is no default."""
    found = fields.get(name)
    if found is not None:
        return found
    require(default is not None, f"{name} is missing")
    return default


def _whole(fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    found = _value(fields, name, default)
    fits = type(found) is int and found >= 1
    require(fits, f"{name} must be a whole number of at least 1, got {shortened(repr(found))}")
    return found


def _number(fields: Mapping[str, Any], name: str, default: float | None = None) -> float:
    found = _value(fields, name, default)
    fits = type(found) in (int, float) and found > 0
    require(fits, f"{name} must be a number above 0, got {shortened(repr(found))}")
    return float(found)


def _flag(fields: Mapping[str, Any], name: str, default: bool = False) -> bool:
    found = _value(fields, name, default)
    require(type(found) is bool, f"{name} must be true or false, got {shortened(repr(found))}")
    return found


def _tokens(fields: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """A token or a list of them, none for null."""
    found = fields.get(name)
    listed = [] if found is None else found if isinstance(found, list | tuple) else [found]
    fits = all(type(token) is int for token in listed)
    require(fits, f"{name} must be a token or a list of them, got {shortened(repr(found))}")
    return tuple(token for token in listed if token >= 0)
