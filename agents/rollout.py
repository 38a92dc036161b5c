"""Environment x policy -> data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from agents.core import across
from agents.spaces import element
from envs.base import Bad, Env, Running, advance, all_finite, reset, start_states, step

# (raw observations [N, ...], key) to (raw actions [N, ...], log-probs [N])
ActOnRaw = Callable[[Any, PRNGKeyArray], tuple[Any, Float[Array, " N"]]]


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
    """A rollout, raw: observations and rewards as the environment gave them, actions as the learner chose them. Leaves
    [T, N, ...]."""

    obs: Any
    action: Any
    logp: Array
    reward: Array
    terminated: Array
    truncated: Array
    next_obs: Any
    discounted_return: Array


class Episodes(NamedTuple):
    """Whole episodes, one a column, raw. Leaves [T, N, ...], zero where `mask` is False: there the episode is over."""

    obs: Any
    action: Any
    logp: Array
    reward: Array
    terminated: Array
    truncated: Array
    mask: Array


class StepMetrics(NamedTuple):
    """Observed properties of steps, for metrics; leaves [*steps, N]."""

    done: Array
    episode_return: Array  # of the episode so far
    length: Array
    info: dict[str, Array]
    bad: Array  # uint8, the sum of those of `Bad` that the step was


def start(env: Env, key: PRNGKeyArray, num_envs: int) -> Stream:
    """Returns a stream of environments that have just been reset."""
    running, obs = jax.vmap(lambda k: reset(env, k))(jax.random.split(key, num_envs))
    zeros = jnp.zeros(num_envs)
    return Stream(running, obs, zeros, zeros)


def collect_steps(
    env: Env,
    act: ActOnRaw,
    stream: Stream,
    key: PRNGKeyArray,
    num_steps: int,
    discount: float,
) -> tuple[Stream, Steps, dict[str, Array]]:
    """Takes `num_steps` steps in every environment of `stream`; a new episode follows the end of an episode.

    Args:
      act: (raw observations [N, ...], key) to (raw actions [N, ...], log-probs [N]). The environment receives the
        element of its action space that corresponds to the raw action (`agents.spaces.element`).

    Returns:
      The new stream, the steps, and metrics: `train/return` and `train/length`, means over the `train/episodes` that
      ended (0 if none ended); `train/nonfinite`, the number of non-finite steps, and which they were (see
      `nonfinite`); the mean of each of the environment's infos.
    """
    bank_key, act_key, env_key = jax.random.split(key, 3)
    resets = start_states(env, bank_key, env.reset_bank) if env.reset_bank else None
    num_envs = stream.episode_return.shape[0]
    # All keys at once: on a CPU a split costs the same for one key as for thousands.
    keys = jax.random.split(act_key, num_steps), jax.random.split(env_key, (num_steps, num_envs))

    def body(stream: Stream, keys: tuple[PRNGKeyArray, Key[Array, " N"]]):
        act_key, env_keys = keys
        action, logp = act(stream.obs, act_key)
        return step_stream(env, stream, action, logp, env_keys, discount, resets)

    stream, (steps, metrics) = jax.lax.scan(body, stream, keys)
    return stream, steps, summarise(metrics)


def step_stream(
    env: Env,
    stream: Stream,
    action: Any,
    logp: Float[Array, " N"],
    keys: Key[Array, " N"],
    discount: float,
    resets: Any,
) -> tuple[Stream, tuple[Steps, StepMetrics]]:
    """Takes one step in every environment; the rows of the results have no time axis.

    `action` is raw, as in `collect_steps`, and `resets` is that of `envs.base.step`.
    """
    running, timestep = jax.vmap(step, (None, 0, 0, 0, None))(
        env, keys, stream.running, element(env.action_space, action), resets
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
    bad = timestep.bad | _bad_start(stream.obs)
    metrics = StepMetrics(done, episode_return, stream.running.t + 1, timestep.info, bad)
    stream = Stream(
        running,
        timestep.obs,
        jnp.where(done, 0.0, episode_return),
        jnp.where(done, 0.0, discounted_return),
    )
    return stream, (steps, metrics)


def summarise(metrics: StepMetrics) -> dict[str, Array]:
    """Returns metrics of steps with any leading axes, see `collect_steps`; of all devices that share the batch."""
    done, episode_return, length, info, bad = metrics
    episodes = across.total(jnp.sum(done))
    info = {name: x for name, x in info.items() if name != "nonfinite"}

    def mean_over_episodes(x):
        # 0 of no episodes, never NaN: the switch that finds NaN (JAX_DEBUG_NANS) would stop every run.
        return across.total(jnp.sum(jnp.where(done, x, 0.0))) / jnp.maximum(episodes, 1)

    return {
        "train/return": mean_over_episodes(episode_return),
        "train/length": mean_over_episodes(length),
        "train/episodes": episodes.astype(jnp.float32),
        **nonfinite(bad),
        **across.mean({name: jnp.mean(x) for name, x in info.items()}),
    }


def nonfinite(bad: Array) -> dict[str, Array]:
    """Returns metrics of the steps that were not finite; `bad` is [*steps, N], see `Bad`.

    Returns:
      `train/nonfinite`, the number of steps, and for whoever reports them: `nonfinite/NAME`, those whose NAME of `Bad`
      was not finite, and of the first one of all `nonfinite/first`, the steps of all environments up to it, and
      `nonfinite/env`, its environment's number from 0; both 0 if there is none.
    """
    num_envs, flat = bad.shape[-1], bad.reshape(-1)
    found = {"train/nonfinite": flat != 0} | {
        f"nonfinite/{str(part.name).lower()}": (flat & part) != 0 for part in Bad
    }
    counts = across.total({name: jnp.sum(x).astype(jnp.float32) for name, x in found.items()})
    steps, first = counts["train/nonfinite"], jnp.argmax(flat != 0)
    if across.devices() > 1:
        # Its place among the environments of all devices.
        here = first % num_envs + across.index() * num_envs
        num_envs *= across.devices()
        first = first // bad.shape[-1] * num_envs + here
        first = across.smallest(jnp.where(jnp.any(flat != 0), first, jnp.iinfo(jnp.int32).max))
        first = jnp.where(steps > 0, first, 0)
    return {
        **counts,
        "nonfinite/first": jnp.where(steps > 0, first + 1, 0).astype(jnp.float32),
        "nonfinite/env": (first % num_envs).astype(jnp.float32),
    }


def _bad_start(obs: Any) -> Array:
    """[N] uint8. Only an episode's first observation can be other than finite: others are stood in for."""
    return jnp.where(jax.vmap(all_finite)(obs), 0, Bad.START).astype(jnp.uint8)


