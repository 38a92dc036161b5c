"""Policy losses, element by element, and how to add them up.

Losses are to be minimised (a surrogate objective with its sign turned). They have the shape of
their arguments; `aggregate` takes out the masked entries and reduces `[T, N]` to a number.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

# exp(20) = 5e8: far outside any clip range, and far from overflow in float32.
MAX_LOG_RATIO = 20.0

Aggregation = Literal["token-mean", "seq-mean-token-mean", "token-sum-constant"]


def importance_ratio(
    logp: Float[Array, "*shape"], old_logp: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """pi(a|s) / pi_old(a|s), with the log-ratio clamped to +-20 (no gradient beyond).

    The r_t of PPO, Schulman et al. 2017, sec. 3. https://arxiv.org/abs/1707.06347
    """
    return jnp.exp(jnp.clip(logp - old_logp, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def policy_gradient_loss(
    logp: Float[Array, "*shape"], advantage: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """-A log pi(a|s), whose gradient is the policy gradient.

    Williams 1992. https://doi.org/10.1007/BF00992696
    """
    return -advantage * logp


def clipped_surrogate(
    ratio: Float[Array, "*shape"],
    advantage: Float[Array, "*shape"],
    clip_low: ScalarLike,
    clip_high: ScalarLike,
) -> Float[Array, "*shape"]:
    """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A).

    PPO, Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347; with clip_high > clip_low,
    the "clip-higher" of DAPO, Yu et al. 2025, eq. 10, https://arxiv.org/abs/2503.14476
    """
    clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    return -jnp.minimum(ratio * advantage, clipped * advantage)


def aggregate(
    loss: Float[Array, "T N"],
    mask: Bool[Array, "T N"] | None,
    how: Aggregation,
    constant: ScalarLike | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum and denominator of a loss over sequences; one column is one sequence.

    With L_n unmasked tokens in sequence n, and B sequences that have at least one:

    - "token-mean":           sum_n sum_t loss            over  sum_n L_n      (DAPO, PPO)
    - "seq-mean-token-mean":  sum_n (1/L_n) sum_t loss    over  B              (GRPO)
    - "token-sum-constant":   sum_n sum_t loss            over  constant * B   (Dr. GRPO)

    `constant` is a length, such as the longest response allowed; the other two ignore it. Every
    denominator is a sum over sequences, so for micro-batches (which split N): add the sums, add
    the denominators, divide once, and the split does not show. Neither does padding, be it steps
    or whole sequences. An empty batch gives (0, 0): divide by max(denominator, 1).

    A masked loss may be NaN and gets gradient 0, but keep log-probs finite there all the same: 0
    times the infinite slope of what lies behind would be NaN again.

    Shao et al. 2024, eq. 3, https://arxiv.org/abs/2402.03300
    Yu et al. 2025, eq. 12, https://arxiv.org/abs/2503.14476
    Liu et al. 2025, sec. 3, https://arxiv.org/abs/2503.20783
    """
    mask = jnp.ones(loss.shape, bool) if mask is None else mask
    loss = jnp.where(mask, loss, 0.0)
    per_sequence = jnp.sum(loss, axis=0)
    length = jnp.sum(mask, axis=0).astype(loss.dtype)
    sequences = jnp.sum(length > 0).astype(loss.dtype)
    if how == "token-mean":
        return jnp.sum(loss), jnp.sum(length)
    if how == "seq-mean-token-mean":
        return jnp.sum(per_sequence / jnp.maximum(length, 1.0)), sequences
    if how == "token-sum-constant":
        if constant is None:
            raise ValueError("'token-sum-constant' needs `constant`, the length to divide by")
        return jnp.sum(per_sequence), jnp.asarray(constant) * sequences
    raise ValueError(f"unknown aggregation {how!r}")
