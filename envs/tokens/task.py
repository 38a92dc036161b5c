"""Token tasks: prompts made on the fly, and a verifier that says whether a response is right.

A task is a frozen dataclass of plain numbers: it is static under `jit`. Its functions take one prompt or response;
`vmap` makes batches. Tokens are integers: 0 is padding, 1 ends a response, the task's own begin at 2.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

PAD, EOS, FIRST = 0, 1, 2
SPECIAL = ("<pad>", "<eos>")
HELD_OUT = 8  # one prompt in this number is held out
_SAMPLES = 1024  # prompts that a look at the splits takes

Split = Literal["train", "held-out"]
RewardKind = Literal["exact", "process", "share", "rule"]


class Verdict(NamedTuple):
    """The judgement of one response."""

    correct: Any  # bool []: right, and ended in time
    well_formed: Any  # bool []: the format is valid, even if the answer is wrong
    credit: Any  # float32 [R]: what each token earns, known when it is written; those of a right response add up to 1
    # float32 [R]: the same for each token that is right, whatever stands before it; None: there are several right
    # answers, and no token is right by itself
    share: Any = None


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """Subclasses add their sizes as fields. Raises ValueError for impossible ones."""

    stop: ClassVar[int | None] = EOS  # the token that ends a response; None: all have full length
    splits: ClassVar[bool] = True  # False: there are too few prompts to hold any out

    @property
    @abc.abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """The name of each token."""

    @property
    def pad(self) -> int:
        """The token that fills prompts on the left and responses on the right."""
        return PAD

    @property
    def stops(self) -> tuple[int, ...]:
        """Tokens that end a response: `stop`, unless a subclass has several."""
        return () if self.stop is None else (self.stop,)

    @property
    @abc.abstractmethod
    def prompt_length(self) -> int:
        """P. Shorter prompts have padding on the left."""

    @property
    @abc.abstractmethod
    def response_length(self) -> int:
        """R, the token that ends the response included. A longer one is cut, and wrong."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray) -> Int[Array, " P"]:
        """Draws a prompt."""

    def canonical(self, prompt: Int[Array, " P"]) -> Int[Array, " C"]:
        """Returns a form that is equal for equivalent prompts; by default the prompt itself. Prompts of one canonical
        form are in the same split; otherwise nearly every held-out prompt would have an equivalent training prompt."""
        return prompt

    def solution(self, prompt: Int[Array, " P"]) -> Int[Array, " R"]:
        """An expert's response; padding on the right. Needed only where something imitates; may be left out."""
        raise NotImplementedError(f"{type(self).__name__} has no solution")

    @property
    def has_solution(self) -> bool:
        """True where the class writes `solution`."""
        return type(self).solution is not Task.solution

    def spell(self, tokens: list[int]) -> str:
        """Returns tokens in the task's notation: their names, blanks between."""
        return " ".join(self.vocabulary[i] for i in tokens)

    def read(self, text: str) -> list[int]:
        """Returns the tokens that a text in the task's notation names. Raises ValueError, in one line, where it names
        none."""
        return words_to_tokens(self.vocabulary, text)

    def read_prompt(self, text: str) -> list[int]:
        """Returns the tokens of a prompt that somebody types. Raises ValueError as `read` does."""
        return self.read(text)

    @abc.abstractmethod
    def verify(
        self, prompt: Int[Array, " P"], response: Int[Array, " R"], length: Int[Array, ""]
    ) -> Verdict:
        """Judges the first `length` tokens, the token that ends the response among them; what follows is ignored."""


def prompts(task: Task, key: PRNGKeyArray, n: int, split: Split) -> Int[Array, "n P"]:
    """Draws prompts of one split. The canonical form of a prompt decides its split, so equivalent prompts are in the
    same one.

    Redraws until every prompt belongs to the split; never ends if no prompt does: see `require_splits`.
    """

    def draw(key):
        found = jax.vmap(task.sample)(jax.random.split(key, n))
        return found, in_split(task, found, split)

    def again(carry):
        key, found, fits = carry
        draw_key, key = jax.random.split(key)
        new, new_fits = draw(draw_key)
        return key, jnp.where(fits[:, None], found, new), fits | new_fits

    first_key, key = jax.random.split(key)
    return jax.lax.while_loop(lambda c: ~jnp.all(c[2]), again, (key, *draw(first_key)))[1]


def require_splits(task: Task) -> None:
    """Raises ValueError where a split is empty: a task of a few dozen prompts should not have `splits`."""
    if not task.splits:
        return
    found = jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(0), _SAMPLES))
    for split in get_args(Split):
        if not in_split(task, found, split).any():
            raise ValueError(
                f"of {_SAMPLES} prompts of {type(task).__name__} none is in the split {split}: a task of so few "
                "prompts should set splits = False"
            )


