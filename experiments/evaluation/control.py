"""Evaluation of control: whole episodes with deterministic actions and fresh resets, separate from training.

The keys derive from the run's seed and never from the training state, so evaluations change no number of training.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from agents.algorithm import ActsInContext
from envs import base
from envs.base import ALL_EPISODES, Env
from experiments.evaluation import frame_rate

SHOWN = 16  # episodes recorded for the video
_KEY_TAG = 0x6576616C  # "eval": sets evaluation's stream apart from training's


class Episodes(NamedTuple):
    """Figures and recorded states of N episodes."""

    returns: Any  # [N] float32
    lengths: Any  # [N] int32
    survived: Any  # [N] bool: ended by the time limit
    alive: Any  # [T, N] bool: step t was taken, the one that ended the episode included; None: not wanted
    # Of the first R <= N episodes and their first T steps; None where nothing was recorded:
    states: Any  # leaves [T, R, ...], the state after step t
    rewards: Any = None  # [T, R] float32, of step t
    bad: Any = None  # [N] uint8: parts that were not finite, which ended the episode; 0: none, see `envs.base.Bad`


def keys(seed: int, first: int, n: int) -> PRNGKeyArray:
    """Returns the keys of the evaluation episodes `first` to `first + n` of a seed."""
    key = jax.random.fold_in(jax.random.key(seed), _KEY_TAG)
    return jax.random.split(jax.random.fold_in(key, first), n)


def records(env: Env) -> int:
    """Episodes whose states an evaluation keeps: all for an episode report, else a few for the video, none where there
    is nothing to see."""
    if env.recorded_episodes:
        return ALL_EPISODES
    return SHOWN if frame_rate.drawable(env) else 0


def recorded_steps(env: Env, record: int) -> int:
    """Returns the number of steps whose states are kept for `record` episodes: all steps if all episodes are recorded,
    else the steps that a video shows, for there may be a billion."""
    limit, shown = env.max_episode_steps, frame_rate.shown_steps(env)
    if not record:
        return 0
    return limit if record == ALL_EPISODES or shown is None else min(limit, shown)


def evaluation_bytes(env: Env, episodes: int, record: int | None = None) -> int:
    """Bytes that the result of `run_episodes` of one seed takes, on the device and once more on the host.

    Args:
      episodes: run at once.
      record: episodes whose states are kept; None: as many as `records` wants.

    A pure function: nothing is compiled or drawn.
    """
    record = records(env) if record is None else record
    shown, steps = min(record, episodes), recorded_steps(env, record)
    state = jax.eval_shape(lambda key: arrays(env.initial(key)), jax.random.key(0))
    each = sum(
        int(np.prod(x.shape, dtype=object)) * x.dtype.itemsize for x in jax.tree.leaves(state)
    )
    flags = env.max_episode_steps * episodes if record == ALL_EPISODES else 0
    of_each = 4 + 4 + 1 + 1  # returns, lengths, survived, bad
    return steps * shown * (each + 4) + flags + episodes * of_each


def run_episodes(algo: Any, state: Any, episode_keys: PRNGKeyArray, record: int) -> Episodes:
    """Runs one episode for each key, all at once, until the last of them ends. A pure function.

    The states of the first `record` episodes are kept, as many as `recorded_steps` says: all of them would be gigabytes
    where states are large, or episodes long. What is not finite ends an episode, `bad` says which it was; one whose
    first observation is not finite has no step.
    """
    env = algo.env.at(jnp.inf)
    limit, n = env.max_episode_steps, episode_keys.shape[0]
    shown, kept = min(record, n), recorded_steps(env, record)
    reset_keys, step_keys = jnp.moveaxis(jax.vmap(jax.random.split)(episode_keys), 0, 1)
    start, obs = jax.vmap(base.reset, (None, 0))(env, reset_keys)

    in_context = isinstance(algo, ActsInContext)

    def body(carry):
        t, running, obs, alive, episodes, context = carry
        if in_context:
            action, context = algo.act_in_context(state, context, obs, episode_keys[0], True)
        else:
            action = algo.act(state, obs, episode_keys[0], True)
        keys_t = jax.vmap(jax.random.fold_in, (0, None))(step_keys, t)
        following, timestep = jax.vmap(base.advance, (None, 0, 0, 0))(env, keys_t, running, action)
        running = _where(alive, following, running)  # an episode that is over stands still
        seen = (
            (arrays(running.state), jnp.where(alive, timestep.reward, 0.0))
            if shown
            else (None, None)
        )
        states, rewards = jax.tree.map(
            lambda h, x: h.at[t].set(x[:shown], mode="drop"),
            (episodes.states, episodes.rewards),
            seen,
        )
        episodes = Episodes(
            returns=episodes.returns + jnp.where(alive, timestep.reward, 0.0),
            lengths=episodes.lengths + alive,
            survived=episodes.survived & ~(alive & timestep.terminated),
            alive=episodes.alive.at[t].set(alive) if record == ALL_EPISODES else None,
            states=states,
            rewards=rewards,
            bad=episodes.bad | jnp.where(alive, timestep.bad, 0),
        )
        alive = alive & ~(timestep.terminated | timestep.truncated)
        context = algo.after_reward(context, timestep.reward) if in_context else context
        return t + 1, running, timestep.next_obs, alive, episodes, context

    def room(x):
        return jnp.zeros((kept, shown, *x.shape[1:]), x.dtype)

    begun = jax.vmap(base.all_finite)(obs)
    empty = Episodes(
        returns=jnp.zeros(n),
        lengths=jnp.zeros(n, jnp.int32),
        survived=begun,
        alive=jnp.zeros((limit, n), bool) if record == ALL_EPISODES else None,
        states=jax.tree.map(room, arrays(start.state)) if shown else None,
        rewards=jnp.zeros((kept, shown)) if shown else None,
        bad=jnp.where(begun, 0, base.Bad.START).astype(jnp.uint8),
    )
    context = algo.begin_context(state, n) if in_context else ()
    carry = (jnp.zeros((), jnp.int32), start, obs, begun, empty, context)
    return jax.lax.while_loop(lambda c: (c[0] < limit) & jnp.any(c[3]), body, carry)[4]


def arrays(tree: Any) -> Any:
    """Returns the tree with PRNG keys as the numbers they are: keys cannot leave the program."""

    def plain(x):
        is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    return jax.tree.map(plain, tree)


def concatenate(parts: list[Episodes]) -> Episodes:
    """Joins batches of episodes into one, in NumPy. Where only the first episodes of a batch were recorded, those of
    the first batch remain."""

    def join(axis: int, xs: list[Any]) -> Any:
        return jax.tree.map(lambda *x: np.concatenate([np.asarray(y) for y in x], axis), *xs)

    every = recorded(parts[0]) == len(parts[0].returns)
    returns, lengths, survived = (
        join(0, [getattr(p, name) for p in parts]) for name in ("returns", "lengths", "survived")
    )
    bad, alive = join(0, [p.bad for p in parts]), join(1, [p.alive for p in parts])
    kept = parts if every else parts[:1]
    states, rewards = (join(1, [getattr(p, name) for p in kept]) for name in ("states", "rewards"))
    return Episodes(returns, lengths, survived, alive, states, rewards, bad)


def recorded(episodes: Episodes) -> int:
    """Returns the number of episodes, from the first on, that were recorded."""
    return 0 if episodes.rewards is None else episodes.rewards.shape[1]


def row(episodes: Episodes) -> dict[str, float]:
    """Columns of metrics.jsonl."""
    return {
        "eval/return": float(np.mean(episodes.returns)),
        "eval/length": float(np.mean(episodes.lengths)),
    }


def final_figures(env: Env, episodes: Episodes) -> dict[str, Any]:
    """Entries of summary.json about one seed's final evaluation."""
    entries: dict[str, Any] = {
        "eval_return_mean": float(np.mean(episodes.returns)),
        "eval_return_std": float(np.std(episodes.returns)),
        "eval_length_mean": float(np.mean(episodes.lengths)),
        "eval_episodes": len(episodes.returns),
        "survival_rate": float(np.mean(episodes.survived)),
        "eval_nonfinite": int(np.count_nonzero(episodes.bad)),
        "distance_m": None,
        "gait": None,
    }
    if env.recorded_episodes:
        entries |= env.episode_report(episodes.states, episodes.alive, episodes.returns)
    return entries


