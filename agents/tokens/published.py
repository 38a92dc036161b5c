"""The names and the shapes of published weights: Llama, Qwen2, Qwen3 and GPT-2 to and from this package's parameters.

    given = read_config(...)
    require_tensors(given, shapes)              # one line where a tensor is missing, unexpected or misshapen
    params = to_parameters(given, tensor)       # tensor(name) reads one

A matrix of theirs maps x to W x and is transposed; GPT-2's are as ours, with queries, keys and values side by side.
Rotations are ours: the first half of a head's coordinates turns with the second. Functions of names and arrays;
`experiments.weights` has the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from agents.settings import require
from agents.tokens.published_config import Published, family_of
from agents.tokens.transformer import TransformerConfig, parameter_paths, policy_model

Tensors = Mapping[str, Float[np.ndarray, "..."]]
EMBEDDING, HEAD, HEAD_NAME = "embedding.embedding", "head.kernel", "lm_head.weight"
_BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")  # of old files, no weights


class Tensor(NamedTuple):
    """A published tensor, and the parameters that it holds side by side along its last axis."""

    name: str
    paths: tuple[str, ...]
    transposed: bool = False


def layout(config: TransformerConfig) -> list[Tensor]:
    """Returns the tensors of a transformer's published form, a tied head left out."""
    gpt2 = family_of(config) == "gpt2"
    return list(_gpt2_tensors(config) if gpt2 else _llama_tensors(config))