def in_split(task: Task, prompt: Int[Array, "*batch P"], split: Split) -> Bool[Array, "*batch"]:
    """True for prompts that belong to the split: a hash of the canonical form holds out one question in eight. All
    belong to both splits of a task without `splits`."""
    if not task.splits:
        return jnp.ones(prompt.shape[:-1], bool)
    canonical = jnp.vectorize(task.canonical, signature="(p)->(c)")(prompt)
    held_out = _hash(canonical) % HELD_OUT == 0
    return held_out if split == "held-out" else ~held_out


def token_rewards(kind: RewardKind, verdict: Verdict, length: Int[Array, ""]) -> Float[Array, " R"]:
    """The reward of each token of a finished response.

    "exact": 1 with the last token if the response is correct. "process": each token's credit. "share": each token that
    is right earns its part of 1, also behind a wrong one. "rule": with the last token, -1 where the form is wrong, 0.2
    where only the answer is, 1 where all is right.

    Raises ValueError for "share" where the task has several right answers.
    """
    place = jnp.arange(verdict.credit.shape[0])
    if kind == "process":
        return jnp.where(place < length, verdict.credit, 0.0)
    if kind == "share":
        if verdict.share is None:
            raise ValueError(
                "reward share needs a task with one right answer, token by token: take exact, process or rule"
            )
        return jnp.where(place < length, verdict.share, 0.0)
    if kind == "exact":
        score = jnp.where(verdict.correct, 1.0, 0.0)
    else:
        score = jnp.where(verdict.correct, 1.0, jnp.where(verdict.well_formed, 0.2, -1.0))
    return jnp.where(place == length - 1, score, 0.0)


def decode(task: Task, tokens: Any, length: int | None = None) -> str:
    """Tokens in the task's notation: the first `length` of them, every one shown; None: without the padding before and
    behind."""
    ids = [int(t) for t in tokens][:length]
    if length is None:
        real = [i for i, token in enumerate(ids) if token != task.pad]
        ids = ids[real[0] : real[-1] + 1] if real else []
    return task.spell(ids)


def encode(task: Task, text: str) -> list[int]:
    """The tokens that `text` writes in the task's notation: what `decode` writes, read back. Raises ValueError in one
    line."""
    return task.read(text)


def words_to_tokens(vocabulary: tuple[str, ...], text: str) -> list[int]:
    """Returns the tokens that `text` names, blanks between them.

    Raises ValueError with one line that names the first word that is no token.
    """
    known = {name: i for i, name in reversed(list(enumerate(vocabulary)))}
    words = text.split()
    for word in words:
        if word not in known:
            shown = word if len(word) <= 40 else f"{word[:40]}..."
            near = difflib.get_close_matches(word, known, n=1)
            some = ", ".join([*known][::-1][:16]) + (", ..." if len(known) > 16 else "")
            hint = f"did you mean {near[0]}?" if near else f"tokens are {some}, with blanks between"
            raise ValueError(f"{shown!r} is no token of the task: {hint}")
    return [known[word] for word in words]


def is_finished(
    response: Int[Array, " R"], length: Int[Array, ""], stops: tuple[int, ...] = (EOS,)
) -> Bool[Array, ""]:
    """True if the last of `length` tokens is one that ends a response."""
    last = response[jnp.maximum(length - 1, 0)]
    return (length > 0) & jnp.any(last == jnp.array(stops, jnp.int32))


def judge_exact(
    expected: Int[Array, " R"],
    response: Int[Array, " R"],
    length: Int[Array, ""],
    well_formed: Bool[Array, ""],
) -> Verdict:
    """The verdict of a task with one correct answer: tokens earn equal credit, up to the first that is wrong."""
    written = jnp.arange(expected.shape[0]) < length
    size = jnp.sum(expected != PAD)
    right = (response == expected) & written & (expected != PAD)
    prefix = jnp.cumprod(right.astype(jnp.int32))
    correct = (length == size) & (jnp.sum(prefix) == size)
    return Verdict(correct, well_formed, prefix / size, right / size)


def judge_outcome(
    correct: Bool[Array, ""], well_formed: Bool[Array, ""], length: Int[Array, ""], size: int
) -> Verdict:
    """The verdict of a task with many correct answers: the last token earns 1, or 0.1 for the form alone."""
    earned = jnp.where(correct, 1.0, jnp.where(well_formed, 0.1, 0.0))
    return Verdict(correct, well_formed, jnp.where(jnp.arange(size) == length - 1, earned, 0.0))


def _hash(prompt: Int[Array, "*batch C"]) -> Array:
    """FNV-1a over the tokens, and a last mixing, for its low bits are weak. http://www.isthe.com/chongo/tech/comp/fnv"""
    columns = jnp.moveaxis(prompt.astype(jnp.uint32), -1, 0)
    h = jnp.full(prompt.shape[:-1], 2166136261, jnp.uint32)
    # A loop, not a chain of operations: hundreds of them take long to compile.
    h, _ = jax.lax.scan(lambda h, x: ((h ^ x) * jnp.uint32(16777619), None), h, columns)
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    return h ^ (h >> 13)
