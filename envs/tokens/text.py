"""Tasks in text: strings in, strings out.

    @dataclasses.dataclass(frozen=True)
    class Spell(TextTask):
        def question(self, rng):                  # numpy's generator
            return "".join(rng.choice([*"abcde"], 4)) + " backwards:"

        def check(self, question, answer):        # True and False, or a score from 0 to 1
            return answer == self.solve(question)

        def solve(self, question):                # optional: what is imitated
            return question.split()[0][::-1]

A bank of questions is drawn once; questions that lie in a file, `texts` reads in place of `question`. Tokens are bytes,
or those of a published model, whose chat template then writes the prompts; `check` sees neither. All answers of an
iteration are decoded and checked in one call of the host.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from envs.callback import HostError, host_call, one_line
from envs.tokens import published_tokenizer
from envs.tokens.task import Task, Verdict, is_finished, judge_outcome
from envs.tokens.tokenizer import BYTES, Tokenizer

_TRIES = 20  # draws for each question of the bank, for questions repeat


class Bank(NamedTuple):
    """Questions, in the order of their prompts."""

    questions: tuple[str, ...]
    prompts: np.ndarray  # int32 [B, P], padding on the left
    # The question that tokens ask, prompts of the bank and those that people type: a chat template need not be undone.
    asked: dict[tuple[int, ...], str]


@dataclasses.dataclass(frozen=True)
class TextTask(Task):
    """Subclasses write `question` (or `texts`) and `check`, and `solve` where something imitates.

    Raises ValueError, in one line, where the questions do not fit the prompts' length, and where there are none.
    """

    bank: int = 4096
    """number of questions that are drawn, once; repeated ones count once"""
    bank_seed: int = 0
    """seed of the questions"""
    prompt_tokens: int = 32
    """most tokens of a question; 0: as many as the longest of the bank has"""
    response_tokens: int = 16
    """most tokens of an answer, its end included"""
    tokenizer: str = ""
    """folder of a published model whose tokenizer is used (tokenizer.json); empty: bytes"""
    chat: bool = True
    """write prompts by the chat template of that folder, where it has one"""
    system: str = ""
    """the system's text in the chat template; empty: the template's own"""

    def question(self, rng: np.random.Generator) -> str:
        """Draws a question."""
        raise NotImplementedError(f"{type(self).__name__} has neither question nor texts")

    def texts(self) -> Iterable[str]:
        """Returns the questions of the bank; unless a subclass says otherwise, `bank` different draws of `question`,
        or as many as there are."""
        rng = np.random.default_rng(self.bank_seed)
        found: dict[str, None] = {}
        for _ in range(_TRIES * self.bank):
            if len(found) == self.bank:
                break
            found[self.question(rng)] = None
        return found

    @abc.abstractmethod
    def check(self, question: str, answer: str) -> bool | float:
        """Returns the score of an answer, from 0 to 1; one that scores 1 is right."""

    def solve(self, question: str) -> str:
        """Returns a right answer. Needed only where something imitates."""
        raise NotImplementedError(f"{type(self).__name__} has no solution")

    @functools.cached_property
    def codec(self) -> Tokenizer:
        """Text to tokens: those of `tokenizer`. A subclass may have one of its own.

        Raises ValueError, in one line, where the folder has no usable one.
        """
        if self.tokenizer:
            return published_tokenizer.load(Path(self.tokenizer), self.chat, self.system)
        if self.system:
            raise ValueError(
                "--system is part of a chat template, and bytes have none: give --model or --tokenizer"
            )
        return BYTES

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The name of each token."""
        return self.codec.names

    @property
    def pad(self) -> int:
        """The padding token."""
        return self.codec.pad

    @property
    def stops(self) -> tuple[int, ...]:
        """Tokens that end a response."""
        return self.codec.stops

    @property
    def prompt_length(self) -> int:
        """P. Shorter questions have padding on the left."""
        return self.prompt_tokens or self.questions.prompts.shape[1]

    @property
    def response_length(self) -> int:
        """R, the end included."""
        return self.response_tokens

    @property
    def has_solution(self) -> bool:
        """True where the class writes `solve`."""
        return type(self).solve is not TextTask.solve

    @functools.cached_property
    def questions(self) -> Bank:
        """The bank of questions, and their prompts."""
        found = {text: self.codec.prompt(text) for text in self.texts()}
        if not found:
            raise ValueError(f"{type(self).__name__} has no questions")
        size = self.prompt_tokens or max(map(len, found.values()))
        for text, ids in found.items():
            if not 1 <= len(ids) <= size:
                more = (
                    " in the chat template: 0 is as many as the longest" if self.tokenizer else ""
                )
                raise ValueError(
                    f"the question {text[:40]!r} has {len(ids)} tokens, and prompt_tokens is {size}{more}"
                )
            if ids[0] == self.pad:
                raise ValueError(
                    f"the question {text[:40]!r} begins with the padding token, {self.vocabulary[self.pad]}"
                )
        rows = [[self.pad] * (size - len(ids)) + ids for ids in found.values()]
        asked = {tuple(ids): text for text, ids in found.items()}
        return Bank(tuple(found), np.array(rows, np.int32), asked)

    def sample(self, key: PRNGKeyArray) -> Int[Array, " P"]:
        """Draws a prompt of the bank."""
        prompts = jnp.asarray(self.questions.prompts)
        return prompts[jax.random.randint(key, (), 0, prompts.shape[0])]

    def canonical(self, prompt: Int[Array, " P"]) -> Int[Array, " 1"]:
        """Returns a hash of the prompt, a weighted sum modulo 2^32: the loop over tokens that other tasks have takes
        long to compile for hundreds of them."""
        size = prompt.shape[-1]
        # Counted from the right, padding apart: the same question has the same hash at any length.
        weights = np.random.default_rng(0).integers(1, 2**32, size=size, dtype=np.uint32)[::-1]
        total = jnp.sum(prompt.astype(jnp.uint32) * weights, dtype=jnp.uint32)
        return jax.lax.bitcast_convert_type(total, jnp.int32)[None]

    def solution(self, prompt: Int[Array, " P"]) -> Int[Array, " R"]:
        """A right answer, and the end."""
        shape = jax.ShapeDtypeStruct((self.response_tokens,), jnp.int32)
        return host_call(self._solutions, shape, prompt)

    def verify(
        self, prompt: Int[Array, " P"], response: Int[Array, " R"], length: Int[Array, ""]
    ) -> Verdict:
        """Judges an answer by `check`. An answer without its end is wrong; its form is valid where it ends in time."""
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        score = host_call(self._scores, shape, prompt, response, length)
        finished = is_finished(response, length, self.stops)
        correct = finished & (score >= 1)
        verdict = judge_outcome(correct, finished, length, self.response_tokens)
        # What a score between is worth, learners on "process" see.
        last = jnp.arange(self.response_tokens) == length - 1
        return verdict._replace(credit=jnp.where(last & finished, score, 0.0))

    def spell(self, tokens: list[int]) -> str:
        """Returns the text of tokens, and the names of those that pad and end."""
        parts, run = [], list[int]()
        special = {self.pad, *self.stops}
        for token in [*tokens, self.pad]:
            if token in special:
                parts += [self.codec.decode(run), self.vocabulary[token]]
                run = []
            else:
                run.append(token)
        return "".join(parts[:-1])

    def read(self, text: str) -> list[int]:
        """Returns the tokens of an answer, of the name of an end behind it too."""
        for stop in self.stops:
            if text.endswith(self.vocabulary[stop]):
                return [*self.codec.encode(text.removesuffix(self.vocabulary[stop])), stop]
        return self.codec.encode(text)

    def read_prompt(self, text: str) -> list[int]:
        """Returns the tokens that ask a question."""
        ids = self.codec.prompt(text)
        self.questions.asked[tuple(ids)] = text
        return ids

    def text(self, tokens: Any) -> str:
        """Returns the question of a prompt, or the text of a response up to its end."""
        ids = self._without_padding(tokens)
        asked = self.questions.asked.get(tuple(ids))
        return self.codec.decode(self._until_end(ids)) if asked is None else asked

    # On the host: numpy alone.

    def _scores(self, prompts: Any, responses: Any, lengths: Any) -> np.ndarray:
        prompts, responses, lengths = map(np.asarray, (prompts, responses, lengths))
        shape = lengths.shape
        prompts = prompts.reshape(-1, self.prompt_length)
        rows = zip(responses.reshape(-1, self.response_tokens), lengths.reshape(-1), strict=True)
        answers = self.codec.decode_batch([self._until_end(r[:n].tolist()) for r, n in rows])
        scores = [
            self._score(self.text(p), answer) for p, answer in zip(prompts, answers, strict=True)
        ]
        return np.array(scores, np.float32).reshape(shape)

    def _without_padding(self, tokens: Any) -> list[int]:
        """The tokens of a prompt, without padding on its left."""
        ids = np.asarray(tokens)
        real = np.flatnonzero(ids != self.pad)
        return ids[real[0] :].tolist() if real.size else []

    def _until_end(self, ids: Sequence[int]) -> list[int]:
        """The tokens before the first one that ends a response."""
        end = next((i for i, token in enumerate(ids) if token in self.stops), len(ids))
        return list(ids[:end])

    def _score(self, question: str, answer: str) -> float:
        try:
            return float(self.check(question, answer))
        except Exception as error:
            raise HostError(
                f"{type(self).__name__}.check raised {one_line(error)} on the question {question!r} and the answer "
                f"{answer!r}"
            ) from error

    def _solutions(self, prompts: Any) -> np.ndarray:
        prompts = np.asarray(prompts)
        rows = [self._solution(p) for p in prompts.reshape(-1, self.prompt_length)]
        return np.array(rows, np.int32).reshape(*prompts.shape[:-1], self.response_tokens)

    def _solution(self, prompt: np.ndarray) -> list[int]:
        answer = self.solve(self.text(prompt))
        ids = [*self.codec.encode(answer), self.stops[0]]
        if len(ids) > self.response_tokens:
            raise HostError(
                f"the solution {answer[:40]!r} has {len(ids)} tokens with its end, and response_tokens is "
                f"{self.response_tokens}"
            )
        return ids + [self.pad] * (self.response_tokens - len(ids))
