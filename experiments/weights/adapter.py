"""Low-rank adapters on disk, in PEFT's format: adapter_config.json and adapter_model.safetensors.

PEFT multiplies x by A [r, inputs] and B [outputs, r], here they are transposed. GPT-2's queries, keys and values are
one matrix there, with one A, and three here: its adapters are merged, not written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.tokens.lora import ADAPTERS, by_path
from agents.tokens.lora_config import TARGETS, Lora
from agents.tokens.published import layout
from agents.tokens.published_config import Storage, family_of
from agents.tokens.transformer_config import TransformerConfig
from experiments.weights.tensors import Stored, read_json, read_tensor, tensors_in, write_file

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PARTS = dict(zip(ADAPTERS, ("lora_A", "lora_B"), strict=True))
# What changes the formula, and must be off or absent.
_REFUSED = (
    *("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform"),
    *(
        "layer_replication",
        "lora_bias",
        "target_parameters",
        "exclude_modules",
        "trainable_token_indices",
    ),
)


class Adapter(NamedTuple):
    """Adapters that were read."""

    lora: Lora
    leaves: dict[str, np.ndarray]  # float32, by their paths, such as blocks.0.up.lora_a


def read_settings(folder: Path) -> Lora:
    """Returns the settings of a folder's adapters. Raises ValueError, in one line, where it holds none, or of another
    kind than these."""
    file = folder / CONFIG
    if not file.is_file():
        raise ValueError(f"{folder} holds no adapter: it has no {CONFIG}")
    fields = read_json(file)
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{file}: adapters of type {kind!r} are unknown: only LORA is known")
    for name in _REFUSED:
        if fields.get(name):
            raise ValueError(f"{file}: {name} is set, and these adapters have no such thing")
    if fields.get("bias", "none") != "none":
        raise ValueError(
            f"{file}: bias {fields['bias']!r} trains biases, and these adapters have none"
        )
    rank, alpha, targets = (fields.get(x) for x in ("r", "lora_alpha", "target_modules"))
    if type(rank) is not int or not isinstance(alpha, int | float):
        raise ValueError(f"{file}: r and lora_alpha must be numbers, got {rank!r} and {alpha!r}")
    if targets == "all-linear":
        targets = TARGETS
    if not isinstance(targets, list | tuple):
        raise ValueError(f"{file}: target_modules must be a list of names, got {targets!r}")
    if fields.get("use_rslora"):
        alpha *= rank**0.5  # alpha / sqrt(r)
    names = {str(x).rpartition(".")[2] for x in targets}
    if unknown := sorted(names - {*TARGETS}):
        known = ", ".join(TARGETS)
        raise ValueError(f"{file}: the matrix {unknown[0]} can have no adapter: known are {known}")
    try:
        return Lora(rank, float(alpha), tuple(x for x in TARGETS if x in names))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def files(folder: Path) -> list[Path]:
    """Returns the files of a folder's adapters."""
    return [folder / CONFIG, folder / TENSORS]


def read(folder: Path, config: TransformerConfig) -> Adapter:
    """Returns a folder's adapters for a transformer.

    Raises ValueError, in one line, as `read_settings` does, and where tensors are missing, unexpected or of another
    shape.
    """
    lora = read_settings(folder)
    file = folder / TENSORS
    if not file.is_file():
        raise ValueError(f"{folder} lacks {TENSORS}")
    stored = tensors_in(file)
    names = _names(config, lora)
    for what, wrong in (
        ("lacks", [x for x in names.values() if x not in stored]),
        ("has, unexpectedly,", [x for x in stored if x not in names.values()]),
    ):
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise ValueError(f"{file} {what} {wrong[0]}{more}")
    shapes = {name: stored[name].shape for name in names.values()}
    for path, name in names.items():
        rank = shapes[name][0 if path.endswith(ADAPTERS[0]) else -1]
        if len(shapes[name]) != 2 or rank != lora.rank:
            raise ValueError(
                f"{file}: {name} has the shape {[*shapes[name]]}, and r is {lora.rank}"
            )
    return Adapter(lora, {path: _read(stored[name], name) for path, name in names.items()})


def write(
    folder: Path, config: TransformerConfig, params: Any, base: str | None, storage: Storage
) -> None:
    """Writes the adapters of a transformer into a new folder.

    Args:
      params: of a `Transformer`.
      base: the folder or the name of the model whose matrices they change.

    Raises OSError where that fails, and ValueError, in one line, for a model without adapters and for GPT-2.
    """
    lora = config.lora
    if lora is None:
        raise ValueError("the run has no adapters: it trained all parameters")
    found = by_path(params)
    tensors = {name: found[path].T for path, name in _names(config, lora).items()}
    folder.mkdir(parents=True)
    write_file(folder / TENSORS, tensors, storage)
    fields = _fields(lora, base)
    (folder / CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _fields(lora: Lora, base: str | None) -> Mapping[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(lora.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _names(config: TransformerConfig, lora: Lora) -> dict[str, str]:
    """PEFT's name of each leaf of the adapters, by its path. Raises ValueError, in one line, for GPT-2."""
    if family_of(config) == "gpt2":
        raise ValueError("adapters of GPT-2 have no form in PEFT's format: export the merged model")
    found = {}
    for tensor in layout(config):
        module = tensor.name.removesuffix(".weight")
        if module.rpartition(".")[2] not in lora.targets or not tensor.transposed:
            continue
        for leaf, part in _PARTS.items():
            path = tensor.paths[0].replace("kernel", leaf)
            found[path] = f"{_PREFIX}{module}.{part}.weight"
    return found


def _read(stored: Stored, name: str) -> np.ndarray:
    return np.ascontiguousarray(read_tensor(stored, name).T)
