"""Tokens that the environment inserts into responses: games, tools. The policy attends to them, and never learns them.

A token environment with turns has an attribute `turns`, which generation asks after each token of the policy, and a
function `own_tokens`, by which a finished response is divided again.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

State = Any


@runtime_checkable
class Turns(Protocol):
    """An environment that replies. Pure functions of one sequence."""

    reply_length: int  # Q

    def begin(self, prompt: Int[Array, " P"]) -> State:
        """Returns the state before the first token, a pytree of arrays."""

    def react(self, state: State, token: Int[Array, ""]) -> tuple[State, Any]:
        """Returns the state after a token of the policy, and a reply, whose `tokens` are int32 [Q], padding on the
        right."""


class Talk(NamedTuple):
    """Conversations of N sequences."""

    state: State  # leaves [N, ...]
    queue: Array  # int32 [N, Q]: what the environment has yet to say; padding: nothing

    def said(
        self, turns: Turns, drawn: Int[Array, " N"], pad: int
    ) -> tuple[Talk, Int[Array, " N"], Bool[Array, " N"]]:
        """Returns the conversations after one more token of each, the tokens, and True for those of the policy.

        Args:
          drawn: the tokens that the policy says where the environment has nothing to say.
        """
        own = self.queue[:, 0] == pad
        token = jnp.where(own, drawn, self.queue[:, 0])
        after, reply = jax.vmap(turns.react)(self.state, token)
        if reply.tokens.shape[1:] != (turns.reply_length,):
            raise ValueError(
                f"{type(turns).__name__} replies with tokens of shape {reply.tokens.shape[1:]}, and reply_length is "
                f"{turns.reply_length}"
            )

        def kept(new: Array, old: Array) -> Array:
            return jnp.where(own.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        rest = jnp.roll(self.queue, -1, axis=1).at[:, -1].set(pad)
        queue = jnp.where(own[:, None], reply.tokens, rest)
        return Talk(jax.tree.map(kept, after, self.state), queue), token, own


def turns_of(env: Any) -> Turns | None:
    """Returns the turns of a token environment; None where the policy alone writes."""
    return getattr(env, "turns", None)


def begin(turns: Turns, prompts: Int[Array, "N P"], pad: int) -> Talk:
    """Returns conversations about prompts, in which nothing is said yet."""
    queue = jnp.full((prompts.shape[0], turns.reply_length), pad, jnp.int32)
    return Talk(jax.vmap(turns.begin)(prompts), queue)


def own_tokens(
    env: Any,
    prompts: Int[Array, "N P"],
    responses: Int[Array, "N R"],
    length: Int[Array, " N"],
) -> Bool[Array, "N R"] | None:
    """Returns True for the policy's tokens; None where all are."""
    return None if turns_of(env) is None else env.own_tokens(prompts, responses, length)


def onto_own(rewards: Float[Array, "N R"], own: Bool[Array, "N R"]) -> Float[Array, "N R"]:
    """Returns rewards, where what is paid at a token of the environment goes to the policy's last token before it."""
    place = jnp.arange(own.shape[1])
    last = jax.lax.cummax(jnp.where(own, place, -1), axis=1)
    rows = jnp.arange(own.shape[0])[:, None]
    return (
        jnp.zeros_like(rewards)
        .at[rows, jnp.where(last < 0, own.shape[1], last)]
        .add(rewards, mode="drop")
    )


def next_own_values(value: Float[Array, "T N"], mask: Bool[Array, "T N"]) -> Float[Array, "T N"]:
    """Returns the value of the state in which the policy chooses next: behind what the environment says in between.

    At steps without one it is that of the step behind.
    """
    steps = mask.shape[0]
    place = jnp.arange(steps)[:, None]
    here = jax.lax.cummin(jnp.where(mask, place, steps), axis=0, reverse=True)
    following = jnp.concatenate([here[1:], jnp.full((1, mask.shape[1]), steps)])
    behind = jnp.minimum(place + 1, steps - 1)
    chosen = jnp.where(mask & (following < steps), following, behind)
    return jnp.take_along_axis(value, chosen, axis=0)
