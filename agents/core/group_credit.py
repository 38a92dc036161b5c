"""Advantages of single steps, relative to a group of episodes from the same start.

Arrays are time-major [T, N], groups contiguous in N. Steps where `mask` is False are ignored, whatever they hold, and
have an advantage of 0: an episode that is over is masked from its end on. `agents.core.returns.group_advantages` is
their sibling for whole episodes.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

from agents.core import returns


def group_step_advantages(
    reward: Float[Array, "T N"],
    mask: Bool[Array, "T N"],
    group_size: int,
    discount: ScalarLike = 1.0,
    *,
    scale: bool = True,
) -> tuple[Float[Array, "T N"], Float[Array, ""]]:
    """Group-relative advantage of every step, and the share of groups without any difference.

    G_{i,t} = sum_{k >= t} discount^(k-t) r_{i,k} is compared with those of the group at the same row t:

        A_{i,t} = (G_{i,t} - mean_j G_{j,t}) / (std + 1e-4)

    The mean is over the members whose step t is unmasked: a member that has ended is no measure for those that go on,
    and the last one left has nobody to be compared with and gets 0. The std (ddof 1; left out with `scale=False`) is
    that of all G_{i,t} - mean_j G_{j,t} of the group, not of one row, where late rows have few members. Nothing is
    bootstrapped: a return ends with the last unmasked step. Groups are contiguous in N.

    A baseline that depends on t, from other samples of the same start: Greensmith et al. 2004, sec. 4,
    https://www.jmlr.org/papers/v5/greensmith04a.html, in GRPO's form (Shao et al. 2024, https://arxiv.org/abs/2402.03300).
    """
    to_go = _grouped(_to_go(reward, discount, mask), group_size)
    members = _grouped(mask, group_size)
    count = jnp.sum(members, axis=2, keepdims=True)
    mean = jnp.sum(jnp.where(members, to_go, 0.0), axis=2, keepdims=True) / jnp.maximum(count, 1)
    # Equal returns are compared as they are: their mean can be off by a rounding error.
    highest = jnp.max(jnp.where(members, to_go, -jnp.inf), axis=2, keepdims=True)
    lowest = jnp.min(jnp.where(members, to_go, jnp.inf), axis=2, keepdims=True)
    centred = jnp.where(members & (highest > lowest), to_go - mean, 0.0)
    if scale:
        squares = jnp.sum(jnp.square(centred), axis=(0, 2), keepdims=True)
        steps = jnp.sum(count, axis=(0, 2), keepdims=True)
        centred = centred / (jnp.sqrt(squares / jnp.maximum(steps - 1, 1)) + 1e-4)
    no_spread = jnp.all(centred == 0.0, axis=(0, 2))
    return centred.reshape(reward.shape), jnp.mean(no_spread, dtype=reward.dtype)


def group_process_advantages(
    reward: Float[Array, "T N"],
    rewarded: Bool[Array, "T N"],
    mask: Bool[Array, "T N"],
    group_size: int,
    discount: ScalarLike = 1.0,
    *,
    scale: bool = True,
) -> tuple[Float[Array, "T N"], Float[Array, ""]]:
    """Advantages of GRPO's process supervision, and the share of groups whose rewards are all equal.

        r~ = (r - mean(R)) / (std(R) + 1e-4),    A_{i,t} = sum_{k >= t} discount^(k-t) r~_{i,k}

    where R are all rewards of the group, those of its steps with `rewarded` (and unmasked): the ends of reasoning
    steps, or every step. Rewards elsewhere count as absent. Without the discount, and where each column has one reward,
    at its last unmasked step, this is `returns.group_advantages` of that reward. std has ddof 1 and is left out with
    `scale=False`; groups are contiguous in N. Shao et al. 2024, sec. 4.1.3, https://arxiv.org/abs/2402.03300
    """
    given = _grouped(rewarded & mask, group_size)
    rewards = jnp.where(given, _grouped(reward, group_size), 0.0)
    count = jnp.sum(given, axis=(0, 2), keepdims=True)
    mean = jnp.sum(rewards, axis=(0, 2), keepdims=True) / jnp.maximum(count, 1)
    centred = jnp.where(given, rewards - mean, 0.0)
    if scale:
        squares = jnp.sum(jnp.square(centred), axis=(0, 2), keepdims=True)
        centred = centred / (jnp.sqrt(squares / jnp.maximum(count - 1, 1)) + 1e-4)
    highest = jnp.max(jnp.where(given, rewards, -jnp.inf), axis=(0, 2), keepdims=True)
    lowest = jnp.min(jnp.where(given, rewards, jnp.inf), axis=(0, 2), keepdims=True)
    no_spread = ~(highest > lowest)
    centred = jnp.where(no_spread, 0.0, centred).reshape(reward.shape)
    return _to_go(centred, discount, mask), jnp.mean(no_spread, dtype=reward.dtype)


def _grouped(x, group_size):
    """[T, N] as [T, groups, group_size]."""
    if group_size < 1 or x.shape[1] % group_size:
        raise ValueError(f"{x.shape[1]} columns do not divide into groups of {group_size}")
    return x.reshape(x.shape[0], -1, group_size)


def _to_go(reward, discount, mask):
    """sum_{k >= t} discount^(k-t) r_k over unmasked steps; 0 where masked."""
    never = jnp.zeros(mask.shape, bool)
    return returns.discounted_returns(reward, jnp.zeros_like(reward), never, never, discount, mask)
