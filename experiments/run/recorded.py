"""Recorded data in a run: what it learns from, or what it begins with.

    --algo iql --dataset ID               learns from the dataset alone
    --algo sac --dataset ID --start DIR   learns in the environment; the dataset fills the replay buffer at first, and
                                          the networks are those of the run in DIR, which may have been offline

The dataset is read once, shared by all seeds and in no checkpoint. config.json keeps its facts, the hash of its content
among them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import envs
from agents import replay
from agents.algorithm import LearnsOffline
from agents.off_policy import OffPolicy
from agents.offline.data import OfflineData
from envs import HOST_PREFIX
from experiments.data import store, transitions
from experiments.run import folders, memory
from experiments.run.limits import human_bytes
from experiments.run.spec import Spec, load_state, open_run
from experiments.user_envs import load

Say = Callable[[str], None]


class Recorded(NamedTuple):
    """The recorded data of a run, read and checked."""

    spec: Spec  # with the facts of the dataset
    data: OfflineData | None  # of `step`; None for algorithms that make their own
    begin: Callable[[Any], Any] | None  # changes the states before the first step


def env_of(dataset: str, given: str | None) -> tuple[str, dict[str, Any]]:
    """Returns the environment of a dataset by our name, and its options. Raises ValueError where it does not say.

    Args:
      given: the environment's name, where the user said it; options are the dataset's if it is the same one.
    """
    found = store.open_dataset(dataset)
    if given is not None:
        same = found.env is not None and given.removeprefix(HOST_PREFIX) == found.env
        return given, (found.env_kwargs or {}) if same else {}
    if found.env is None:
        raise ValueError(
            f"the dataset {dataset} does not say of which environment it is: give --env NAME"
        )
    known = (
        found.env in envs.names() or load.is_file(found.env) or found.env.startswith(HOST_PREFIX)
    )
    return found.env if known else HOST_PREFIX + found.env, found.env_kwargs or {}


def require_sense(algo: type, name: str, dataset: str | None, start: str | None) -> None:
    """Raises ValueError with one line where an algorithm cannot use what it is given, or lacks what it needs.

    Args:
      algo: its class, which is called `name`.
    """
    if isinstance(algo, LearnsOffline):
        if dataset is None:
            raise ValueError(
                f"{name} learns from recorded data: give --dataset ID (python -m experiments.datasets list)"
            )
        if start is not None:
            raise ValueError(f"--start is for learners with a replay buffer, and {name} has none")
        return
    given = "--dataset" if dataset is not None else "--start" if start is not None else None
    if given and not (isinstance(algo, type) and issubclass(algo, OffPolicy)):
        raise ValueError(
            f"{given} is nothing to {name}: bc, percent-bc, awr, td3-bc, iql and cql learn from a dataset, and sac, "
            "td3, ddpg and dqn can begin with one"
        )


def take(spec: Spec, algo: Any, dataset: str | None, folder: Path | None, say: Say) -> Recorded:
    """Reads what a run needs of its dataset and of the run that it starts from.

    Args:
      dataset: its name; None: no dataset.
      folder: of a run that is resumed, which has its facts in `spec`; None: a new run.
      say: is told how much memory that takes, before it is taken.

    Raises ValueError with one line.
    """
    if folder is not None and folders.has_begun(folder) and not isinstance(algo, LearnsOffline):
        return Recorded(spec, None, None)  # it is in the checkpoint already
    data = None
    if dataset is not None:
        data, facts = _read(spec, algo.env, dataset, say)
        known = spec.dataset
        if known is not None and known.sha256 != facts.sha256:
            raise ValueError(
                f"{folder} learns from the dataset {dataset}, which has changed since the run began"
            )
        spec = dataclasses.replace(spec, dataset=facts)
    if isinstance(algo, LearnsOffline):
        return Recorded(spec, data, None)
    changes = []
    if spec.start is not None:
        changes.append(_networks_of(Path(spec.start), spec, algo, say))
    if data is not None:
        changes.append(_filled(algo, data))
    if not changes:
        return Recorded(spec, None, None)

    def begin(states: Any) -> Any:
        for change in changes:
            states = change(states)
        return states

    return Recorded(spec, None, begin)


def _read(spec: Spec, env: Any, dataset: str, say: Say) -> tuple[OfflineData, transitions.Facts]:
    found = store.open_dataset(dataset)
    if spec.env.removeprefix(HOST_PREFIX) != found.env:
        transitions.require_fitting(found, spec.env, env)
    else:
        transitions.require_fitting(dataclasses.replace(found, env=spec.env), spec.env, env)
    size, free = transitions.nbytes(found, env), memory.free_on_host()
    say(f"dataset: {found.steps} steps in {found.episodes} episodes, {human_bytes(size)}")
    # For a moment episodes and arrays are there at once.
    if free is not None and 3 * size > free:
        raise ValueError(
            f"memory: reading {dataset} would take {human_bytes(3 * size)}, and {human_bytes(max(free, 0))} are free"
        )
    return transitions.read(found, env)


def _networks_of(folder: Path, spec: Spec, algo: Any, say: Say) -> Callable[[Any], Any]:
    """Returns a function that puts the networks of a run into the states; optimisers begin anew."""
    stored, other = open_run(folder)
    if stored.domain != "control" or stored.env != spec.env:
        raise ValueError(f"--start {folder} is a run of {stored.env}, not of {spec.env}")
    if stored.seeds not in (1, spec.seeds):
        raise ValueError(f"--start {folder} has {stored.seeds} seeds, and this run {spec.seeds}")
    theirs, _, _ = load_state(folder, stored, other, say)
    ours = jax.eval_shape(jax.vmap(algo.init), jax.random.split(jax.random.key(0), spec.seeds))
    params = getattr(theirs, "params", None)
    if type(params) is not type(ours.params):
        raise ValueError(
            f"--start {folder} is a run of {stored.algo}, whose networks are not those of {spec.algo}: sac starts from "
            "sac and cql, td3 from td3 and td3-bc"
        )
    if _sizes(params) != _sizes(ours.params):
        raise ValueError(
            f"--start {folder} has networks of other sizes: give --hidden-sizes "
            + " ".join(map(str, stored.config.hidden_sizes))
        )
    normalised = stored.config.normalize_observations
    if normalised != spec.config.normalize_observations:
        raise ValueError(
            f"--start {folder} sees observations in another way: give "
            f"--{'' if normalised else 'no-'}normalize-observations"
        )

    def change(states: Any) -> Any:
        def every(x):
            return jnp.broadcast_to(x, (spec.seeds, *x.shape[1:])).copy()

        return states.replace(
            params=jax.tree.map(every, theirs.params),
            obs_statistics=jax.tree.map(every, theirs.obs_statistics),
        )

    return change


def _sizes(params: Any) -> Any:
    """The structure of networks, and the shape of each leaf but for the axis of seeds."""
    return jax.tree.structure(params), [x.shape[1:] for x in jax.tree.leaves(params)]


def _filled(algo: OffPolicy, data: OfflineData) -> Callable[[Any], Any]:
    """Returns a function that writes the dataset into each seed's replay buffer."""
    columns, room = algo.config.num_envs, algo.config.buffer_size // algo.config.num_envs
    rows = data.reward.shape[0] // columns
    most = room - algo.config.n_step
    if rows > most:
        raise ValueError(
            f"the dataset has {data.reward.shape[0]} steps, more than the replay buffer: raise --buffer-size to "
            f"{data.reward.shape[0] + algo.config.n_step * columns} or more"
        )

    def change(states: Any) -> Any:
        return states.replace(buffer=jax.vmap(lambda b: fill(b, data))(states.buffer))

    return change


def fill(buffer: replay.ReplayState, data: OfflineData) -> replay.ReplayState:
    """Returns the buffer with the transitions of a dataset behind what it holds, dealt to its columns.

    Where a column's last row is not the end of an episode, it counts as cut off: what follows is of another one.
    """
    columns = buffer.storage.reward.shape[1]
    rows = data.reward.shape[0] // columns

    def dealt(x: Any) -> Any:
        kept = x[: rows * columns]
        return jnp.swapaxes(kept.reshape(columns, rows, *x.shape[1:]), 0, 1)

    terminated = dealt(data.terminated)
    last = (jnp.arange(rows) == rows - 1)[:, None]
    new = replay.Transition(
        obs=dealt(data.obs),
        action=dealt(data.action).astype(buffer.storage.action.dtype),
        reward=dealt(data.reward),
        terminated=terminated,
        truncated=dealt(data.truncated) | (last & ~terminated),
        next_obs=dealt(data.next_obs),
    )
    return replay.add(buffer, new)
