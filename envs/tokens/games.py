"""Tasks with turns whose optimum is known: guess a number, and use a calculator."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from envs.tokens.task import EOS, FIRST, PAD, SPECIAL
from envs.tokens.turns import Reply, TurnTask, secret

_NONCE = 3  # numbers of a prompt, by which games differ


class Guessing(NamedTuple):
    """The state of a game."""

    secret: Any  # int32 []
    guesses: Any  # int32 []
    found: Any  # bool []


@dataclasses.dataclass(frozen=True)
class GuessNumber(TurnTask):
    """A number from 1 to `largest` is to be guessed. Each guess is one token, and the answer is higher, lower or right.

    The prompt is the number of the game, three of the numbers, from which the secret follows by a hash. A right guess
    earns 1, less 1 / `limit` for each guess before it. Raises ValueError, in one line, for too small a limit.
    """

    largest: int = 16
    """the numbers are 1 to largest"""
    limit: int = 8
    """most guesses of a game"""

    def __post_init__(self):
        if self.largest < 2:
            raise ValueError(f"largest must be at least 2, got {self.largest}")
        least = self.largest.bit_length()
        if self.limit < least:
            raise ValueError(
                f"limit must be at least {least}, the guesses that bisection needs for {self.largest} numbers; got "
                f"{self.limit}"
            )

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The numbers, the environment's words, and the sign that ends the prompt."""
        numbers = map(str, range(1, self.largest + 1))
        return (*SPECIAL, *numbers, "higher", "lower", "right", "?")

    @property
    def prompt_length(self) -> int:
        """Three numbers and the sign."""
        return _NONCE + 1

    @property
    def response_length(self) -> int:
        """A guess and a reply each time, and the end."""
        return 2 * self.limit + 1

    @property
    def reply_length(self) -> int:
        """A word, and the end of the game."""
        return 2

    @property
    def optimum(self) -> float:
        """The mean number of guesses of bisection, the least that is possible for a secret of equal probabilities."""
        depths = range(1, self.largest.bit_length() + 1)
        nodes = [min(2 ** (d - 1), self.largest - 2 ** (d - 1) + 1) for d in depths]
        return sum(d * n for d, n in zip(depths, nodes, strict=True)) / self.largest

    def sample(self, key: PRNGKeyArray) -> Int[Array, " P"]:
        """Draws the number of a game."""
        numbers = jax.random.randint(key, (_NONCE,), FIRST, FIRST + self.largest, jnp.int32)
        return jnp.append(numbers, len(self.vocabulary) - 1).astype(jnp.int32)

    def begin(self, prompt: Int[Array, " P"]) -> Guessing:
        """Returns the secret, and no guesses."""
        zero = jnp.zeros((), jnp.int32)
        return Guessing(secret(prompt, self.largest), zero, jnp.zeros((), bool))

    def react(self, state: Guessing, token: Int[Array, ""]) -> tuple[Guessing, Reply]:
        """Answers a guess; anything that is no number ends the game."""
        higher, lower, right, _ = range(FIRST + self.largest, len(self.vocabulary))
        guess = token - FIRST
        is_number = (guess >= 0) & (guess < self.largest)
        found = is_number & (guess == state.secret)
        guesses = state.guesses + is_number
        word = jnp.where(found, right, jnp.where(guess < state.secret, higher, lower))
        over = found | (guesses >= self.limit)
        first = jnp.where(is_number, word, EOS)
        second = jnp.where(is_number & over, EOS, PAD)
        reward = jnp.where(found, 1.0 - state.guesses / self.limit, 0.0)
        return Guessing(state.secret, guesses, state.found | found), self.reply(
            first, second, reward=reward
        )

    def is_right(self, state: Guessing) -> Bool[Array, ""]:
        """Returns True where the number was found."""
        return state.found

    def solution(self, prompt: Int[Array, " P"]) -> Int[Array, " R"]:
        """Bisection, with the replies."""
        state, low, high = self.begin(prompt), jnp.zeros((), jnp.int32), self.largest - 1

        def guess(carry: Any, _: None) -> tuple[Any, Array]:
            state, low, high = carry
            over = state.found
            token = FIRST + (low + high) // 2
            after, reply = self.react(state, token)
            low = jnp.where(after.secret > token - FIRST, token - FIRST + 1, low)
            high = jnp.where(after.secret < token - FIRST, token - FIRST - 1, high)
            word = jnp.where(over, PAD, reply.tokens[0])
            state = jax.tree.map(lambda new, old: jnp.where(over, old, new), after, state)
            return (state, low, high), jnp.stack([jnp.where(over, PAD, token), word])

        _, turns = jax.lax.scan(guess, (state, low, jnp.asarray(high)), None, self.limit)
        tokens = jnp.append(turns.reshape(-1), PAD)
        return tokens.at[jnp.sum(tokens != PAD)].set(EOS).astype(jnp.int32)


class Calculating(NamedTuple):
    """The state of a sum with a calculator."""

    target: Any  # int32 [], the right answer
    left: Any  # int32 [], the number before the sign
    number: Any  # int32 [], the number that is being written
    digits: Any  # int32 [], its digits
    sign: Any  # int32 []: 0 none, 1 times, 2 plus
    right: Any  # bool []: ended with the right answer


