"""Rewards made of rewards: an ensemble, and a weighted sum.

Coste et al. 2023, "Reward model ensembles help mitigate overoptimization". https://arxiv.org/abs/2310.02743
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from agents.settings import require
from agents.tokens.reward import Reward

Agreement = Literal["min", "mean-variance"]


def ensemble(
    members: Sequence[Reward], how: Agreement = "min", variance_weight: float = 0.5
) -> Reward:
    """Returns the reward that several agree on, one score of each response.

    Args:
      how: min: the least of the members' scores (worst-case optimisation); mean-variance: their mean less
        `variance_weight` times their variance (uncertainty-weighted optimisation).

    Raises ValueError for fewer than two members.
    """
    require(len(members) >= 2, f"an ensemble has at least two members, got {len(members)}")
    scores = [member.score for member in members]

    def score(
        params: tuple[Any, ...],
        prompts: Int[Array, "N P"],
        responses: Int[Array, "N R"],
        lengths: Int[Array, " N"],
    ) -> Float[Array, " N"]:
        each = jnp.stack(
            [
                jnp.sum(Reward(f, p).of_tokens(prompts, responses, lengths), axis=1)
                for f, p in zip(scores, params, strict=True)
            ]
        )
        if how == "min":
            return jnp.min(each, axis=0)
        return jnp.mean(each, axis=0) - variance_weight * jnp.var(each, axis=0)

    return Reward(score, tuple(member.params for member in members))


def weighted_sum(terms: Sequence[tuple[float, Reward]]) -> Reward:
    """Returns the sum of rewards, each times its weight, token by token. Raises ValueError for no term."""
    require(len(terms) >= 1, "a sum of rewards has at least one term")
    weights, scores = [w for w, _ in terms], [reward.score for _, reward in terms]

    def score(
        params: tuple[Any, ...],
        prompts: Int[Array, "N P"],
        responses: Int[Array, "N R"],
        lengths: Int[Array, " N"],
    ) -> Float[Array, "N R"]:
        each = [
            w * Reward(f, p).of_tokens(prompts, responses, lengths)
            for w, f, p in zip(weights, scores, params, strict=True)
        ]
        return jnp.sum(jnp.stack(each), axis=0)

    return Reward(score, tuple(reward.params for _, reward in terms))


def verifier_reward(env: Any) -> Reward:
    """Returns the task's own reward as a term of a sum: that of each token by `env.score`."""

    def score(
        params: None,
        prompts: Int[Array, "N P"],
        responses: Int[Array, "N R"],
        lengths: Int[Array, " N"],
    ) -> Float[Array, "N R"]:
        return env.score(prompts, responses, lengths)[0].astype(jnp.float32)

    return Reward(score)