def collect_episodes(
    env: Env,
    act: ActOnRaw,
    running: Running,
    key: PRNGKeyArray,
    num_steps: int,
) -> tuple[Episodes, dict[str, Array]]:
    """Runs one episode from each start in `running` (leaves [N, ...]), for at most `num_steps` = T steps.

    An episode that is unfinished after T steps is truncated. The loop stops when all episodes have ended. Columns have
    independent random numbers, even if their starts are equal.

    Args:
      act: (raw observations [N, ...], key) to (raw actions [N, ...], log-probs [N]), as for `collect_steps`.

    Returns:
      The episodes, and metrics: `train/return` and `train/length`, means over the `train/episodes`;
      `train/env_steps_taken`; `train/nonfinite`, the number of non-finite steps, and which they were (see `nonfinite`);
      the mean of each of the environment's infos.
    """
    num_envs = running.t.shape[0]
    act_key, env_key = jax.random.split(key)
    act_keys = jax.random.split(act_key, num_steps)
    env_keys = jax.random.split(env_key, (num_steps, num_envs))

    def take_step(t, running, obs, alive):
        action, logp = act(obs, act_keys[t])
        following, timestep = jax.vmap(advance, (None, 0, 0, 0))(
            env, env_keys[t], running, element(env.action_space, action)
        )
        truncated = timestep.truncated | ((t == num_steps - 1) & ~timestep.terminated)
        row = Episodes(obs, action, logp, timestep.reward, timestep.terminated, truncated, alive)
        bad = timestep.bad | _bad_start(obs)
        row, info, bad = (_or_zero(alive, x) for x in (row, timestep.info, bad))
        # An episode that is over stands still: left to itself its state might overflow.
        running, obs = _where(alive, (following, timestep.next_obs), (running, obs))
        alive = alive & ~(timestep.terminated | truncated)
        info = {name: jnp.sum(x) for name, x in info.items() if name != "nonfinite"}
        return (running, obs, alive), (row, bad), info

    def body(carry):
        t, now, rows, info = carry
        now, row, new_info = take_step(t, *now)
        rows = jax.tree.map(lambda buffer, x: buffer.at[t].set(x), rows, row)
        return t + 1, now, rows, jax.tree.map(jnp.add, info, new_info)

    t = jnp.zeros((), jnp.int32)
    now = running, jax.vmap(env.observation)(running.state), jnp.ones(num_envs, bool)
    _, row, info = jax.eval_shape(take_step, t, *now)
    rows = jax.tree.map(lambda x: jnp.zeros((num_steps, *x.shape), x.dtype), row)
    info = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), info)
    *_, (episodes, bad), info = jax.lax.while_loop(
        lambda carry: (carry[0] < num_steps) & jnp.any(carry[1][2]), body, (t, now, rows, info)
    )
    taken = jnp.sum(episodes.mask)
    return episodes, {
        "train/return": jnp.mean(jnp.sum(episodes.reward, axis=0)),
        "train/length": taken / num_envs,
        "train/episodes": jnp.asarray(num_envs, jnp.float32),
        "train/env_steps_taken": taken.astype(jnp.float32),
        **nonfinite(bad),
        **{name: x / taken for name, x in info.items()},
    }


def _where(condition, x, y):
    """Selects along the leading axis."""

    def pick(a, b):
        return jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, x, y)


def _or_zero(condition, x):
    return _where(condition, x, jax.tree.map(jnp.zeros_like, x))
