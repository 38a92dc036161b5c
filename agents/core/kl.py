"""KL estimators from samples, and adaptive KL coefficients.

The estimators take log-probs of actions sampled from pi and estimate KL(pi || ref), element by
element. The `kl` methods of `agents.distributions` compute exact divergences.

Use k1 in the reward, and k2 or k3 in the loss: on-policy, the expected gradient of k1 through
`logp` is zero, because E[grad log pi] = 0.

Schulman 2020, "Approximating KL Divergence". http://joschu.net/blog/kl-approx.html
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from agents.core.policy_losses import MAX_LOG_RATIO

# Of an adapted coefficient: beyond these the penalty is nothing, or everything, and further halving or doubling would
# end at 0, which doubling keeps, or at infinity.
COEFFICIENT_RANGE = (1e-6, 1e6)


def k1(logp: Float[Array, "*shape"], ref_logp: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(pi / ref): unbiased, high variance, of either sign."""
    return _log_ratio(logp, ref_logp)


def k2(logp: Float[Array, "*shape"], ref_logp: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(pi / ref)^2 / 2: biased at third order in pi - ref, low variance, never negative.

    On-policy, its expected gradient is exactly that of the KL.
    """
    return 0.5 * jnp.square(_log_ratio(logp, ref_logp))


def k3(logp: Float[Array, "*shape"], ref_logp: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """ref / pi - 1 - log(ref / pi): unbiased, low variance, never negative."""
    log_ratio = -_log_ratio(logp, ref_logp)
    # expm1: near ratio 1 the result is the small difference of two nearly equal numbers.
    return jnp.expm1(log_ratio) - log_ratio


def k3_plus(
    logp: Float[Array, "*shape"], ref_logp: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Value of `k3` with the gradient of `k2`: shows an unbiased KL, and on-policy descends the true one.

    veRL's "k3+".
    """
    gradient = k2(logp, ref_logp)
    return gradient + jax.lax.stop_gradient(k3(logp, ref_logp) - gradient)


def weighted_k3(
    logp: Float[Array, "*shape"],
    ref_logp: Float[Array, "*shape"],
    old_logp: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """pi / pi_old times `k3`, for samples of pi_old: unbiased in value and, with the ratio's gradient, in gradient too.

    grad E_old[ratio k3] = E_pi[(k3 + 1 - ref / pi) grad log pi] = E_pi[log(pi / ref) grad log pi] = grad KL(pi || ref).
    DeepSeek-AI 2025, "DeepSeek-V3.2", sec. 3.1. https://arxiv.org/abs/2512.02556
    """
    return jnp.exp(_log_ratio(logp, old_logp)) * k3(logp, ref_logp)


def adaptive_coefficient_proportional(
    beta: ScalarLike, kl: ScalarLike, target: ScalarLike, n: ScalarLike, horizon: ScalarLike
) -> Float[Array, ""]:
    """Returns beta (1 + clip(kl / target - 1, -0.2, 0.2) n / horizon).

    `kl` and `target` are the same statistic, which the caller chooses (Ziegler: the sum over the
    tokens of a response, averaged over responses). `n` is the number of episodes since the last call;
    over `horizon` episodes beta changes by about 20% at most.
    Ziegler et al. 2019, sec. 2.2. https://arxiv.org/abs/1909.08593
    """
    error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
    return jnp.asarray(beta * (1.0 + error * n / horizon))


def adaptive_coefficient_double_halve(
    beta: ScalarLike, kl: ScalarLike, target: ScalarLike
) -> Float[Array, ""]:
    """beta / 2 if kl < target / 1.5; 2 beta if kl > 1.5 target; else beta; within COEFFICIENT_RANGE.

    Schulman et al. 2017, sec. 4; `kl` there is the mean over steps.
    https://arxiv.org/abs/1707.06347
    """
    beta, kl = jnp.asarray(beta, float), jnp.asarray(kl)
    beta = jnp.where(kl < target / 1.5, beta / 2, jnp.where(kl > 1.5 * target, 2 * beta, beta))
    return jnp.clip(beta, *COEFFICIENT_RANGE)


def _log_ratio(logp, ref_logp):
    return jnp.clip(logp - ref_logp, -MAX_LOG_RATIO, MAX_LOG_RATIO)