def require_tensors(given: Published, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError, in one line, where tensors are missing, unexpected or of another shape.

    Args:
      shapes: of the tensors that are there, by their names.
    """
    wanted = tensor_shapes(given.transformer)
    there = {plain_name(given, name): shape for name, shape in shapes.items()}
    tied_head = {HEAD_NAME} if given.transformer.tied else set()
    missing = [name for name in wanted if name not in there]
    unexpected = [
        name
        for name in there
        if name not in wanted and name not in tied_head and not name.endswith(_BUFFERS)
    ]
    for what, names in (("missing", missing), ("unexpected", unexpected)):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        require(not names, f"tensors are {what}: {', '.join(names[:1])}{more}")
    for name, shape in wanted.items():
        require(
            tuple(there[name]) == shape,
            f"{name} has the shape {[*there[name]]}, and the configuration asks for {[*shape]}",
        )


def to_parameters(given: Published, tensor: Callable[[str], np.ndarray]) -> Any:
    """Returns the parameters of a `Transformer`, float32 numpy arrays.

    Args:
      tensor: returns the tensor of a name; each is read once.
    """
    found: dict[str, np.ndarray] = {}
    for name, paths, transposed in layout(given.transformer):
        whole = np.asarray(tensor(name), np.float32)
        for path, part in zip(paths, np.split(whole, len(paths), axis=-1), strict=True):
            found[path] = np.ascontiguousarray(part.T if transposed else part)
    own, tree = _parameter_paths(given.transformer)
    return jax.tree.unflatten(tree, [found[path] for path in own])


def to_tensors(config: TransformerConfig, params: Any) -> dict[str, np.ndarray]:
    """Returns a transformer's parameters as published tensors, float32.

    Where embeddings are scaled by sqrt(width), the table takes the factor in; a tied head would have it too, and the
    norm before it takes it out again.

    Raises ValueError, in one line, where no published architecture is of this form.
    """
    paths, _ = _parameter_paths(config)
    found = dict(zip(paths, map(_as_float32, jax.tree.leaves(params)), strict=True))
    if config.scaled_embedding:
        root = np.float32(config.width**0.5)
        found[EMBEDDING] = found[EMBEDDING] * root
        if config.tied:
            found["norm.scale"] = found["norm.scale"] / root
    tensors = {}
    for name, parts, transposed in layout(config):
        arrays = [found[path].T if transposed else found[path] for path in parts]
        tensors[name] = np.ascontiguousarray(np.concatenate(arrays, axis=-1))
    return tensors


def tensor_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a transformer's published tensors, by their names."""
    leaves = jax.tree.leaves(_parameter_tree(config))
    own = dict(zip(_parameter_paths(config)[0], leaves, strict=True))
    shapes = {}
    for name, parts, transposed in layout(config):
        one = own[parts[0]].shape
        one = one[::-1] if transposed else one
        shapes[name] = (*one[:-1], one[-1] * len(parts))
    return shapes


def plain_name(given: Published, name: str) -> str:
    """Returns a tensor's name as `layout` has it: GPT-2's first files lack the prefix "transformer."."""
    if given.family != "gpt2" or name == HEAD_NAME or name.startswith("transformer."):
        return name
    return f"transformer.{name}"


def _llama_tensors(config: TransformerConfig) -> Iterator[Tensor]:
    yield Tensor("model.embed_tokens.weight", (EMBEDDING,))
    for i in range(config.layers):
        theirs, ours = f"model.layers.{i}", f"blocks.{i}"
        yield Tensor(f"{theirs}.input_layernorm.weight", (f"{ours}.norm_attention.scale",))
        yield Tensor(f"{theirs}.post_attention_layernorm.weight", (f"{ours}.norm_mlp.scale",))
        if config.qk_norm:
            for short, long in (("q", "query"), ("k", "key")):
                name = f"{theirs}.self_attn.{short}_norm.weight"
                yield Tensor(name, (f"{ours}.attention.norm_{long}.scale",))
        for short, long, bias in (
            ("q", "query", config.bias_qkv),
            ("k", "key", config.bias_qkv),
            ("v", "value", config.bias_qkv),
            ("o", "out", config.bias_out),
        ):
            name = f"{theirs}.self_attn.{short}_proj"
            yield from _affine(name, f"{ours}.attention.{long}", bias, transposed=True)
        for name in ("gate", "up", "down"):
            their_name = f"{theirs}.mlp.{name}_proj"
            yield from _affine(their_name, f"{ours}.{name}", config.bias_mlp, transposed=True)
    yield Tensor("model.norm.weight", ("norm.scale",))
    yield from _head(config)


def _gpt2_tensors(config: TransformerConfig) -> Iterator[Tensor]:
    yield Tensor("transformer.wte.weight", (EMBEDDING,))
    yield Tensor("transformer.wpe.weight", ("places.embedding",))
    for i in range(config.layers):
        theirs, ours = f"transformer.h.{i}", f"blocks.{i}"
        yield from _layer_norm(f"{theirs}.ln_1", f"{ours}.norm_attention")
        yield from _layer_norm(f"{theirs}.ln_2", f"{ours}.norm_mlp")
        three = [f"{ours}.attention.{name}" for name in ("query", "key", "value")]
        yield Tensor(f"{theirs}.attn.c_attn.weight", tuple(f"{path}.kernel" for path in three))
        yield Tensor(f"{theirs}.attn.c_attn.bias", tuple(f"{path}.bias" for path in three))
        yield from _affine(f"{theirs}.attn.c_proj", f"{ours}.attention.out")
        yield from _affine(f"{theirs}.mlp.c_fc", f"{ours}.up")
        yield from _affine(f"{theirs}.mlp.c_proj", f"{ours}.down")
    yield from _layer_norm("transformer.ln_f", "norm")
    yield from _head(config)


def _affine(name: str, path: str, bias: bool = True, transposed: bool = False) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (f"{path}.kernel",), transposed)
    if bias:
        yield Tensor(f"{name}.bias", (f"{path}.bias",))


def _layer_norm(name: str, path: str) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (f"{path}.scale",))
    yield Tensor(f"{name}.bias", (f"{path}.bias",))


def _head(config: TransformerConfig) -> Iterator[Tensor]:
    if not config.tied:
        yield Tensor(HEAD_NAME, (HEAD,), transposed=True)


def _parameter_tree(config: TransformerConfig) -> Any:
    return jax.eval_shape(policy_model(config).init, jax.random.key(0))


def _parameter_paths(config: TransformerConfig) -> tuple[list[str], Any]:
    """The paths of a transformer's parameters, such as blocks.0.up.kernel, and the tree's structure."""
    params = _parameter_tree(config)
    return parameter_paths(params), jax.tree.structure(params)


def _as_float32(x: Any) -> np.ndarray:
    return np.asarray(x, np.float32)
