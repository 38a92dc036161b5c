"""Value targets and losses, element by element; masks and means are the caller's.

The targets stop the gradient. The losses do not: pass data as `target`. `discount` is gamma, or an
array: with an n-step reward and gamma^n, and the values of the state n steps on, every target here is
the n-step one (Sutton & Barto 2018, eq. 7.1), as `agents.replay` samples it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

from agents.core.returns import masked_mean, masked_std


def squared_error(
    value: Float[Array, "*shape"], target: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """(value - target)^2 / 2."""
    return 0.5 * jnp.square(value - target)


def huber(
    value: Float[Array, "*shape"], target: Float[Array, "*shape"], delta: ScalarLike = 1.0
) -> Float[Array, "*shape"]:
    """e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2), with e = value - target.

    Huber 1964; as the clipped TD error of DQN, Mnih et al. 2015.
    https://doi.org/10.1038/nature14236
    """
    error = jnp.abs(value - target)
    quadratic = jnp.minimum(error, delta)
    return 0.5 * jnp.square(quadratic) + delta * (error - quadratic)


def clipped_value_loss(
    value: Float[Array, "*shape"],
    old_value: Float[Array, "*shape"],
    target: Float[Array, "*shape"],
    clip: ScalarLike | None,
) -> Float[Array, "*shape"]:
    """max((v - target)^2, (v_clip - target)^2) / 2, v_clip = old + clip(v - old, -clip, clip); None: no clip.

    Not in the PPO paper but in its code; Huang et al. 2022, detail 9.
    https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/
    """
    if clip is None:
        return squared_error(value, target)
    clip = jnp.asarray(clip)
    clipped = old_value + jnp.clip(value - old_value, -clip, clip)
    return jnp.maximum(squared_error(value, target), squared_error(clipped, target))


def td_target(
    reward: Float[Array, "*shape"],
    next_value: Float[Array, "*shape"],
    terminated: Bool[Array, "*shape"],
    discount: Float[Array, "*shape"] | ScalarLike,
) -> Float[Array, "*shape"]:
    """r + discount V(s'), or r where the episode terminated. No gradient.

    A truncated step bootstraps like any other. Sutton & Barto 2018, eq. 6.2.
    http://incompleteideas.net/book/the-book-2nd.html
    """
    return jax.lax.stop_gradient(reward + discount * jnp.where(terminated, 0.0, next_value))


def double_q_target(
    reward: Float[Array, "*shape"],
    next_q_online: Float[Array, "*shape A"],
    next_q_target: Float[Array, "*shape A"],
    terminated: Bool[Array, "*shape"],
    discount: Float[Array, "*shape"] | ScalarLike,
) -> Float[Array, "*shape"]:
    """r + discount Q_target(s', argmax_a Q_online(s', a)), or r where terminated. No gradient.

    van Hasselt et al. 2016, the equation of "Double DQN". https://arxiv.org/abs/1509.06461
    """
    best = jnp.argmax(next_q_online, axis=-1, keepdims=True)
    next_value = jnp.take_along_axis(next_q_target, best, axis=-1).squeeze(-1)
    return td_target(reward, next_value, terminated, discount)


def clipped_double_q_target(
    reward: Float[Array, "*shape"],
    next_q: Float[Array, " K *shape"],
    terminated: Bool[Array, "*shape"],
    discount: Float[Array, "*shape"] | ScalarLike,
) -> Float[Array, "*shape"]:
    """r + discount min_k Q_k(s', a'), or r where terminated. No gradient.

    TD3's target for a' the target policy's action plus clipped noise, from its K = 2 critics.
    Fujimoto et al. 2018, eq. 10. https://arxiv.org/abs/1802.09477
    """
    return td_target(reward, jnp.min(next_q, axis=0), terminated, discount)


def soft_q_target(
    reward: Float[Array, "*shape"],
    next_q: Float[Array, " K *shape"],
    next_logp: Float[Array, "*shape"],
    terminated: Bool[Array, "*shape"],
    discount: Float[Array, "*shape"] | ScalarLike,
    temperature: ScalarLike,
) -> Float[Array, "*shape"]:
    """r + discount (min_k Q_k(s', a') - temperature log pi(a'|s')), or r where terminated. No gradient.

    SAC's target, a' ~ pi(.|s'). Haarnoja et al. 2018, eqs. 3 and 5, with the smaller of two critics of
    its sec. 5. https://arxiv.org/abs/1812.05905
    """
    next_value = jnp.min(next_q, axis=0) - temperature * next_logp
    return td_target(reward, next_value, terminated, discount)


def explained_variance(
    value: Float[Array, "*shape"],
    target: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"] | None = None,
) -> Float[Array, ""]:
    """1 - Var(target - value) / Var(target) over the unmasked entries; 0 for constant targets."""
    total = masked_std(target, mask)
    residual = masked_std(target - value, mask)
    # Equal targets have a spread of a few rounding errors of their size; treat it as none.
    constant = total <= 1e-6 * jnp.sqrt(masked_mean(jnp.square(target), mask))
    return jnp.where(constant, 0.0, 1.0 - jnp.square(residual / jnp.where(constant, 1.0, total)))
