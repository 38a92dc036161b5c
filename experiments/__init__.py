"""Command lines and everything that touches files: training runs, their curves and videos, and `load`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.console.shadows import refuse_shadows

refuse_shadows()

try:
    __version__ = importlib.metadata.version("stride-rl")
except importlib.metadata.PackageNotFoundError:  # run from a clone, without an installation
    __version__ = "unknown"


def load(
    run: str | Path, seed_index: int = 0, deterministic: bool = True, trust: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """Loads the policy of a run on disk, from its newest checkpoint, as `policy(obs) -> action`, NumPy in and out.

    An action is an element of the environment's own action space, as in training. `obs` may be single or have leading
    batch axes. With `deterministic=False` actions are samples, each call from the next key. The run of an environment
    in a file executes that file: with `trust=True` any, else only the one with which this user began the run.

    Raises ValueError where `run` is not a run, names files that may not be executed or has no such seed; the policy
    does where `obs` is none of its environment's.
    """
    import sys

    import jax

    from agents.algorithm import ActsInContext
    from envs.host import HostEnv
    from experiments.run import spec

    folder = Path(run)
    stored, algo = spec.open_run(folder, trust)
    spec.refuse_tokens(folder, stored)
    if isinstance(algo, ActsInContext):
        raise ValueError(
            f"{folder} is a run of {stored.algo}, which acts on the episode so far: a policy of the observation alone "
            "it has not; python -m experiments.play shows it"
        )
    if not 0 <= seed_index < stored.seeds:
        raise ValueError(f"{folder} has {stored.seeds} seeds, there is no index {seed_index}")
    states, _, _ = spec.load_state(
        folder, stored, algo, lambda line: print(f"warning: {line}", file=sys.stderr)
    )
    state = jax.tree.map(lambda x: x[seed_index], states)
    act = jax.jit(algo.act, static_argnums=3)
    key = jax.random.key(stored.seed + seed_index)
    env = algo.env
    space = env.observation_space

    def policy(obs: np.ndarray) -> np.ndarray:
        nonlocal key
        if not deterministic:
            key, use = jax.random.split(key)
        else:
            use = key
        action = np.asarray(act(state, _observed(space, obs), use, deterministic))
        return env.host.native_actions(action) if isinstance(env, HostEnv) else action

    return policy


def _observed(space: Any, obs: np.ndarray) -> np.ndarray:
    """Returns `obs` with the learner's dtype. Raises ValueError where a shape or a number would pass for another
    one."""
    obs, events = np.asarray(obs), len(space.shape)
    if obs.ndim < events or obs.shape[obs.ndim - events :] != space.shape:
        raise ValueError(
            f"an observation has shape {space.shape}, after any axes of a batch; got {obs.shape}"
        )
    if not hasattr(space, "start"):  # a Box
        return obs.astype(np.float32 if np.issubdtype(space.dtype, np.floating) else space.dtype)
    first, last = int(space.start), int(space.start + space.n - 1)
    whole = np.issubdtype(obs.dtype, np.integer)
    if not whole or np.any((obs < first) | (obs > last)):
        raise ValueError(f"an observation is a whole number from {first} to {last}, got {obs}")
    return obs.astype(np.int32)
