"""Text to tokens and back: what a text task asks of a tokenizer, and bytes, the one that needs nothing."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Sequence

from envs.tokens.task import EOS, FIRST, PAD, SPECIAL


class Tokenizer(abc.ABC):
    """Subclasses write `names`, `encode` and `decode`. They compare and hash as values do: tasks are static under
    `jit`."""

    pad: int = PAD
    """the token that fills prompts on the left and responses on the right; no prompt begins with it"""
    stops: tuple[int, ...] = (EOS,)
    """tokens that end a response; the first one ends solutions"""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of all tokens."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, without the end."""

    @abc.abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens."""

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Returns the texts of several rows of tokens."""
        return [self.decode(row) for row in rows]

    def prompt(self, question: str) -> list[int]:
        """Returns the tokens that ask a question: its own, or more, where a model is used to more."""
        return self.encode(question)


@dataclasses.dataclass(frozen=True)
class ByteTokenizer(Tokenizer):
    """Each byte of the text's UTF-8 form is a token: nothing to learn, nothing unknown, 258 tokens."""

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The bytes' names: the characters of ASCII, other bytes as <0x0A>."""
        return (*SPECIAL, *(chr(i) if 32 < i < 127 else f"<0x{i:02X}>" for i in range(256)))

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, without the end."""
        return [FIRST + byte for byte in text.encode()]

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens; padding, the end and bytes that are no UTF-8 are left out."""
        content = bytes(token - FIRST for token in tokens if FIRST <= token < FIRST + 256)
        return content.decode(errors="ignore")


BYTES = ByteTokenizer()
