"""Everything that this package changes for the whole process, and the switch that leaves all of it alone.

Importing the module, which `import envs` does before JAX touches a device, changes JAX:

- `XLA_FLAGS`, on JAX 0.10 only. Its CPU backend deadlocks when batched QR or Cholesky calls run concurrently (the
  orthogonal initialisation of several seeds, MJX's solver): the concurrency-optimised scheduler starts more of them
  than it has threads. The flag makes that rare, not impossible: learners initialise one matrix at a time
  (`agents.networks.orthogonal`).
- Asynchronous dispatch is off. With it, a CPU program that calls back to Python (the native physics engine) now and
  then hangs for good: https://github.com/jax-ml/jax/issues/25861. Computations run inline instead, which costs nothing
  here: the training loop waits for each chunk anyway.
- Random numbers on a CPU are drawn without a loop, with the same bits (see threefry.py). Commands that train on tokens
  draw them in a loop again, by `draw_in_loop`: there they are few, and programs compile faster.
- A handler notes in a forked process that JAX was at work before the fork, so that `require_unforked` can refuse it.

The first native physics engine changes MuJoCo, by `prepare_mujoco`:

- Its clock is stopped. The Python package has every step read the clock some dozens of times, for `MjData.timer`, which
  no environment shows: a sixth to a fifth of the time that the physics of a small robot takes. A clock that a user has
  set goes on.
- Its warnings are silenced, unless a user has set a handler: a diverged simulation is reported as NaN; MuJoCo's warning
  and log file would say it once more.

With the environment variable STRIDE_LEAVE_PROCESS_ALONE=1, set before the import, none of this is done.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

from envs.threefry import threefry2x32, threefry2x32_in_loop

try:
    from jax._src.xla_bridge import backends_are_initialized as _at_work
except ImportError:
    # JAX promises no such function: without it, any forked process counts as one that cannot compute.
    def _at_work() -> bool:
        return True


SWITCH = "STRIDE_LEAVE_PROCESS_ALONE"
SCHEDULER_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"
_MUJOCO_LIBRARY = "mujoco.dll" if sys.platform == "win32" else "libmujoco*"

_forked_at_work = False


def left_alone() -> bool:
    """True if the user wants the process as it is: `STRIDE_LEAVE_PROCESS_ALONE` is set, and not to 0."""
    return os.environ.get(SWITCH, "0") not in ("", "0")


def prepare_jax() -> None:
    """Changes JAX as listed above. Called once, by the import."""
    if left_alone():
        return
    set_scheduler_flag()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    _draw_by(threefry2x32)
    if hasattr(os, "register_at_fork"):  # not on Windows, where no process is forked
        os.register_at_fork(after_in_child=_note_fork)


def draw_in_loop() -> None:
    """Has programs that are lowered from now on draw random numbers in a loop on a CPU: they compile faster, and draw
    the same bits. Does nothing where the process is to be left alone."""
    if not left_alone():
        _draw_by(threefry2x32_in_loop)


def _draw_by(function: Callable[..., Any]) -> None:
    lowering = mlir.lower_fun(function, multiple_results=True)
    mlir.register_lowering(threefry2x32_p, lowering, platform="cpu")


def set_scheduler_flag() -> None:
    """Adds the scheduler's flag to `XLA_FLAGS` on JAX 0.10, unless it is there already."""
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.__version_info__[:2] == (0, 10) and SCHEDULER_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {SCHEDULER_FLAG}=false".strip()


def prepare_mujoco() -> None:
    """Changes MuJoCo as listed above. May be called again, and does nothing then."""
    if left_alone():
        return
    import mujoco

    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(lambda message: None)
    stop_clock()


def stop_clock() -> None:
    """Stops MuJoCo's clock until `mujoco.set_mjcb_time` is called, unless a user has set a clock. Does nothing if
    MuJoCo's library cannot be located; steps are then slower."""
    import mujoco

    # `set_mjcb_time` cannot stop it, for None means the package's own clock; in C a null `mjcb_time` does.
    pointer = _clock_pointer()
    if pointer is not None and mujoco.get_mjcb_time() is None:
        pointer.value = None


@functools.cache
def _clock_pointer() -> ctypes.c_void_p | None:
    """MuJoCo's C variable `mjcb_time`."""
    import mujoco

    for path in sorted(Path(mujoco.__file__).parent.glob(_MUJOCO_LIBRARY)):
        try:
            return ctypes.c_void_p.in_dll(ctypes.CDLL(str(path)), "mjcb_time")
        except (OSError, ValueError):  # no library, or one without the variable
            continue
    return None


def require_single_precision() -> None:
    """Raises ValueError where JAX computes with 64 bits: environments and learners are written for 32."""
    if jax.dtypes.canonicalize_dtype(np.float64) == np.float64:
        raise ValueError(
            "this package is for JAX with 32 bits, and jax_enable_x64 is on: unset JAX_ENABLE_X64, or "
            'jax.config.update("jax_enable_x64", False)'
        )


def require_unforked() -> None:
    """Raises RuntimeError in a process that was forked from one in which JAX was at work: its threads are not here,
    and the first computation would wait for them for ever."""
    if _forked_at_work:
        raise RuntimeError(
            "JAX does not survive a fork, and was at work in the process that this one was forked from: start worker "
            'processes afresh, say gymnasium.make_vec("envs:stride/...", num_envs=..., vectorization_mode="async", '
            'vector_kwargs={"context": "spawn"}), or leave out vectorization_mode'
        )


def _note_fork() -> None:
    global _forked_at_work
    _forked_at_work = _forked_at_work or _at_work()


prepare_jax()
