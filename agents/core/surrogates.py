"""Surrogate losses of the GRPO family, and the correction for a sampler that is not the old policy.

A surrogate takes `(logp, old_logp, advantage, mask)`, all `[T, N]`, one column a sequence, and returns the loss of each
token, to be minimised; `policy_losses.aggregate` makes a number of it. Settings are keywords: `functools.partial` binds
them. Masked entries give 0 in value and gradient, whatever they hold.

| surrogate        | ratio               | a clipped token    | aggregation of its paper       |
|------------------|---------------------|--------------------|--------------------------------|
| `unclipped`      | per token           | (none is)          | "token-mean" (TRPO, A2C)       |
| `clip`           | per token           | has no gradient    | "token-mean" (DAPO)            |
| `gspo`           | per sequence        | as its sequence    | "seq-mean-token-mean"          |
| `gspo_token`     | per sequence        | as its sequence    | "seq-mean-token-mean"          |
| `cispo`          | per token, constant | keeps its gradient | "token-mean"                   |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

from agents.core.policy_losses import MAX_LOG_RATIO, clipped_surrogate, importance_ratio
from agents.core.returns import masked_mean


class ImportanceMetrics(NamedTuple):
    """Distance between the sampler and the old policy, over the unmasked tokens; 0 if there are none."""

    mean: Array  # []  of the weight before truncation; 1 in expectation if the sampler covers the policy
    max: Array  # []  of the weight before truncation
    effective_sample_size: (
        Array  # []  (sum w)^2 / sum w^2 of the truncated weights, as a share of the tokens
    )
    share_cut: Array  # []  tokens whose weight was truncated


def unclipped(
    logp: Float[Array, "T N"],
    old_logp: Float[Array, "T N"],
    advantage: Float[Array, "T N"],
    mask: Bool[Array, "T N"],
) -> Float[Array, "T N"]:
    """-ratio A: the policy gradient of data from pi_old, for policies that something else keeps close.

    The "CPI" objective of Schulman et al. 2017, eq. 6. https://arxiv.org/abs/1707.06347
    """
    logp, old_logp, advantage = _unmasked(mask, logp, old_logp, advantage)
    return -importance_ratio(logp, old_logp) * advantage


def clip(
    logp: Float[Array, "T N"],
    old_logp: Float[Array, "T N"],
    advantage: Float[Array, "T N"],
    mask: Bool[Array, "T N"],
    *,
    clip_low: ScalarLike = 0.2,
    clip_high: ScalarLike = 0.28,
    dual_clip: ScalarLike | None = None,
) -> Float[Array, "T N"]:
    """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), at most -dual_clip A where A < 0.

    Without the dual clip (None) the loss of a negative advantage grows with the ratio without bound; 3 is its usual
    value, and it must exceed 1 + clip_high. Entries beyond either clip have no gradient.
    DAPO, Yu et al. 2025, eq. 10, https://arxiv.org/abs/2503.14476; the dual clip: Ye et al. 2020,
    https://arxiv.org/abs/1912.09729
    """
    logp, old_logp, advantage = _unmasked(mask, logp, old_logp, advantage)
    loss = clipped_surrogate(importance_ratio(logp, old_logp), advantage, clip_low, clip_high)
    if dual_clip is not None:
        bounded = jnp.minimum(loss, -advantage * jnp.asarray(dual_clip))
        loss = jnp.where(advantage < 0, bounded, loss)
    return jnp.where(mask, loss, 0.0)


def gspo(
    logp: Float[Array, "T N"],
    old_logp: Float[Array, "T N"],
    advantage: Float[Array, "T N"],
    mask: Bool[Array, "T N"],
    *,
    clip_low: ScalarLike = 3e-4,
    clip_high: ScalarLike = 4e-4,
) -> Float[Array, "T N"]:
    """-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s the ratio of the whole sequence: `sequence_ratio`.

    Every token of a sequence carries the sequence's loss, so that "seq-mean-token-mean" is the mean over sequences of
    the paper. The advantage is meant to be the same along a sequence; `gspo_token` also serves others.
    GSPO, Zheng et al. 2025, eqs. 5 to 7. https://arxiv.org/abs/2507.18071
    """
    logp, old_logp, advantage = _unmasked(mask, logp, old_logp, advantage)
    ratio = jnp.broadcast_to(sequence_ratio(logp, old_logp, mask), logp.shape)
    return jnp.where(mask, clipped_surrogate(ratio, advantage, clip_low, clip_high), 0.0)


def gspo_token(
    logp: Float[Array, "T N"],
    old_logp: Float[Array, "T N"],
    advantage: Float[Array, "T N"],
    mask: Bool[Array, "T N"],
    *,
    clip_low: ScalarLike = 3e-4,
    clip_high: ScalarLike = 4e-4,
) -> Float[Array, "T N"]:
    """`gspo` with the gradient of each token through that token alone: s_t = sg(s) pi / sg(pi).

    For an advantage that is the same along the sequence, value and gradient equal those of `gspo` under
    "seq-mean-token-mean". GSPO-token, Zheng et al. 2025, eqs. 13 and 14. https://arxiv.org/abs/2507.18071
    """
    logp, old_logp, advantage = _unmasked(mask, logp, old_logp, advantage)
    sequence = jax.lax.stop_gradient(sequence_ratio(logp, old_logp, mask))
    ratio = sequence * jnp.exp(logp - jax.lax.stop_gradient(logp))
    return jnp.where(mask, clipped_surrogate(ratio, advantage, clip_low, clip_high), 0.0)


def sequence_ratio(
    logp: Float[Array, "T N"], old_logp: Float[Array, "T N"], mask: Bool[Array, "T N"]
) -> Float[Array, " N"]:
    """(pi(y|x) / pi_old(y|x))^(1 / |y|), |y| the number of unmasked tokens; 1 for a wholly masked sequence.

    The mean log-ratio is clamped to +-20, the token's is not: a wild token may cancel another.
    GSPO, Zheng et al. 2025, eq. 7. https://arxiv.org/abs/2507.18071
    """
    logp, old_logp = _unmasked(mask, logp, old_logp)
    log_ratio = jnp.sum(logp - old_logp, axis=0) / jnp.maximum(jnp.sum(mask, axis=0), 1)
    return jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def cispo(
    logp: Float[Array, "T N"],
    old_logp: Float[Array, "T N"],
    advantage: Float[Array, "T N"],
    mask: Bool[Array, "T N"],
    *,
    clip_low: ScalarLike = 0.2,
    clip_high: ScalarLike = 0.28,
) -> Float[Array, "T N"]:
    """-sg(clip(ratio, 1 - clip_low, 1 + clip_high)) A log pi: a clipped token still has a gradient.

    The paper tunes `clip_high` alone; `clip_low` = 1 leaves the lower side open. TRL's upper bound is 1 + clip_high.
    CISPO, MiniMax 2025, eqs. 4 and 5. https://arxiv.org/abs/2506.13585
    """
    logp, old_logp, advantage = _unmasked(mask, logp, old_logp, advantage)
    ratio = jax.lax.stop_gradient(importance_ratio(logp, old_logp))
    loss = -jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high) * advantage * logp
    return jnp.where(mask, loss, 0.0)


def truncated_importance_weight(
    old_logp: Float[Array, "T N"],
    sampler_logp: Float[Array, "T N"],
    mask: Bool[Array, "T N"],
    bound: ScalarLike = 2.0,
) -> tuple[Float[Array, "T N"], ImportanceMetrics]:
    """min(pi_old / sampler, bound), without gradient, 0 where masked; and how far the two are apart.

    The weight multiplies the policy loss of each token. It corrects for a sampler that computes other log-probs than
    the learner (another precision, another program, older parameters); `old_logp` is the learner's own, of the
    parameters at the beginning of the update.
    Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".
    https://fengyao.notion.site/off-policy-rl
    """
    old_logp, sampler_logp = jax.lax.stop_gradient(_unmasked(mask, old_logp, sampler_logp))
    ratio = importance_ratio(old_logp, sampler_logp)
    weight = jnp.where(mask, jnp.minimum(ratio, jnp.asarray(bound, ratio.dtype)), 0.0)
    squares = jnp.sum(jnp.square(weight)) * jnp.maximum(jnp.sum(mask), 1)
    return weight, ImportanceMetrics(
        mean=masked_mean(ratio, mask),
        max=jnp.max(jnp.where(mask, ratio, 0.0)),
        effective_sample_size=jnp.square(jnp.sum(weight)) / jnp.where(squares > 0, squares, 1.0),
        share_cut=masked_mean((ratio > bound).astype(ratio.dtype), mask),
    )


def _unmasked(mask, *arrays):
    """Zeros in place of masked entries: a NaN there would reach the gradient through a later `where`."""
    return tuple(jnp.where(mask, x, 0.0) for x in arrays)