@dataclasses.dataclass(frozen=True)
class Calculator(TurnTask):
    """A product of two numbers, which a calculator knows: `3 4 * 1 2 =` has the result inserted, and the answer is
    to be written after it. What has no form of a sum or a product is answered by `!`.

    Raises ValueError, in one line, for impossible sizes.
    """

    digits: int = 2
    """digits of each number"""

    def __post_init__(self):
        if not 1 <= self.digits <= 4:
            raise ValueError(f"digits must be 1 to 4, got {self.digits}")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Digits and signs."""
        return (*SPECIAL, *"0123456789", "*", "+", "=", ";", "!", "?")

    @property
    def prompt_length(self) -> int:
        """Two numbers, the sign between, and the question."""
        return 2 * self.digits + 2

    @property
    def response_length(self) -> int:
        """A call, its result, and an answer."""
        return 6 * self.digits + 4

    @property
    def reply_length(self) -> int:
        """The digits of a product, and the sign that ends them."""
        return 2 * self.digits + 1

    def sample(self, key: PRNGKeyArray) -> Int[Array, " P"]:
        """Draws two numbers."""
        numbers = jax.random.randint(key, (2,), 10 ** (self.digits - 1), 10**self.digits)
        digits = (numbers[:, None] // self._powers(self.digits)) % 10 + FIRST
        times, question = FIRST + 10, len(self.vocabulary) - 1
        return jnp.concatenate(
            [digits[0], jnp.array([times]), digits[1], jnp.array([question])]
        ).astype(jnp.int32)

    def begin(self, prompt: Int[Array, " P"]) -> Calculating:
        """Returns the product, and nothing written."""
        size = self.digits
        digits = prompt - FIRST
        left, right = (
            jnp.sum(part * self._powers(size)) for part in (digits[:size], digits[size + 1 : -1])
        )
        zero = jnp.zeros((), jnp.int32)
        return Calculating(left * right, zero, zero, zero, zero, jnp.zeros((), bool))

    def react(self, state: Calculating, token: Int[Array, ""]) -> tuple[Calculating, Reply]:
        """Reads digits and signs; answers the sign of equality."""
        times, plus, equals, end_of_result, mistake = range(FIRST + 10, FIRST + 15)
        digit = token - FIRST
        is_digit = (digit >= 0) & (digit < 10)
        is_sign = ((token == times) | (token == plus)) & (state.digits > 0) & (state.sign == 0)
        # A number of more digits than a product has is none; it stays wrong, and inside of 32 bits.
        digits = jnp.where(is_digit, jnp.minimum(state.digits + 1, 2 * self.digits + 1), 0)
        number = jnp.where(is_digit, state.number * 10 + digit, 0)
        number = jnp.where(digits > 2 * self.digits, -1, number)
        fits = (state.digits > 0) & (state.digits <= self.digits)
        valid = (state.sign > 0) & fits & (state.left < 10**self.digits) & (state.left >= 0)
        result = jnp.where(state.sign == 1, state.left * state.number, state.left + state.number)
        answer = (token == EOS) & (state.sign == 0) & (state.digits > 0)
        after = Calculating(
            state.target,
            jnp.where(is_sign, state.number, state.left),
            number,
            digits,
            # A token out of place spoils the sum that is being written.
            jnp.where(is_digit, state.sign, jnp.where(is_sign, 1 + (token == plus), 0)),
            state.right | (answer & (state.number == state.target)),
        )
        shown = self._written(result, end_of_result)
        refused = jnp.where(jnp.arange(self.reply_length) == 0, mistake, PAD)
        tokens = jnp.where(valid, shown, refused)
        return after, Reply(
            jnp.where(token == equals, tokens, PAD).astype(jnp.int32),
            jnp.where(after.right, 1.0, 0.0),
        )

    def is_right(self, state: Calculating) -> Bool[Array, ""]:
        """Returns True where the answer is the product."""
        return state.right

    def solution(self, prompt: Int[Array, " P"]) -> Int[Array, " R"]:
        """The question as a call, its result, and the result as the answer."""
        _, _, equals, end_of_result, _ = range(FIRST + 10, FIRST + 15)
        shown = self._written(self.begin(prompt).target, end_of_result)
        size = jnp.sum(shown != PAD)
        answer = jnp.where(shown == end_of_result, EOS, shown)
        call = prompt.shape[0]
        row = jnp.zeros(self.response_length, jnp.int32).at[:call].set(prompt)
        row = row.at[call - 1].set(equals)
        row = jax.lax.dynamic_update_slice(row, shown, (call,))
        return jax.lax.dynamic_update_slice(row, answer, (call + size,))

    def _powers(self, size: int) -> Array:
        return jnp.array([10**i for i in reversed(range(size))], jnp.int32)

    def _written(self, number: Int[Array, ""], end: int) -> Int[Array, " Q"]:
        """A number's digits without zeros in front, then `end`, then padding."""
        size = self.reply_length - 1
        digits = (number // self._powers(size)) % 10
        skip = jnp.minimum(jnp.argmax(digits > 0), jnp.where(number > 0, size, size - 1))
        skip = jnp.where(number > 0, skip, size - 1)
        row = jnp.append(digits + FIRST, end)
        place = jnp.arange(self.reply_length) + skip
        return jnp.where(place <= size, row[jnp.minimum(place, size)], PAD).astype(jnp.int32)
