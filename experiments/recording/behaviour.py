"""Behaviours to record: the policy of a run, random actions, or what a replay buffer holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np

from agents.algorithm import ActsInContext
from agents.off_policy import OffPolicyState
from agents.spaces import element
from envs.base import Env
from experiments.data.episodes import Episode
from experiments.run import spec
from experiments.user_envs.check_tools import random_action

Act = Callable[[Any, Any, jax.Array], jax.Array]  # (state, observations [N, ...], key) to actions


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """Somebody who acts in an environment."""

    env: Env
    env_name: str
    env_kwargs: dict[str, Any]
    name: str  # of the algorithm
    act: Act
    state: Any  # of the policy
    source: str  # the run, as the dataset names it: no path of a machine
    env_steps: int | None  # that the policy had learnt from


def policy_of(
    folder: Path, seed_index: int, deterministic: bool, trust: bool, warn: Callable[[str], None]
) -> Behaviour:
    """Returns the policy of a run's newest checkpoint. Raises ValueError with one line where there is none."""
    stored, algo, states, steps = _opened(folder, seed_index, trust, warn)
    if isinstance(algo, ActsInContext):
        raise ValueError(
            f"{folder} is a run of {stored.algo}, which acts on the episode so far: it is not recorded"
        )

    def act(state: Any, obs: Any, key: jax.Array) -> jax.Array:
        return algo.act(state, obs, key, deterministic)

    return Behaviour(
        env=algo.env,
        env_name=stored.env,
        env_kwargs=stored.env_kwargs,
        name=stored.algo,
        act=act,
        # Parameters and statistics: a program need not be given a replay buffer.
        state=dataclasses.replace(states, buffer=None)
        if isinstance(states, OffPolicyState)
        else states,
        source=f"{stored.algo}, seed {stored.seed + seed_index}, after {steps} steps",
        env_steps=steps,
    )


def random_behaviour(env_name: str, env_kwargs: dict[str, Any], env: Env) -> Behaviour:
    """Returns actions that are uniform over the action space."""

    def act(state: Any, obs: Any, key: jax.Array) -> jax.Array:
        n = jax.tree.leaves(obs)[0].shape[0]
        return jax.vmap(lambda k: random_action(env, k))(jax.random.split(key, n))

    return Behaviour(env, env_name, env_kwargs, "random", act, (), "random actions", 0)


def replayed(
    folder: Path, trust: bool, warn: Callable[[str], None]
) -> tuple[Behaviour, list[Episode]]:
    """Returns the whole episodes in the replay buffers of a run's newest checkpoint, of all its seeds, and who made
    them. Raises ValueError with one line where there is none."""
    stored, algo, states, steps = _opened(folder, None, trust, warn)
    buffer = getattr(states, "buffer", None)
    if buffer is None:
        raise ValueError(
            f"{folder} is a run of {stored.algo}, which has no replay buffer: sac, td3, ddpg and dqn have one"
        )
    episodes: list[Episode] = []
    for i in range(stored.seeds):
        one = jax.device_get(jax.tree.map(lambda x, i=i: x[i], buffer))
        episodes += list(episodes_of(one, algo.env.action_space))
    if not episodes:
        raise ValueError(f"the replay buffer of {folder} holds no whole episode")
    seeds = f"seeds {stored.seed} to {stored.seed + stored.seeds - 1}"
    source = f"replay of {stored.algo}, {seeds}, after {steps} steps"
    behaviour = Behaviour(
        algo.env,
        stored.env,
        stored.env_kwargs,
        f"{stored.algo} replay",
        _nobody,
        (),
        source,
        steps,
    )
    return behaviour, episodes


def episodes_of(buffer: Any, action_space: gymnasium.Space) -> Iterator[Episode]:
    """Yields the whole episodes of a replay buffer, one environment's after the other's, oldest first.

    Args:
      buffer: a `ReplayState` in NumPy.
    """
    rows = buffer.storage.reward.shape[0]
    size, head = int(buffer.size), int(buffer.head)
    order = (head - size + np.arange(size)) % rows
    # As long as nothing was overwritten, the oldest row begins an episode.
    begins_whole = size < rows or head == 0
    for column in range(buffer.storage.reward.shape[1]):
        of_column = jax.tree.map(lambda x, c=column: np.asarray(x)[order, c], buffer.storage)
        ends = np.flatnonzero(of_column.terminated | of_column.truncated)
        starts: Any = np.concatenate([[0], ends[:-1] + 1]).astype(int) if len(ends) else []
        for k, (first, last) in enumerate(zip(starts, ends, strict=True)):
            if k == 0 and not begins_whole:
                continue
            part = jax.tree.map(lambda x, a=first, b=last: x[a : b + 1], of_column)
            yield Episode(
                np.concatenate([part.obs, part.next_obs[-1:]]),
                np.asarray(element(action_space, part.action)),
                part.reward,
                part.terminated,
                part.truncated,
            )


def _nobody(state: Any, obs: Any, key: jax.Array) -> jax.Array:
    """Stands for the many policies behind a replay buffer, none of which acts any more."""
    raise NotImplementedError


def _opened(
    folder: Path, seed_index: int | None, trust: bool, warn: Callable[[str], None]
) -> tuple[spec.Spec, Any, Any, int]:
    """The run's spec, algorithm, state (of one seed; None: of all), and environment steps."""
    stored, algo = spec.open_run(folder, trust)
    spec.refuse_tokens(folder, stored)
    if seed_index is not None and not 0 <= seed_index < stored.seeds:
        raise ValueError(f"{folder} has {stored.seeds} seeds, there is no index {seed_index}")
    states, _, steps = spec.load_state(folder, stored, algo, warn)
    if seed_index is not None:
        states = jax.tree.map(lambda x: x[seed_index], states)
    return stored, algo, states, steps
