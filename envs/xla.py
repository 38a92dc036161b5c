"""Compiler settings that must be in place before JAX first touches a device. Importing this module sets them.

On JAX 0.10 the CPU backend deadlocks when batched QR or Cholesky calls run concurrently (the orthogonal
initialisation of several seeds, MJX's solver): its concurrency-optimised scheduler starts more of them than it has
threads. Other releases do not, so the flag is set for this one alone.

With asynchronous dispatch, a CPU program that calls back to Python (the native physics engine) now and then hangs
for good: https://github.com/jax-ml/jax/issues/25861. Computations run inline instead, which costs nothing here: the
training loop waits for each chunk anyway.
"""

import os

import jax

_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"


def _configure() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.__version_info__[:2] == (0, 10) and _FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=false".strip()
    jax.config.update("jax_cpu_enable_async_dispatch", False)


_configure()
