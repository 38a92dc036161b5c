"""Compiler settings that must be in place before JAX first touches a device. Importing this module sets them.

On JAX 0.10 the CPU backend deadlocks when batched QR or Cholesky calls run concurrently (the orthogonal
initialisation of several seeds, MJX's solver): its concurrency-optimised scheduler starts more of them than it has
threads. Other releases do not, so the flag is set for this one alone. It makes that rare, not impossible: learners
initialise one matrix at a time (`agents.networks.orthogonal`).

With asynchronous dispatch, a CPU program that calls back to Python (the native physics engine) now and then hangs
for good: https://github.com/jax-ml/jax/issues/25861. Computations run inline instead, which costs nothing here: the
training loop waits for each chunk anyway.

JAX draws random numbers on a CPU by a loop of five rounds, so that large arrays compile fast; for the few thousand keys
of a batch of environments that loop costs more than a step of CartPole. Here it is unrolled: the same bits, and the
whole step becomes one fused loop (classic control gains 1.3 to 2.2 times, and compiles no slower).
"""

import os

import jax
import numpy as np
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir
from jaxtyping import Array, UInt32

try:
    from jax._src.xla_bridge import backends_are_initialized as _at_work
except (
    ImportError
):  # JAX promises no such function: then any forked process counts as one that cannot compute

    def _at_work() -> bool:
        return True


_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def _configure() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.__version_info__[:2] == (0, 10) and _FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=false".strip()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    lowering = mlir.lower_fun(threefry2x32, multiple_results=True)
    mlir.register_lowering(threefry2x32_p, lowering, platform="cpu")


def threefry2x32(
    key1: UInt32[Array, "..."],
    key2: UInt32[Array, "..."],
    x1: UInt32[Array, "..."],
    x2: UInt32[Array, "..."],
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """The counter (x1, x2) under the key, shapes that broadcast: 20 rounds of Threefry-2x32 (Salmon et al. 2011,
    "Parallel random numbers: as easy as 1, 2, 3", section 3.3), as JAX's own default generator."""
    keys = (key1, key2, key1 ^ key2 ^ np.uint32(0x1BD11BDA))
    x1, x2 = x1 + keys[0], x2 + keys[1]
    for i in range(5):
        for bits in _ROTATIONS[i % 2]:
            x1 = x1 + x2
            x2 = ((x2 << np.uint32(bits)) | (x2 >> np.uint32(32 - bits))) ^ x1
        x1 = x1 + keys[(i + 1) % 3]
        x2 = x2 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x1, x2


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


_forked_at_work = False
if hasattr(os, "register_at_fork"):  # not on Windows, where no process is forked
    os.register_at_fork(after_in_child=_note_fork)
_configure()
