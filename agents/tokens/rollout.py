"""Responses as a batch of steps, time first, and the state of a token learner.

In a `Batch`, T runs over prompt and response: `obs` at t is token t and its position, `action` at t is token t + 1, and
the mask is True where that token was the policy's choice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from agents.batch import Batch
from agents.core.returns import last_real_step
from agents.tokens.generation import Generated, Sampling, Stop, is_stop, token_positions
from agents.tokens.turns import onto_own

Params = Any


@flax.struct.dataclass
class TokenState:
    """The state of a token learner. Leaves are `| Any` for the placeholders with which JAX rebuilds pytrees."""

    params: Params
    opt_state: Any
    reference: Params  # parameters of the policy after imitation
    kl_in_reward: Array | Any  # float32 [], the present weight
    key: PRNGKeyArray | Any
    env_steps: Array | Any  # int32 [], every response counted in full length
    tokens: Array | Any  # int32 [], tokens generated


class TokenRollout(NamedTuple):
    """The responses of one iteration."""

    batch: Batch
    correct: Array  # [N] bool, by the verifier
    kl: Array  # [N] KL to the reference over the response, k1, in nats
    loss_mask: Array  # [T, N] bool: the steps of the batch's mask that enter the loss
    sampled: Array  # [T, N] the sampler's own log-probs

    @property
    def loss_batch(self) -> Batch:
        """Returns the batch for `update`. Targets need `batch`: responses left out of the loss count in baselines."""
        return self.batch._replace(mask=self.loss_mask)


def solution_lengths(responses: Int[Array, "N R"], stop: Stop) -> Int[Array, " N"]:
    """Returns lengths of correct responses: up to the stop token, and with it; all of them where there is none."""
    if stop is None:
        return jnp.full(responses.shape[0], responses.shape[1], jnp.int32)
    return jnp.argmax(is_stop(responses, stop), axis=1).astype(jnp.int32) + 1


def response_batch(
    prompts: Int[Array, "N P"],
    responses: Int[Array, "N R"],
    length: Int[Array, " N"],
    rewards: Float[Array, "N R"],
    pad: int,
    own: Bool[Array, "N R"] | None = None,
) -> Batch:
    """Returns sequences as steps [P + R - 1, N]; log-probabilities and values are 0, to be replaced by the learner's.

    Args:
      prompts: `pad` on the left.
      length: tokens of each response; what follows is masked.
      rewards: of each token of the responses.
      own: True for the policy's tokens; None: all are. Others are masked, and what they earn goes to the policy's last
        token before them.
    """
    size = prompts.shape[1]
    real = jnp.arange(responses.shape[1]) < length[:, None]
    tokens, positions = padded_sequences(prompts, responses, length, pad)
    if own is not None:
        rewards = onto_own(jnp.where(real, rewards, 0.0), own)
        real &= own
    mask = align_to_steps(real, size)
    zeros = jnp.zeros(mask.shape)
    last = jnp.arange(mask.shape[0])[:, None] == size - 2 + length
    if own is not None:
        last = last_real_step(mask)
    return Batch(
        obs={"token": tokens[:, :-1].T, "position": positions[:, :-1].T.astype(jnp.int32)},
        action=tokens[:, 1:].T,
        logp=zeros,
        value=zeros,
        next_value=zeros,
        reward=jnp.where(mask, align_to_steps(rewards, size), 0.0),
        terminated=last,
        truncated=jnp.zeros_like(last),
        mask=mask,
    )


def padded_sequences(
    prompts: Int[Array, "N P"],
    responses: Int[Array, "N R"],
    length: Int[Array, " N"],
    pad: int,
) -> tuple[Int[Array, "N L"], Int[Array, "N L"]]:
    """Returns prompts and responses as one sequence of tokens each, L = P + R, and their positions, -1 for padding."""
    real = jnp.arange(responses.shape[1]) < length[:, None]
    positions = token_positions(prompts, pad)
    following = positions[:, -1:] + 1 + jnp.arange(responses.shape[1])
    tokens = jnp.concatenate([prompts, responses], axis=1)
    return tokens, jnp.concatenate([positions, jnp.where(real, following, -1)], axis=1)


def sequences(obs: Any) -> tuple[Int[Array, "N T"], Int[Array, "N T"]]:
    """Returns tokens and positions of a batch's observations as a transformer takes them."""
    return obs["token"].T, obs["position"].T


def choice_at(start: int, obs: Any, sampling: Sampling) -> Bool[Array, "N L V"] | None:
    """Returns the tokens that a truncated sampler could choose from, from step `start` on; None where that is not
    recorded."""
    allowed = obs.get("allowed") if sampling.truncated else None
    return None if allowed is None else jnp.swapaxes(allowed, 0, 1)[:, start:]


def align_to_steps(x: Array, prompt_length: int) -> Array:
    """Returns values of response tokens [N, R, ...] at the steps [P + R - 1, N, ...] at which these were chosen."""
    steps = jnp.swapaxes(x, 0, 1)
    return jnp.pad(steps, ((prompt_length - 1, 0), *[(0, 0)] * (x.ndim - 1)))


def ends_with_stop(generated: Generated, stop: Stop) -> Bool[Array, " N"]:
    """Returns True for responses whose last token is `stop`; for all of them where no token ends a response."""
    if stop is None:
        return jnp.ones(generated.length.shape, bool)
    last = jnp.take_along_axis(generated.tokens, generated.length[:, None] - 1, axis=1)[:, 0]
    return is_stop(last, stop)


def at_last_token(
    score: Float[Array, " N"], length: Int[Array, " N"], response_length: int
) -> Float[Array, "N R"]:
    """Returns rewards per token: the score at the last token of each response, 0 at all others."""
    last = jnp.arange(response_length) == length[:, None] - 1
    return jnp.where(last, score[:, None], 0.0)
