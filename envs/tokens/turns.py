"""Tasks in which the environment answers: games, tools, anything that is said between the policy's tokens.

    class GuessNumber(TurnTask):
        reply_length = 2                       # most tokens of a reply

        def begin(self, prompt):               # the state before the first token
            return secret(prompt, self.largest)

        def react(self, state, token):         # after each token of the policy
            return state, self.reply(...)      # what is inserted, and what the token earns

        def is_right(self, state): ...

The response is one row of tokens, the policy's and the environment's. Which are whose follows from the prompt and the
tokens before, so `replay` tells it for any response. Tokens of the environment are attended to, and never trained on.
An end token in a reply ends the episode.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
from jaxtyping import Bool as BoolOf

from envs.tokens.task import PAD, Task, Verdict, is_finished

State = Any


class Reply(NamedTuple):
    """Returned by `react`: what the environment says after a token of the policy."""

    tokens: Any  # int32 [Q], padding on the right; padding alone: nothing
    reward: Any  # float32 []: earned by the token that was heard, under the reward "process"


class Replay(NamedTuple):
    """A response as the environment sees it."""

    state: State  # after the last token
    queue: Any  # int32 [Q]: what it has yet to say
    own: Any  # bool [R]: tokens of the policy
    reward: Any  # float32 [R]: earned by each of them
    consistent: Any  # bool []: the environment's tokens are what it would have said


class TurnTask(Task):
    """A task whose environment replies. Its functions are pure, of one sequence; `vmap` makes batches.

    What the policy must not see is drawn from the prompt by a hash: see `secret`.
    """

    @property
    @abc.abstractmethod
    def reply_length(self) -> int:
        """Q, the most tokens of a reply."""

    @abc.abstractmethod
    def begin(self, prompt: Int[Array, " P"]) -> State:
        """Returns the state before the first token: a pytree of arrays."""

    @abc.abstractmethod
    def react(self, state: State, token: Int[Array, ""]) -> tuple[State, Reply]:
        """Returns the state after a token of the policy, and the reply to it. What the policy writes before the reply
        is over is not drawn, so `react` never hears the environment itself."""

    @abc.abstractmethod
    def is_right(self, state: State) -> BoolOf[Array, ""]:
        """Returns True for the state at the end of a right response."""

    def reply(self, *tokens: Any, reward: Any = 0.0) -> Reply:
        """Returns a reply of some tokens, numbers or scalars; none: silence. Raises ValueError for more than
        `reply_length`."""
        if len(tokens) > self.reply_length:
            raise ValueError(
                f"{type(self).__name__} replies with {len(tokens)} tokens, and reply_length is {self.reply_length}"
            )
        padded = [*tokens, *[PAD] * (self.reply_length - len(tokens))]
        row = jnp.stack([jnp.asarray(token, jnp.int32) for token in padded])
        return Reply(row, jnp.asarray(reward, jnp.float32))

    def verify(
        self, prompt: Int[Array, " P"], response: Int[Array, " R"], length: Int[Array, ""]
    ) -> Verdict:
        """Judges a response by its replay. One that has other replies than the environment's is wrong."""
        found = replay(self, prompt, response, length)
        well_formed = is_finished(response, length) & found.consistent
        credit = jnp.where(found.consistent, found.reward, 0.0)
        return Verdict(well_formed & self.is_right(found.state), well_formed, credit)


def replay(
    task: TurnTask, prompt: Int[Array, " P"], response: Int[Array, " R"], length: Int[Array, ""]
) -> Replay:
    """Plays the first `length` tokens of a response against the environment.

    Raises ValueError, in one line, where replies have another length than `reply_length`.
    """
    state = task.begin(prompt)
    queue = jnp.full(task.reply_length, PAD, jnp.int32)

    def hear(carry: Any, at: tuple[Array, Array]) -> tuple[Any, Any]:
        state, queue, consistent = carry
        place, token = at
        live, expected = place < length, queue[0]
        own = live & (expected == PAD)
        after, reply = task.react(state, token)
        require_reply(task, reply)
        state = jax.tree.map(lambda new, old: jnp.where(own, new, old), after, state)
        shifted = jnp.concatenate([queue[1:], jnp.full(1, PAD, jnp.int32)])
        queue = jnp.where(own, reply.tokens, jnp.where(live, shifted, queue))
        consistent &= own | ~live | (token == expected)
        return (state, queue, consistent), (own, jnp.where(own, reply.reward, 0.0))

    places = jnp.arange(response.shape[0])
    start = (state, queue, jnp.asarray(True))
    (state, queue, consistent), (own, reward) = jax.lax.scan(hear, start, (places, response))
    return Replay(state, queue, own, reward.astype(jnp.float32), consistent)


def require_reply(task: TurnTask, reply: Reply) -> None:
    """Raises ValueError, in one line, where a reply does not have `reply_length` tokens."""
    if reply.tokens.shape != (task.reply_length,):
        raise ValueError(
            f"{type(task).__name__} replies with tokens of shape {reply.tokens.shape}, and reply_length is "
            f"{task.reply_length}: fill with padding, or use reply(...)"
        )


def secret(prompt: Int[Array, " P"], n: int) -> Int[Array, ""]:
    """Returns a number from 0 to n - 1 that follows from the prompt by a hash, and that a policy cannot tell from it.

    So a response is judged by the prompt alone, and all responses to a prompt play the same game.
    """
    h = jnp.uint32(2166136261)
    for i in range(prompt.shape[0]):
        h = (h ^ prompt[i].astype(jnp.uint32)) * jnp.uint32(16777619)
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
    return ((h ^ (h >> 16)) % jnp.uint32(n)).astype(jnp.int32)
