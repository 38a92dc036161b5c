"""A published model's folder: config.json, model.safetensors, and a tokenizer's vocabulary.

weights = load(Path("SmolLM2-135M"))
export(Path("mine"), weights.published.transformer, weights.params)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agents.tokens.published import (
    HEAD_NAME,
    plain_name,
    require_tensors,
    to_parameters,
    to_tensors,
)
from agents.tokens.published_config import Published, Storage, read_config, write_config
from agents.tokens.transformer_config import TransformerConfig
from experiments.weights.tensors import (
    SHARD_BYTES,
    Stored,
    read_json,
    read_tensor,
    stored_tensors,
    tensor_files,
    write_tensors,
)

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"


class Weights(NamedTuple):
    """A model that was loaded."""

    published: Published
    params: Any  # of a `Transformer`: float32 numpy arrays


def load(folder: Path) -> Weights:
    """Returns the model of a folder.

    Raises ValueError, in one line, where the folder holds no model, for architectures that this package has not, and
    where tensors are missing, unexpected, misshapen or not finite.
    """
    published = load_config(folder)
    stored = stored_tensors(folder)
    try:
        require_tensors(published, {name: x.shape for name, x in stored.items()})
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    names = {plain_name(published, name): name for name in stored}
    _require_tied(published, stored, names)
    params = to_parameters(published, lambda name: read_tensor(stored[names[name]], names[name]))
    return Weights(published, params)


def digest(folder: Path) -> str:
    """Returns the SHA-256 of a model: configuration and tensors. Raises OSError and ValueError where it is none."""
    found = hashlib.sha256((folder / CONFIG).read_bytes())
    for file in tensor_files(folder):
        with file.open("rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()


def load_config(folder: Path) -> Published:
    """Returns the configuration of a folder's model. Raises ValueError, in one line, as `load` does, and where the
    tokenizer has more tokens than the model."""
    file = folder / CONFIG
    if not file.is_file():
        raise ValueError(f"{folder} is not a published model: it has no {CONFIG}")
    fields = read_json(file)
    if "algo" in fields or "reward_model" in fields:
        what = "a run" if "algo" in fields else "a reward model"
        raise ValueError(f"{folder} is {what}, not a published model")
    further = folder / GENERATION
    try:
        published = read_config(fields, read_json(further) if further.is_file() else None)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    tokens = tokenizer_size(folder)
    size = published.transformer.vocabulary
    if tokens is not None and tokens > size:
        raise ValueError(
            f"{folder}: {TOKENIZER} is another model's: it has {tokens} tokens, and the model {size}"
        )
    return published


def tokenizer_size(folder: Path) -> int | None:
    """Returns the number of tokens that tokenizer.json knows; None where there is none."""
    names = tokenizer_names(folder)
    return None if names is None else max(names, default=-1) + 1


def tokenizer_names(folder: Path) -> dict[int, str] | None:
    """Returns the names of a folder's tokens, by number; None where there is no tokenizer.json. Raises ValueError, in
    one line, where it is damaged."""
    file = folder / TOKENIZER
    if not file.is_file():
        return None
    fields = read_json(file)
    try:
        words = fields["model"]["vocab"]
        listed = (
            words.items() if isinstance(words, dict) else ((x[0], i) for i, x in enumerate(words))
        )
        names = {int(i): str(name) for name, i in listed}
        names |= {int(x["id"]): str(x["content"]) for x in fields.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise ValueError(f"{file} holds no vocabulary") from None
    return names


def export(
    folder: Path,
    config: TransformerConfig,
    params: Any,
    *,
    stops: Sequence[int] = (),
    pad: int | None = None,
    storage: Storage = "float32",
    tokenizer: Sequence[Path] | Mapping[str, Any] = (),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a transformer into a new folder that `load` reads, and Hugging Face's library, too.

    Args:
      params: of a `Transformer`.
      stops: tokens that end a response.
      pad: the padding token.
      tokenizer: files to be copied, or the content of tokenizer.json; see `experiments.weights.tokenizer_files`.
      shard_bytes: most bytes of a file of tensors.

    Raises OSError where the folder is there already or cannot be written, and ValueError, in one line, where no
    published architecture has this form.
    """
    fields = write_config(config, tuple(stops), pad, storage)
    tensors = to_tensors(config, params)
    folder.mkdir(parents=True)
    write_tensors(folder, tensors, storage, shard_bytes)
    if isinstance(tokenizer, Mapping):
        _write(folder / TOKENIZER, tokenizer)
    else:
        for file in tokenizer:
            shutil.copyfile(file, folder / file.name)
    _write(folder / CONFIG, fields)


def _require_tied(published: Published, stored: dict[str, Stored], names: dict[str, str]) -> None:
    """Raises ValueError where a file has a head of its own, and the configuration says that it is the embedding."""
    if not published.transformer.tied or HEAD_NAME not in stored:
        return
    table = "transformer.wte.weight" if published.family == "gpt2" else "model.embed_tokens.weight"
    head, own = stored[HEAD_NAME], stored[names[table]]
    same = head.shape == own.shape
    if not same or (read_tensor(head, HEAD_NAME) != read_tensor(own, names[table])).any():
        raise ValueError(
            f"{head.file}: {HEAD_NAME} is not the embedding, and {CONFIG} says that the two are tied"
        )


def _write(file: Path, fields: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
