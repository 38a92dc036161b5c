"""MuJoCo behind one interface, with interchangeable engines.

`native` runs C MuJoCo on host threads and is the right choice without a GPU; `mjx` runs MuJoCo's JAX port inside
the compiled program and is the right choice with one.
"""

from __future__ import annotations

import difflib
import warnings
from typing import Literal

import jax
import mujoco

from envs.base import require_count
from envs.physics.engine import EXTRAS, Engine, PhysicsState

Backend = Literal["auto", "native", "mjx"]
BACKENDS = ("auto", "native", "mjx")

__all__ = ["BACKENDS", "EXTRAS", "Backend", "Engine", "PhysicsState", "make_engine"]


def make_engine(
    model: mujoco.MjModel,
    substeps: int,
    backend: Backend = "auto",
    extras: tuple[str, ...] = (),
) -> Engine:
    """The engine named `backend` for `model`; each control step takes `substeps` steps of its timestep.

    `auto` is `native` unless JAX's default device is a GPU. `extras` are fields of MjData that states are to carry in
    `PhysicsState.extras`, of those in `EXTRAS`. Engines may be shared: change no engine's model, but a copy of it.

    Raises ValueError for an unknown name of either, or a number of substeps that is no positive integer.
    """
    require_count("substeps", substeps)
    if backend not in BACKENDS:
        near = difflib.get_close_matches(backend, BACKENDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(BACKENDS)}"
        raise ValueError(f"unknown physics backend {backend!r}: {hint}")
    on_cpu = jax.default_backend() == "cpu"
    if backend == "auto":
        backend = "native" if on_cpu else "mjx"
    if backend == "native":
        from envs.physics.native import shared_engine

        return shared_engine(model, substeps, extras)
    if on_cpu:
        warnings.warn(
            "the mjx backend on a CPU is about ten times slower than native", stacklevel=2
        )
    from envs.physics.mjx import MjxEngine

    return MjxEngine(model, substeps, extras)