def goals(env: Env, episodes: Episodes) -> dict[str, bool]:
    """Returns the goals of the task that an evaluation reaches, by name; none where there is no episode report."""
    if not env.recorded_episodes:
        return {}
    return env.goals(env.episode_report(episodes.states, episodes.alive, episodes.returns))


def typical(episodes: Episodes) -> int:
    """Returns the index of the recorded episode (of any, if none was recorded) whose return is the median: the one to
    show. Episodes without a step come last."""
    shown = recorded(episodes) or None
    returns, begun = np.asarray(episodes.returns)[:shown], np.asarray(episodes.lengths)[:shown] > 0
    order = np.argsort(returns, kind="stable")
    order = order[begun[order]] if begun.any() else order
    return int(order[(len(order) - 1) // 2])


def episode(episodes: Episodes, n: int) -> tuple[Any, np.ndarray]:
    """Returns the recorded states and rewards of episode `n`, to its end or the end of the record."""
    length = episodes.lengths[n]
    seen = (episodes.states, episodes.rewards)
    return jax.tree.map(lambda x: np.asarray(x)[:length, n], seen)


def mean_of(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Averages reports over seeds, entry by entry; `walks` becomes the share of seeds that walk."""
    first = reports[0]
    return {name: _mean([r[name] for r in reports]) for name in first}


def _mean(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return mean_of(values)
    numbers = [v for v in values if v is not None and not math.isnan(v)]
    if isinstance(values[0], bool) and len(values) == 1:
        return values[0]
    if len(set(values)) == 1 and isinstance(values[0], int):
        return values[0]
    return float(np.mean(numbers)) if numbers else None


def _where(condition: Array, x: Any, y: Any) -> Any:
    def pick(a, b):
        return jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, x, y)
