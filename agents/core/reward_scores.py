"""Scores of responses: read from a reward model, put together from steps, charged for length, and the best of n."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from agents.core.returns import last_real_step

StepAggregation = Literal["last", "min", "product", "mean"]


def last_token_score(score: Float[Array, "T N"], mask: Bool[Array, "T N"]) -> Float[Array, " N"]:
    """Score at each sequence's last unmasked token, its reward; 0 for a wholly masked sequence.

    The mask, not a token's id, says where a sequence ends: padding on either side changes nothing.
    Ouyang et al. 2022, sec. 3.5. https://arxiv.org/abs/2203.02155
    """
    return jnp.sum(jnp.where(last_real_step(mask), score, 0.0), axis=0)


def standardised_score(
    score: Float[Array, "*shape"], mean: ScalarLike, std: ScalarLike, limit: float = 10.0
) -> Float[Array, "*shape"]:
    """(score - mean) / std, clipped to +-limit; mean and std are those of the initial policy's samples."""
    return jnp.clip((score - mean) / jnp.maximum(std, 1e-8), -limit, limit)


def step_score(
    score: Float[Array, "T N"], mask: Bool[Array, "T N"], how: StepAggregation
) -> Float[Array, " N"]:
    """Score of a whole solution from those of its steps, which are probabilities of being right.

    `mask` marks the tokens that end a step. A solution without steps scores 0. The product favours short solutions,
    the minimum withstands filler, the mean is raised by it.
    Lightman et al. 2023, appendix F (product, minimum). https://arxiv.org/abs/2305.20050
    """
    if how == "last":
        return last_token_score(score, mask)
    if how == "min":
        total = jnp.min(jnp.where(mask, score, jnp.inf), axis=0)
    elif how == "product":
        total = jnp.prod(jnp.where(mask, score, 1.0), axis=0)
    elif how == "mean":
        total = jnp.sum(jnp.where(mask, score, 0.0), axis=0) / jnp.maximum(jnp.sum(mask, axis=0), 1)
    else:
        raise ValueError(f"unknown aggregation of steps {how!r}")
    return jnp.where(jnp.any(mask, axis=0), total, 0.0)


def step_loss(
    logit: Float[Array, "*shape"], right: Bool[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Cross-entropy of a process reward model, whose logit says whether a step is right; read at the step's last token.

    Lightman et al. 2023, sec. 2.6. https://arxiv.org/abs/2305.20050
    """
    return -jax.nn.log_sigmoid(jnp.where(right, logit, -logit))


def soft_overlong_penalty(
    length: Int[Array, "*shape"], limit: ScalarLike, buffer: ScalarLike
) -> Float[Array, "*shape"]:
    """0 up to `limit - buffer` tokens, falls linearly to -1 at `limit`, and stays there; to be added to the reward.

    DAPO, Yu et al. 2025, eq. 13. https://arxiv.org/abs/2503.14476
    """
    return jnp.clip((jnp.asarray(limit) - buffer - length) / jnp.asarray(buffer), -1.0, 0.0)


def best_of_n(
    proxy: Float[Array, "N P"], gold: Float[Array, "N P"], n: Int[Array, " K"] | None = None
) -> Float[Array, "K P"]:
    """Expected gold score of the best of n samples by proxy, from N samples of P prompts.

    sum_i C(i - 1, n - 1) / C(N, n) gold_(i), gold_(i) of the sample with the i-th smallest proxy: the mean over all
    subsets of n samples, an unbiased estimate. `best_of_n(proxy, proxy)` is the proxy's own. Of equal proxies the later
    sample wins. Nakano et al. 2021, appendix I. https://arxiv.org/abs/2112.09332

    Args:
      n: the numbers of samples, a row of the result for each; None: 1, 2, ... N.
    """
    order = jnp.argsort(proxy, axis=0)
    return best_of_n_weights(proxy.shape[0], n) @ jnp.take_along_axis(gold, order, axis=0)


def best_of_n_weights(samples: int, n: Int[Array, " K"] | None = None) -> Float[Array, "K N"]:
    """C(i - 1, n - 1) / C(N, n) in the row of n, column i - 1: how likely the i-th smallest of N is the largest of n.

    No factorial is formed: from n / N at i = N downwards, w_(i-1) = w_i (i - n) / (i - 1), whose factors are within
    [0, 1]. `n` as of `best_of_n`.
    """
    n = (jnp.arange(1, samples + 1) if n is None else n)[:, None]
    i = jnp.arange(samples, 1, -1)[None, :]
    factors = jnp.maximum(i - n, 0) / (i - 1)
    downwards = jnp.concatenate([n / samples, factors], axis=1)
    return jnp.cumprod(downwards, axis=1)[:, ::-1]


def best_of_n_kl(n: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log n - (n - 1) / n, in nats: KL(best of n || policy) where no two samples tie; an upper bound otherwise.

    Stiennon et al. 2020, appendix G.3, https://arxiv.org/abs/2009.01325; the bound: Beirami et al. 2024,
    https://arxiv.org/abs/2401.01879
    """
    return jnp.log(n) - (n - 1) / n
