"""Groups of episodes from the same start, to be compared with one another. A group is contiguous in N."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from agents.batch import Batch, Targets
from agents.core import across, group_credit, returns
from envs.base import Env, Running, reset

Credit = Literal["episode", "reward-to-go", "process"]


def group_starts(env: Env, key: PRNGKeyArray, num_envs: int, group_size: int) -> Running:
    """Starts of `num_envs` episodes, leaves [N, ...]: those of a group are the same state."""
    keys = jax.random.split(key, num_envs // group_size)
    running, _ = jax.vmap(lambda k: reset(env, k))(keys)
    group = jnp.arange(num_envs) // group_size
    return jax.tree.map(lambda x: x[group], running)


def group_targets(
    batch: Batch,
    group_size: int,
    discount: float = 1.0,
    *,
    scale: bool = True,
    credit: Credit = "episode",
) -> tuple[Targets, dict[str, Array]]:
    """Returns the advantages relative to the group, and `frac_zero_std`.

    `frac_zero_std` is the share of groups with equal returns, whose advantages are 0.

    Args:
      batch: leaves [T, N, ...]; groups are contiguous in N and complete.
      credit: "episode": the return of the whole episode, at all of its steps (`returns.group_advantages`);
        "reward-to-go": the return from each step on, relative to the group's at that step
        (`group_credit.group_step_advantages`); "process": rewards relative to all of the group's, summed from each step
        on (`group_credit.group_process_advantages`); every unmasked step has a reward, 0 where it earned nothing.
    """
    reward, mask = batch.reward, batch.mask
    if credit == "episode":
        scores = episode_returns(reward, mask, discount)
        advantage, no_spread = returns.group_advantages(scores, group_size, scale=scale)
        advantage = jnp.where(mask, advantage, 0.0)
    elif credit == "reward-to-go":
        advantage, no_spread = group_credit.group_step_advantages(
            reward, mask, group_size, discount, scale=scale
        )
    else:
        advantage, no_spread = group_credit.group_process_advantages(
            reward, mask, mask, group_size, discount, scale=scale
        )
    return Targets(advantage), {"frac_zero_std": across.mean(no_spread)}


def leave_one_out_targets(batch: Batch, group_size: int) -> tuple[Targets, dict[str, Array]]:
    """Returns the advantages of episodes, equal at all steps of an episode, and `frac_zero_std`.

    The advantage is the episode's return minus the mean return of the other episodes in its group. Arguments are those
    of `group_targets`.
    """
    scores = episode_returns(batch.reward, batch.mask, 1.0)
    advantage = returns.leave_one_out_advantages(scores, group_size)
    advantage = jnp.where(batch.mask, advantage, 0.0)
    groups = scores.reshape(-1, group_size)
    no_spread = jnp.mean(jnp.max(groups, axis=1) == jnp.min(groups, axis=1), dtype=scores.dtype)
    return Targets(advantage), {"frac_zero_std": across.mean(no_spread)}


def episode_returns(
    reward: Float[Array, "T N"], mask: Bool[Array, "T N"], discount: float
) -> Float[Array, " N"]:
    """sum_k discount^k r_k over the unmasked steps k = 0, 1, 2 ... of each column."""
    steps_before = jnp.cumsum(mask, axis=0) - mask
    return jnp.sum(jnp.where(mask, discount**steps_before * reward, 0.0), axis=0)
