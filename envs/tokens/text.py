"""Tasks in text: strings in, strings out.

    @dataclasses.dataclass(frozen=True)
    class Spell(TextTask):
        def question(self, rng):                  # numpy's generator
            return "".join(rng.choice([*"abcde"], 4)) + " backwards:"

        def check(self, question, answer):        # True and False, or a score from 0 to 1
            return answer == self.solve(question)

        def solve(self, question):                # optional: what is imitated
            return question.split()[0][::-1]

A bank of questions is drawn once; questions that lie in a file, `texts` reads in place of `question`. Prompts are the
questions' bytes, unless the task has another tokenizer; `check` is Python's, called once for a batch of answers.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from envs.callback import HostError, host_call, one_line
from envs.tokens.task import EOS, FIRST, PAD, SPECIAL, Task, Verdict, is_finished, judge_outcome

_TRIES = 20  # draws for each question of the bank, for questions repeat


@runtime_checkable
class Tokenizer(Protocol):
    """Text to tokens and back. Token 0 is padding, and token 1 ends a response."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tokens."""

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, without the end."""

    def decode(self, tokens: list[int]) -> str:
        """Returns the text of tokens; those that are no text are left out."""


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """Each byte of the text's UTF-8 form is a token: nothing to learn, nothing unknown, 258 tokens."""

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The bytes' names: the characters of ASCII, other bytes as <0x0A>."""
        return (*SPECIAL, *(chr(i) if 32 < i < 127 else f"<0x{i:02X}>" for i in range(256)))

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, without the end."""
        return [FIRST + byte for byte in text.encode()]

    def decode(self, tokens: list[int]) -> str:
        """Returns the text of tokens; padding, the end and bytes that are no UTF-8 are left out."""
        content = bytes(token - FIRST for token in tokens if FIRST <= token < FIRST + 256)
        return content.decode(errors="ignore")


BYTES = ByteTokenizer()


class Bank(NamedTuple):
    """Questions, in the order of their prompts."""

    questions: tuple[str, ...]
    prompts: np.ndarray  # int32 [B, P], padding on the left


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

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to tokens: bytes, unless a subclass says otherwise."""
        return BYTES

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The name of each token."""
        return self.tokenizer.names

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
        found = {text: self.tokenizer.encode(text) for text in self.texts()}
        if not found:
            raise ValueError(f"{type(self).__name__} has no questions")
        size = self.prompt_tokens or max(map(len, found.values()))
        for text, ids in found.items():
            if not 1 <= len(ids) <= size:
                raise ValueError(
                    f"the question {text[:40]!r} has {len(ids)} tokens, and prompt_tokens is {size}"
                )
        rows = [[PAD] * (size - len(ids)) + ids for ids in found.values()]
        return Bank(tuple(found), np.array(rows, np.int32))

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
        finished = is_finished(response, length)
        correct = finished & (score >= 1)
        verdict = judge_outcome(correct, finished, length, self.response_tokens)
        # What a score between is worth, learners on "process" see.
        last = jnp.arange(self.response_tokens) == length - 1
        return verdict._replace(credit=jnp.where(last & finished, score, 0.0))

    def spell(self, tokens: list[int]) -> str:
        """Returns the text of tokens, <pad> and <eos> for those that are none."""
        parts, run = [], list[int]()
        for token in [*tokens, PAD]:
            if token in (PAD, EOS):
                parts += [self.tokenizer.decode(run), SPECIAL[token]]
                run = []
            else:
                run.append(token)
        return "".join(parts[:-1])

    def read(self, text: str) -> list[int]:
        """Returns the tokens of a text, of an <eos> at its end too."""
        ended = text.endswith(SPECIAL[EOS])
        ids = self.tokenizer.encode(text.removesuffix(SPECIAL[EOS]))
        return [*ids, EOS] if ended else ids

    def text(self, tokens: Any) -> str:
        """Returns the text of tokens, up to the end of a response."""
        ids = [int(token) for token in tokens if int(token) != PAD]
        return self.tokenizer.decode(ids[: ids.index(EOS)] if EOS in ids else ids)

    # On the host: numpy alone.

    def _scores(self, prompts: Any, responses: Any, lengths: Any) -> np.ndarray:
        prompts, responses, lengths = map(np.asarray, (prompts, responses, lengths))
        shape = lengths.shape
        rows = zip(
            prompts.reshape(-1, self.prompt_length),
            responses.reshape(-1, self.response_tokens),
            lengths.reshape(-1),
            strict=True,
        )
        scores = [self._score(self.text(p), self.text(r[:n])) for p, r, n in rows]
        return np.array(scores, np.float32).reshape(shape)

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
        ids = [*self.tokenizer.encode(answer), EOS]
        if len(ids) > self.response_tokens:
            raise HostError(
                f"the solution {answer[:40]!r} has {len(ids)} tokens with its end, and response_tokens is "
                f"{self.response_tokens}"
            )
        return ids + [PAD] * (self.response_tokens - len(ids))
