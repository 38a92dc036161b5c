"""The reward that a token learner learns from: the task's verifier, or a value that takes its place.

    TokenGRPO(config, env)                                 # learns from the verifier, `env.score`
    TokenGRPO(config, env, reward=Reward(score, params))   # learns from `score`; the verifier is logged beside it

A reward is a value: a pure function and its parameters. A Bradley-Terry model scores responses, a process reward model
tokens; an ensemble and a weighted sum are functions of other rewards.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from agents.tokens.generation import Generated
from agents.tokens.rollout import at_last_token

Params = Any


@runtime_checkable
class Score(Protocol):
    """Scores responses. Pure, jittable, and without effect on what follows `lengths` tokens.

    Args:
      params: the reward's parameters, never changed by the policy's learner.
      prompts: int32 [N, P], padding on the left.
      responses: int32 [N, R], padding on the right.
      lengths: int32 [N], tokens of each response, the stop token included.

    Returns:
      One score of each response, float [N], paid at its last token; or the reward of each token, float [N, R].
    """

    def __call__(
        self,
        params: Params,
        prompts: Int[Array, "N P"],
        responses: Int[Array, "N R"],
        lengths: Int[Array, " N"],
    ) -> Float[Array, " N"] | Float[Array, "N R"]: ...


class Reward(NamedTuple):
    """A score and its parameters."""

    score: Score
    params: Params = None

    def of_tokens(
        self,
        prompts: Int[Array, "N P"],
        responses: Int[Array, "N R"],
        lengths: Int[Array, " N"],
    ) -> Float[Array, "N R"]:
        """Returns the reward of each token, float32; 0 after the end of a response.

        Raises ValueError if the score has a shape other than [N] or [N, R].
        """
        score = self.score(self.params, prompts, responses, lengths)
        score = jnp.asarray(score).astype(jnp.float32)
        if score.shape == responses.shape:
            written = jnp.arange(responses.shape[1]) < lengths[:, None]
            return jnp.where(written, score, 0.0)
        if score.shape == lengths.shape:
            return at_last_token(score, lengths, responses.shape[1])
        raise ValueError(
            f"a reward must score responses {lengths.shape} or their tokens {responses.shape}, got {score.shape}"
        )


def training_rewards(
    reward: Reward | None,
    prompts: Int[Array, "N P"],
    generated: Generated,
    verified: Float[Array, "N R"],
    broken: Bool[Array, " N"],
) -> tuple[Float[Array, "N R"], Bool[Array, " N"], dict[str, Array]]:
    """Returns the rewards of tokens that are learnt from, True where a reward is not finite, and metrics.

    Args:
      reward: None: the verifier's rewards are learnt from, and there is no further metric.
      verified, broken: the verifier's rewards, and True where these are not finite.
    """
    if reward is None:
        return verified, broken, {}
    rewards, nonfinite = without_nonfinite(
        reward.of_tokens(prompts, generated.tokens, generated.length)
    )
    return rewards, broken | nonfinite, {"train/reward": jnp.mean(jnp.sum(rewards, axis=1))}


def without_nonfinite(
    rewards: Float[Array, "N R"],
) -> tuple[Float[Array, "N R"], Bool[Array, " N"]]:
    """Returns the rewards, 0 for responses that have one that is not finite, and True for each such response.

    One such reward would spoil the gradient of all responses.
    """
    broken = ~jnp.all(jnp.isfinite(rewards), axis=1)
    return jnp.where(broken[:, None], 0.0, rewards), broken
