"""Countdown: reach a target from given numbers. The answer is an expression in postfix notation, `3 4 + 2 *`."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from envs.tokens.task import EOS, FIRST, SPECIAL, Task, is_finished, judge_outcome

MOST = 100  # numbers that have a token: 0 .. 99
OPERATORS = ("+", "-", "*")
_OPERATOR = FIRST + MOST  # the first of them
_EQUALS = _OPERATOR + len(OPERATORS)
_TRIES = 16  # expressions drawn for a target that has a token


@dataclasses.dataclass(frozen=True)
class Countdown(Task):
    """Reach a target with an expression that uses every number once. Every prompt has a solution, often several."""

    numbers: int = 3
    """how many are given"""
    largest: int = 10
    """they are between 1 and this, which is at least 2: with ones alone, there may be no prompt to hold out"""

    def __post_init__(self):
        if not 2 <= self.numbers <= 4:
            raise ValueError(f"numbers must be between 2 and 4, got {self.numbers}")
        # The sum of them all must have a token: it is what remains if nothing else does.
        if not 2 <= self.largest <= (MOST - 1) // self.numbers:
            raise ValueError(
                f"largest must be between 2 and {(MOST - 1) // self.numbers}, got {self.largest}"
            )

    @property
    def vocabulary(self):
        """The names of all tokens."""
        return (*SPECIAL, *map(str, range(MOST)), *OPERATORS, "=")

    @property
    def prompt_length(self):
        """Length of a prompt, in tokens."""
        return self.numbers + 2

    @property
    def response_length(self):
        """Greatest length of a response, in tokens, the end included."""
        return 2 * self.numbers

    def sample(self, key):
        """Random numbers and the value of a random expression of them; their sum, if 16 expressions have no token for
        theirs."""
        number_key, program_key = jax.random.split(key)
        numbers = jax.random.randint(number_key, (self.numbers,), 1, self.largest + 1, jnp.int32)
        programs = jnp.asarray(all_expressions(self.numbers))
        tried = programs[jax.random.randint(program_key, (_TRIES,), 0, len(programs))]
        results = jax.vmap(value_of, (0, None))(tried, numbers)
        fits = (results >= 0) & (results < MOST)
        target = jnp.where(jnp.any(fits), results[jnp.argmax(fits)], jnp.sum(numbers))
        tail = jnp.stack([jnp.asarray(_EQUALS), target + FIRST])
        return jnp.concatenate([numbers + FIRST, tail]).astype(jnp.int32)

    def canonical(self, prompt):
        """The numbers in order, and the target."""
        return jnp.append(jnp.sort(prompt[: self.numbers]), prompt[-1])

    def solution(self, prompt):
        """The first expression, of all there are, with the target as its value."""
        numbers, target = prompt[: self.numbers] - FIRST, prompt[-1] - FIRST
        programs = jnp.asarray(all_expressions(self.numbers))
        program = programs[jnp.argmax(jax.vmap(value_of, (0, None))(programs, numbers) == target)]
        tokens = jnp.where(
            program < self.numbers,
            prompt[jnp.minimum(program, self.numbers - 1)],
            program - self.numbers + _OPERATOR,
        )
        return jnp.append(tokens, EOS).astype(jnp.int32)

    def verify(self, prompt, response, length):
        """Evaluates the expression on a stack. Well formed: all numbers used once, and one value left. Credit: see
        `judge_outcome`."""
        size = self.response_length
        given, target = prompt[: self.numbers], prompt[-1] - FIRST
        inside = jnp.arange(size) < length - 1
        is_number = inside & (response >= FIRST) & (response < _OPERATOR)
        is_operator = inside & (response >= _OPERATOR) & (response < _EQUALS)

        def step(carry, token):
            stack, height, sound = carry
            value, number, operator = token
            pushed = stack.at[height].set(value - FIRST, mode="drop")
            right, left = stack[height - 1], stack[height - 2]
            combined = stack.at[height - 2].set(_apply(value - _OPERATOR, left, right), mode="drop")
            sound &= jnp.where(operator, height >= 2, True)
            stack = jnp.where(number, pushed, jnp.where(operator & (height >= 2), combined, stack))
            height = height + number - (operator & (height >= 2))
            return (stack, height, sound), None

        start = jnp.zeros(size, jnp.int32), jnp.zeros((), jnp.int32), jnp.ones((), bool)
        (stack, height, sound), _ = jax.lax.scan(step, start, (response, is_number, is_operator))
        used = jnp.sort(jnp.where(is_number, response, 0))[size - self.numbers :]
        well_formed = (
            is_finished(response, length)
            & (length == size)
            & jnp.all(~inside | is_number | is_operator)
            & (jnp.sum(is_number) == self.numbers)
            & jnp.all(used == jnp.sort(given))
            & sound
            & (height == 1)
        )
        return judge_outcome(well_formed & (stack[0] == target), well_formed, length, size)


@functools.cache
def all_expressions(n: int) -> np.ndarray:
    """All expressions of n numbers, each used once, int32 [expressions, 2 n - 1]: code i < n is the i-th number, n + k
    operator k."""
    forms = [
        form
        for form in itertools.product((0, 1), repeat=2 * n - 1)  # 1: a number
        if sum(form) == n and _is_postfix(form)
    ]
    rows = []
    for form in forms:
        for order in itertools.permutations(range(n)):
            for signs in itertools.product(range(n, n + len(OPERATORS)), repeat=n - 1):
                numbers, operators = iter(order), iter(signs)
                rows.append([next(numbers) if one else next(operators) for one in form])
    return np.array(rows, np.int32)


def _is_postfix(form: tuple[int, ...]) -> bool:
    heights = list(itertools.accumulate(1 if one else -1 for one in form))
    return min(heights) >= 1 and heights[-1] == 1


def value_of(program: Int[Array, " L"], numbers: Int[Array, " n"]) -> Int[Array, ""]:
    """The value of one row of `all_expressions`, L = 2 n - 1, of n numbers."""
    n = numbers.shape[0]

    def step(carry, code):
        stack, height = carry
        is_number = code < n
        combined = _apply(code - n, stack[height - 2], stack[height - 1])
        place = jnp.where(is_number, height, height - 2)
        value = jnp.where(is_number, numbers[jnp.minimum(code, n - 1)], combined)
        return (stack.at[place].set(value), place + 1), None

    start = jnp.zeros(n + 1, jnp.int32), jnp.zeros((), jnp.int32)
    return jax.lax.scan(step, start, program)[0][0][0]


def _apply(operator, left, right):
    # At most four numbers below 100: the product of all fits 32 bits.
    return jnp.where(
        operator == 0, left + right, jnp.where(operator == 1, left - right, left * right)
    )
