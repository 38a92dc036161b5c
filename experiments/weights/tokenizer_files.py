"""The tokenizers of this package as tokenizer.json, which Hugging Face's library reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envs.tokens.task import FIRST, SPECIAL


def of_words(vocabulary: Sequence[str]) -> dict[str, Any]:
    """Returns a tokenizer of words with blanks between."""
    model = {
        "type": "WordLevel",
        "vocab": {name: i for i, name in enumerate(vocabulary)},
        "unk_token": vocabulary[0],
    }
    return _file(model, {"type": "WhitespaceSplit"}, None, [])


def of_bytes() -> dict[str, Any]:
    """Returns `envs.tokens.tokenizer.BYTES`: byte-pair encoding without a pair."""
    vocabulary = {name: i for i, name in enumerate(SPECIAL)}
    vocabulary |= {character: FIRST + i for i, character in enumerate(_characters())}
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": i, "content": x, "special": True, **special} for i, x in enumerate(SPECIAL)]
    return _file(model, level, level, added)


def _file(model: Any, pre_tokenizer: Any, decoder: Any, added: list[Any]) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def _characters() -> list[str]:
    """The characters that stand for bytes in such files: printable ones for themselves, the others from U+0100 on, in
    the order of the bytes (GPT-2, Radford et al. 2019)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(i if i in printable else next(others)) for i in range(256)]
