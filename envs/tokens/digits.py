"""Tasks on digits, each with one right answer: `Sort`, `Reverse`, `Add`; and `Bandit`, the single step."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from envs.tokens.task import EOS, FIRST, SPECIAL, Task, Verdict, is_finished, judge_exact

DIGITS = tuple("0123456789")
EQUALS, PLUS = FIRST + 10, FIRST + 11


@dataclasses.dataclass(frozen=True)
class _Digits(Task):
    """`digits` of them in, `digits` out."""

    digits: int = 6
    """how many"""

    def __post_init__(self):
        _require_size("digits", self.digits, 1, 64)

    @property
    def vocabulary(self):
        return (*SPECIAL, *DIGITS, "=")

    @property
    def prompt_length(self):
        return self.digits + 1

    @property
    def response_length(self):
        return self.digits + 1

    def sample(self, key):
        digits = jax.random.randint(key, (self.digits,), FIRST, FIRST + 10, jnp.int32)
        # A last token that is no digit: the place where the answer begins is not also one of the things to be sorted.
        # Without it imitation needs twice the steps.
        return jnp.append(digits, EQUALS).astype(jnp.int32)

    def verify(self, prompt, response, length):
        return judge_exact(self.solution(prompt), response, length, _formed(response, length))


@dataclasses.dataclass(frozen=True)
class Sort(_Digits):
    """The digits in ascending order."""

    def canonical(self, prompt):
        """The multiset of digits."""
        return jnp.sort(prompt[:-1])

    def solution(self, prompt):
        """The digits in ascending order."""
        return jnp.append(jnp.sort(prompt[:-1]), EOS).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Reverse(_Digits):
    """The digits backwards."""

    def solution(self, prompt):
        """The digits in reverse order."""
        return jnp.append(prompt[-2::-1], EOS).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Add(Task):
    """The sum of two numbers. In question and answer the lowest digit comes first, so that carries move forward."""

    digits: int = 2
    """of each number"""

    def __post_init__(self):
        _require_size("digits", self.digits, 1, 64)

    @property
    def vocabulary(self):
        """The names of all tokens."""
        return (*SPECIAL, *DIGITS, "=", "+")

    @property
    def prompt_length(self):
        """Length of a prompt, in tokens."""
        return 2 * self.digits + 2

    @property
    def response_length(self):
        """Greatest length of a response, in tokens, the end included."""
        return self.digits + 2

    def sample(self, key):
        """Two random numbers."""
        a, b = jax.random.randint(key, (2, self.digits), FIRST, FIRST + 10, jnp.int32)
        return jnp.concatenate([a, jnp.array([PLUS]), b, jnp.array([EQUALS])]).astype(jnp.int32)

    def canonical(self, prompt):
        """The two numbers, whichever comes first."""
        a, b = prompt[: self.digits], prompt[self.digits + 1 : -1]
        differs = a != b
        swap = jnp.any(differs) & ((a > b)[jnp.argmax(differs)])
        return jnp.where(swap, jnp.concatenate([b, a]), jnp.concatenate([a, b]))

    def solution(self, prompt):
        """The sum, lowest digit first."""
        n = self.digits
        columns = prompt[:n] + prompt[n + 1 : 2 * n + 1] - 2 * FIRST

        def add(carry, column):
            return (carry + column) // 10, (carry + column) % 10

        carry, out = jax.lax.scan(add, jnp.zeros((), jnp.int32), columns)
        return jnp.concatenate([out + FIRST, carry[None] + FIRST, jnp.array([EOS])]).astype(
            jnp.int32
        )

    def verify(self, prompt, response, length):
        """Compares with the sum; see `judge_exact`."""
        return judge_exact(self.solution(prompt), response, length, _formed(response, length))


@dataclasses.dataclass(frozen=True)
class Bandit(Task):
    """A context, and the one arm that pays: a single token decides. Nothing can be held out, nothing generalises."""

    arms: int = 10
    """arms, and as many contexts"""

    stop: ClassVar[int | None] = None
    splits: ClassVar[bool] = False

    def __post_init__(self):
        _require_size("arms", self.arms, 2, 1000)

    @property
    def vocabulary(self):
        """The names of all tokens."""
        contexts = (f"context{i}" for i in range(self.arms))
        return (*SPECIAL, *contexts, *(f"arm{i}" for i in range(self.arms)))

    @property
    def prompt_length(self):
        """Length of a prompt, in tokens."""
        return 1

    @property
    def response_length(self):
        """Greatest length of a response, in tokens, the end included."""
        return 1

    def sample(self, key):
        """A random context."""
        return jax.random.randint(key, (1,), FIRST, FIRST + self.arms, jnp.int32)

    def solution(self, prompt):
        """The context's arm."""
        # Some fixed assignment.
        return FIRST + self.arms + (prompt - FIRST + self.arms // 2) % self.arms

    def verify(self, prompt, response, length):
        """Correct if the token is the context's arm, well formed if it is any arm."""
        is_arm = response[0] >= FIRST + self.arms
        right = response == self.solution(prompt)
        credit = right.astype(jnp.float32)
        return Verdict(right[0], is_arm, credit, credit)


def _formed(response, length):
    """Tells a response of digits only that ends at the expected position, the last."""
    place = jnp.arange(response.shape[0])
    digit = (response >= FIRST) & (response < FIRST + 10)
    return (
        jnp.all(digit | (place >= length - 1))
        & is_finished(response, length)
        & (length == response.shape[0])
    )


def _require_size(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} must be between {least} and {most}, got {value}")
