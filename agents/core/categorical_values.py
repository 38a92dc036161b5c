"""Values as distributions over fixed atoms: the projection of a target, and the loss.

K atoms z_1 .. z_K are equally spaced from -bound to bound. Where p' is the distribution of the next state, the target
is the distribution of r + discount (z_j - bonus) with probability p'_j, brought back to the atoms.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike


def support(bound: float, num_atoms: int) -> Float[Array, " K"]:
    """Returns the atoms. Raises ValueError for fewer than two, or a bound that is not positive."""
    if num_atoms < 2 or bound <= 0:
        raise ValueError(
            f"atoms need a number of at least 2 and a positive bound, got {num_atoms} and {bound}"
        )
    return jnp.linspace(-bound, bound, num_atoms)


def project(
    values: Float[Array, "B K"], probabilities: Float[Array, "B K"], atoms: Float[Array, " K"]
) -> Float[Array, "B K"]:
    """Returns the distribution over `atoms` of a variable that is values[b, j] with probability probabilities[b, j].

    Each value's probability is shared by the two atoms beside it, by nearness, so that the mean stays; values beyond
    the last atoms count as these. m_i = sum_j clip(1 - |clip(values_j) - z_i| / spacing, 0, 1) p_j.
    Bellemare et al. 2017, eq. 7. https://arxiv.org/abs/1707.06887
    """
    last = atoms.shape[0] - 1
    spacing = (atoms[-1] - atoms[0]) / last
    place = jnp.clip((values - atoms[0]) / spacing, 0.0, last)
    below = jnp.minimum(jnp.floor(place).astype(jnp.int32), last - 1)
    upper = place - below

    def one(below, upper, p):
        empty = jnp.zeros(atoms.shape, p.dtype)
        return empty.at[below].add(p * (1.0 - upper)).at[below + 1].add(p * upper)

    return jax.vmap(one)(below, upper, probabilities)


def td_target(
    reward: Float[Array, " B"],
    next_probabilities: Float[Array, "B K"],
    terminated: Bool[Array, " B"],
    discount: Float[Array, " B"] | ScalarLike,
    atoms: Float[Array, " K"],
    bonus: Float[Array, " B"] | ScalarLike = 0.0,
) -> Float[Array, "B K"]:
    """Returns the distribution of r + discount (z - bonus), z by `next_probabilities`; all at r where terminated. No
    gradient.

    `bonus` is SAC's alpha log pi(a'|s').
    """
    bonus = jnp.broadcast_to(bonus, reward.shape)[:, None]
    following = jnp.where(terminated[:, None], 0.0, atoms - bonus)
    values = reward[:, None] + jnp.broadcast_to(discount, reward.shape)[:, None] * following
    return jax.lax.stop_gradient(project(values, next_probabilities, atoms))


def lowest_mean(
    probabilities: Float[Array, "E B K"], atoms: Float[Array, " K"]
) -> Float[Array, "B K"]:
    """Returns for each entry the distribution of the member whose mean is the lowest: clipped double Q-learning."""
    lowest = jnp.argmin(probabilities @ atoms, axis=0)
    return jnp.take_along_axis(probabilities, lowest[None, :, None], axis=0)[0]


def cross_entropy(
    logits: Float[Array, "*batch K"], target: Float[Array, "*batch K"]
) -> Float[Array, "*batch"]:
    """Returns -sum_i target_i log softmax(logits)_i."""
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
