"""A tokenizer of bytes and whole phrases: what every question of a task says in the same words is one token."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Sequence

from envs.tokens.tokenizer import BYTES, Tokenizer

_LEAST = 4  # bytes that a phrase replaces, or it is not worth a token


@dataclasses.dataclass(frozen=True)
class PhraseTokenizer(Tokenizer):
    """Bytes as `BYTES` has them, and a token for each phrase after these. Text is read from left to right, by the
    longest phrase that fits."""

    phrases: tuple[str, ...] = ()

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the bytes, then the phrases."""
        return (*BYTES.names, *self.phrases)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {phrase: len(BYTES.names) + i for i, phrase in enumerate(self.phrases)}

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        longest_first = sorted(self.phrases, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if self.phrases else None

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, without the end."""
        parts = [text] if self._pattern is None else self._pattern.split(text)
        ids: list[int] = []
        for part in parts:
            ids += [self._numbers[part]] if part in self._numbers else BYTES.encode(part)
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens; padding, the end and bytes that are no UTF-8 are left out."""
        text, run = "", list[int]()
        for token in tokens:
            if token < len(BYTES.names):
                run.append(token)
            else:
                text += BYTES.decode(run) + self.names[token]
                run = []
        return text + BYTES.decode(run)


def template(questions: Sequence[str]) -> list[str]:
    """Returns the words that all questions begin with, and those that all end with, where these are worth a token.

    Digits at the inner edge are the question's own: a few questions may share one by chance.
    """
    digits = "0123456789"
    head = _common_start(questions).rstrip(digits)
    tail = _common_start([text[len(head) :][::-1] for text in questions])[::-1]
    return [part for part in (head, tail.lstrip(digits)) if len(part) >= _LEAST]


def phrases_of(groups: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Returns the phrases of several kinds of questions, in their order, each once."""
    return tuple(dict.fromkeys(part for questions in groups for part in template(questions)))


def _common_start(texts: Iterable[str]) -> str:
    same = itertools.takewhile(lambda column: len({*column}) == 1, zip(*texts, strict=False))
    return "".join(column[0] for column in same)
