"""A dataset as arrays, and batches drawn from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from agents import normalize
from agents.replay import Sample

REWARD_SCALE = 1000.0  # the range of returns after `scaled_rewards`


class OfflineData(NamedTuple):
    """M transitions of whole episodes, one after another, as `step(state, data)` takes them."""

    obs: Any  # [M, ...] raw
    action: Any  # [M, ...] raw, see `agents.spaces`
    reward: Any  # [M] float32
    next_obs: Any  # [M, ...] raw: the true successor, also where an episode was cut off
    terminated: Any  # [M] bool
    truncated: Any  # [M] bool
    return_to_go: Any  # [M] float32: rewards from here to the episode's end, not discounted
    episode: Any  # [M] int32: number of the episode, from 0
    t: Any  # [M] int32: steps before this one in its episode
    left: Any  # [M] int32: steps after this one in its episode
    by_return: Any  # [M] int32: transitions in order of their episode's return, the best first
    return_range: Any  # [] float32: the best episode's return less the worst's
    obs_statistics: Any  # of `obs`, encoded: what networks see is normalised by it


def offline_data(
    obs: np.ndarray,
    action: np.ndarray,
    reward: Float[np.ndarray, " M"],
    next_obs: np.ndarray,
    terminated: Any,
    truncated: Any,
    encode: Any,
) -> OfflineData:
    """Returns the dataset of these transitions, of which each episode's last one is terminated or truncated.

    Args:
      obs, next_obs: [M, ...] raw; `encode` makes of them what a network sees, see `agents.spaces.encode`.

    Raises ValueError where there is no transition, or the last one ends no episode.
    """
    ends = np.asarray(terminated) | np.asarray(truncated)
    if not len(ends):
        raise ValueError("there are no transitions")
    if not ends[-1]:
        raise ValueError("the last transition ends no episode")
    last = np.flatnonzero(ends)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    episode = np.repeat(np.arange(len(last), dtype=np.int32), lengths)
    t = (np.arange(len(ends)) - first[episode]).astype(np.int32)
    # In double precision: a float32 sum over a million steps would have lost the last digits.
    before = np.concatenate([[0.0], np.cumsum(reward, dtype=np.float64)])
    to_go = before[last[episode] + 1] - before[:-1]
    returns = before[last + 1] - before[first]
    order = np.argsort(-returns[episode], kind="stable").astype(np.int32)
    encoded = np.asarray(encode(obs), np.float32)
    return OfflineData(
        obs=jnp.asarray(obs),
        action=jnp.asarray(action),
        reward=jnp.asarray(reward, jnp.float32),
        next_obs=jnp.asarray(next_obs),
        terminated=jnp.asarray(terminated, bool),
        truncated=jnp.asarray(truncated, bool),
        return_to_go=jnp.asarray(to_go, jnp.float32),
        episode=jnp.asarray(episode),
        t=jnp.asarray(t),
        left=jnp.asarray(lengths[episode] - 1 - t, jnp.int32),
        by_return=jnp.asarray(order),
        return_range=jnp.float32(returns.max() - returns.min()),
        obs_statistics=normalize.update(normalize.init(encoded.shape[1:]), jnp.asarray(encoded)),
    )


def draw(
    data: OfflineData, key: PRNGKeyArray, size: int, best_fraction: float = 1.0
) -> Int[Array, " B"]:
    """Returns the places of `size` transitions, drawn uniformly with replacement.

    Args:
      best_fraction: drawn from so large a share of the transitions, of the episodes of the highest returns.
    """
    if best_fraction == 1.0:
        return jax.random.randint(key, (size,), 0, data.reward.shape[0])
    kept = max(1, round(best_fraction * data.reward.shape[0]))
    return data.by_return[jax.random.randint(key, (size,), 0, kept)]


def take(data: OfflineData, index: Int[Array, " B"], gamma: float, scale: Any = 1.0) -> Sample:
    """Returns transitions as a replay buffer gives them, observations raw, rewards times `scale`."""
    terminated = data.terminated[index]
    return Sample(
        obs=data.obs[index],
        action=data.action[index],
        reward=data.reward[index] * scale,
        discount=jnp.where(terminated, 0.0, jnp.float32(gamma)),
        terminated=terminated,
        next_obs=data.next_obs[index],
        index=index.astype(jnp.int32),
        weight=jnp.ones(index.shape),
    )


def discounted_returns(data: OfflineData, gamma: float) -> Float[Array, " M"]:
    """Returns rewards from each transition to the end of its episode, discounted by `gamma` a step.

    In log M parallel passes over the data, not M steps one after another.
    """
    keeps = jnp.where(data.terminated | data.truncated, 0.0, jnp.float32(gamma))

    def join(later: Any, earlier: Any) -> Any:
        # x -> a x + b, the later transition's first.
        return later[0] * earlier[0], earlier[1] + earlier[0] * later[1]

    reverse = jnp.flip(keeps), jnp.flip(data.reward)
    return jnp.flip(jax.lax.associative_scan(join, reverse)[1])


def take_to_end(
    data: OfflineData, index: Int[Array, " B"], returns: Float[Array, " M"], gamma: float
) -> Sample:
    """Returns transitions whose reward is all that follows in the episode, with a bootstrap from its last observation
    where it was cut off: `take` with as many steps as there are.

    Args:
      returns: what `discounted_returns` gives.
    """
    last = index + data.left[index]
    terminated = data.terminated[last]
    discount = jnp.float32(gamma) ** (data.left[index] + 1)
    return take(data, index, gamma)._replace(
        reward=returns[index],
        discount=jnp.where(terminated, 0.0, discount),
        terminated=terminated,
        next_obs=data.next_obs[last],
    )


def reward_scale(data: OfflineData) -> Float[Array, ""]:
    """Returns the factor that brings the range of episodes' returns to REWARD_SCALE; 1 where all are alike.

    Kostrikov et al. 2022, appendix B, https://arxiv.org/abs/2110.06169: advantages, which a temperature divides, then
    have a size of their own whatever the task pays.
    """
    alike = data.return_range <= 1e-6
    return jnp.where(alike, 1.0, REWARD_SCALE / jnp.where(alike, 1.0, data.return_range))
