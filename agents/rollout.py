"""Environment x policy -> data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from envs.base import Env, Running, reset, start_states, step


@flax.struct.dataclass
class Stream:
    """N environments under way, and what their present episodes have earned."""

    running: Running | Any  # leaves [N, ...]
    obs: Any  # [N, ...] raw
    episode_return: Array | Any  # [N] float32
    discounted_return: (
        Array | Any
    )  # [N] float32, sum_k discount^k r_{t-k}: for return normalisation


class Steps(NamedTuple):
    """A rollout, raw: observations and rewards as the environment gave them. Leaves [T, N, ...]."""

    obs: Any
    action: Any
    logp: Array
    reward: Array
    terminated: Array
    truncated: Array
    next_obs: Any
    discounted_return: Array


def start(env: Env, key: PRNGKeyArray, num_envs: int) -> Stream:
    running, obs = jax.vmap(lambda k: reset(env, k))(jax.random.split(key, num_envs))
    zeros = jnp.zeros(num_envs)
    return Stream(running, obs, zeros, zeros)


def collect_steps(
    env: Env,
    act: Callable[[Any, PRNGKeyArray], tuple[Any, Float[Array, " N"]]],
    stream: Stream,
    key: PRNGKeyArray,
    num_steps: int,
    discount: float,
) -> tuple[Stream, Steps, dict[str, Array]]:
    """`num_steps` steps of every environment in `stream`, episodes following one another.

    Args:
      act: (raw observations [N, ...], key) to (actions [N, ...], log-probs [N]).

    Returns:
      The stream further on, the steps, and metrics: `train/return` and `train/length` over the `train/episodes`
      that ended (NaN if none did), `train/nonfinite` states, and the mean of each of the environment's infos.
    """
    bank_key, act_key, env_key = jax.random.split(key, 3)
    resets = start_states(env, bank_key, env.reset_bank) if env.reset_bank else None
    num_envs = stream.episode_return.shape[0]
    # All keys at once: on a CPU a split costs the same for one key as for thousands.
    keys = jax.random.split(act_key, num_steps), jax.random.split(env_key, (num_steps, num_envs))

    def body(stream: Stream, keys: tuple[PRNGKeyArray, Key[Array, " N"]]):
        act_key, env_keys = keys
        action, logp = act(stream.obs, act_key)
        running, timestep = jax.vmap(step, (None, 0, 0, 0, None))(
            env, env_keys, stream.running, action, resets
        )
        done = timestep.terminated | timestep.truncated
        episode_return = stream.episode_return + timestep.reward
        discounted_return = discount * stream.discounted_return + timestep.reward
        steps = Steps(
            stream.obs,
            action,
            logp,
            timestep.reward,
            timestep.terminated,
            timestep.truncated,
            timestep.next_obs,
            discounted_return,
        )
        metrics = (done, episode_return, stream.running.t + 1, timestep.info)
        stream = Stream(
            running,
            timestep.obs,
            jnp.where(done, 0.0, episode_return),
            jnp.where(done, 0.0, discounted_return),
        )
        return stream, (steps, metrics)

    stream, (steps, metrics) = jax.lax.scan(body, stream, keys)
    return stream, steps, _metrics(*metrics)


def _metrics(done, episode_return, length, info) -> dict[str, Array]:
    episodes = jnp.sum(done)
    info = dict(info)
    nonfinite = jnp.sum(info.pop("nonfinite"))

    def mean_over_episodes(x):
        return jnp.sum(jnp.where(done, x, 0.0)) / episodes  # 0 / 0 = NaN: no episode ended

    return {
        "train/return": mean_over_episodes(episode_return),
        "train/length": mean_over_episodes(length),
        "train/episodes": episodes.astype(jnp.float32),
        "train/nonfinite": nonfinite,
        **{name: jnp.mean(x) for name, x in info.items()},
    }
