"""The tokenizer of a published model: tokenizer.json of its folder, by the package tokenizers.

    tokenizer = load(Path("SmolLM2-135M-Instruct"))
    ids = tokenizer.prompt("2 + 2 =")           # by the chat template, where there is one
    tokenizer.decode_batch([ids])

A special token's name inside a text is text: it becomes a control token only where the chat template writes it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envs.tokens import chat
from envs.tokens.tokenizer import Tokenizer

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
CONFIG, GENERATION = "config.json", "generation_config.json"
# Names that stand in for texts while a template is rendered; no tokenizer has them as tokens.
_QUESTION, _SYSTEM = "STRIDEQUESTIONTEXT", "STRIDESYSTEMTEXT"


@dataclasses.dataclass(frozen=True)
class PublishedTokenizer(Tokenizer):
    """A tokenizer and what a text task needs of it."""

    folder: Path
    vocabulary: tuple[str, ...]
    """the name of each token; those that the model has and the tokenizer has not are called <unused N>"""
    stops: tuple[int, ...] = ()
    pad: int = 0
    system: str = ""
    """the system's text in the chat template; empty: the template's own"""
    render: chat.Render | None = dataclasses.field(default=None, compare=False)
    """the chat template; None: prompts are the questions alone"""
    # Of the package tokenizers: one that reads names of special tokens as text, and one that reads them as tokens.
    plain: Any = dataclasses.field(default=None, compare=False, repr=False)
    control: Any = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tokens."""
        return self.vocabulary

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, without beginning and end."""
        return self.plain.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens; special ones are shown by their names."""
        return self.decode_batch([tokens])[0]

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Returns the texts of several rows of tokens, computed in parallel."""
        return self.plain.decode_batch([list(row) for row in rows], skip_special_tokens=False)

    def prompt(self, question: str) -> list[int]:
        """Returns the tokens of a prompt. Raises ValueError, in one line, where the chat template raises."""
        if self.render is None:
            return self.plain.encode(question, add_special_tokens=True).ids
        given = (question, self.system)
        if not any(name in text for name in self._special for text in given):
            # Encoded in one piece, as the model was trained.
            text = self.render(*given)
            return self.control.encode(text, add_special_tokens=False).ids
        text = self.render(_QUESTION, _SYSTEM if self.system else "")
        ids = list[int]()
        for part, kind in _parts(text):
            if kind is None:
                ids += self.control.encode(part, add_special_tokens=False).ids
            else:
                ids += self.encode(question if kind == _QUESTION else self.system)
        return ids

    @functools.cached_property
    def _special(self) -> tuple[str, ...]:
        added = self.control.get_added_tokens_decoder().values()
        return tuple(token.content for token in added if token.special)


def load(folder: Path, use_chat: bool = True, system: str = "") -> PublishedTokenizer:
    """Returns the tokenizer of a model's folder.

    Tokens that end a response are those of tokenizer_config.json, generation_config.json and config.json together, in
    this order. Without a padding token, the first of them pads.

    Args:
      use_chat: prompts are written by the folder's chat template, where it has one.
      system: the system's text in the template.

    Raises ValueError, in one line, where the package tokenizers is missing, where files are missing or damaged, where
    no token ends a response, where the model has fewer tokens than the tokenizer, and for `system` without a template.
    """
    plain, control = _read(folder), _read(folder)
    plain.encode_special_tokens = True
    settings, config, generation = (_json(folder / x) for x in (SETTINGS, CONFIG, GENERATION))
    known = control.get_vocab(with_added_tokens=True)
    size = max(known.values(), default=-1) + 1
    total = config.get("vocab_size", size)
    if type(total) is not int or total < size:
        raise ValueError(
            f"{folder}: {TOKENIZER} is another model's: it has {size} tokens, and the model {total}"
        )
    names = [unused_name(i) for i in range(total)]
    for name, i in known.items():
        names[i] = name
    listed = [known.get(chat.token_text(settings.get("eos_token")) or "")]
    listed += [*_ids(generation, "eos_token_id"), *_ids(config, "eos_token_id")]
    stops = tuple(dict.fromkeys(i for i in listed if i is not None and 0 <= i < total))
    if not stops:
        raise ValueError(
            f"{folder} names no token that ends a response: {CONFIG} lacks eos_token_id"
        )
    padding = [
        *_ids(config, "pad_token_id"),
        known.get(chat.token_text(settings.get("pad_token")) or ""),
    ]
    pad = next((i for i in padding if i is not None and 0 <= i < total), stops[0])
    template = chat.read_template(folder, settings) if use_chat else None
    if system and template is None:
        why = f"{folder} has none" if use_chat else "--no-chat leaves it out"
        raise ValueError(f"--system is part of a chat template, and {why}")
    render = None if template is None else chat.renderer(folder, template, settings)
    return PublishedTokenizer(folder, tuple(names), stops, pad, system, render, plain, control)


def unused_name(token: int) -> str:
    """Returns the name of a token that a model has and its tokenizer has not."""
    return f"<unused {token}>"


def files(folder: Path) -> list[Path]:
    """Returns the files of a folder that a tokenizer and its chat template are read from."""
    names = (TOKENIZER, SETTINGS, chat.TEMPLATE)
    return [folder / name for name in names if (folder / name).is_file()]


def _read(folder: Path) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ValueError(
            f"the tokenizer of {folder} needs the package tokenizers: pip install 'stride-rl[text]'"
        ) from None
    file = folder / TOKENIZER
    if not file.is_file():
        raise ValueError(f"{folder} has no {TOKENIZER}")
    try:
        found = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing narrower
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    found.no_truncation()
    found.no_padding()
    return found


def _json(file: Path) -> dict[str, Any]:
    """The table in a JSON file, {} where there is no file. Raises ValueError, in one line, where it is damaged."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no table")
    return found


def _ids(fields: dict[str, Any], name: str) -> list[int]:
    found = fields.get(name)
    listed = found if isinstance(found, list) else [found]
    return [i for i in listed if type(i) is int]


def _parts(text: str) -> list[tuple[str, str | None]]:
    """A rendered template cut at the names that stand in for texts: (part, None) or ("", name)."""
    found: list[tuple[str, str | None]] = [(text, None)]
    for name in (_QUESTION, _SYSTEM):
        cut: list[tuple[str, str | None]] = []
        for part, kind in found:
            pieces = part.split(name) if kind is None else [part]
            for i, piece in enumerate(pieces):
                if i:
                    cut.append(("", name))
                cut.append((piece, kind))
        found = cut
    return [(part, kind) for part, kind in found if part or kind]
