"""Environment variables of actors' processes, which must be set before JAX is imported."""

from __future__ import annotations

import os
from pathlib import Path

import jax

# Each actor has one core: threads of its own would only wait for one another.
_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def variables(local: bool) -> dict[str, str]:
    """Returns the variables of an actor. `local`: on this machine, so that files are those of this process."""
    return {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}".strip(),
        "OMP_NUM_THREADS": "1",
        **({"PYTHONPATH": _python_path(), **_compile_cache()} if local else {}),
    }


def _python_path() -> str:
    """Returns the folders from which actors import this package, as this process does."""
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))


def _compile_cache() -> dict[str, str]:
    """Returns JAX's variables by which actors keep compiled programs where this process does, so that an actor that is
    started again need not compile."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not jax.config.values["jax_enable_compilation_cache"] or not folder:
        return {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    seconds = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(seconds),
    }
