"""Command lines and everything that touches files: training runs, their curves and videos, and `load`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np


def load(
    run: str | Path, seed_index: int = 0, deterministic: bool = True
) -> Callable[[np.ndarray], np.ndarray]:
    """The policy of a run on disk, from its newest checkpoint: `policy(obs) -> action`, NumPy in and out.

    `obs` may be single or have leading batch axes. With `deterministic=False` actions are samples, each call from
    the next key. Raises ValueError where `run` is not a run or has no such seed.
    """
    import sys

    import jax

    from experiments import spec as specs

    folder = Path(run)
    spec, algo = specs.open_run(folder)
    specs.refuse_tokens(folder, spec)
    if not 0 <= seed_index < spec.seeds:
        raise ValueError(f"{folder} has {spec.seeds} seeds, there is no index {seed_index}")
    states, _, _ = specs.load_state(
        folder, spec, algo, lambda line: print(f"warning: {line}", file=sys.stderr)
    )
    state = jax.tree.map(lambda x: x[seed_index], states)
    act = jax.jit(algo.act, static_argnums=3)
    key = jax.random.key(spec.seed + seed_index)

    def policy(obs: np.ndarray) -> np.ndarray:
        nonlocal key
        if not deterministic:
            key, use = jax.random.split(key)
        else:
            use = key
        return np.asarray(act(state, np.asarray(obs, np.float32), use, deterministic))

    return policy
