"""Settings that must be in place before any test touches a device."""

import gc
from pathlib import Path

from tests import fast_compile  # isort: skip  # noqa: F401  before JAX starts
import jax
import jaxtyping
import matplotlib
import pytest

import envs  # noqa: F401  first: it sets XLA's flags

# Compiled programs are kept from run to run; those with a callback (the native engine) JAX always compiles anew.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
matplotlib.use("Agg")
# Tracing allocates many small objects: with Python's own thresholds its collections take a tenth of the time.
gc.set_threshold(100_000, 20, 50)


@pytest.fixture(autouse=True, scope="session")
def _own_configuration(tmp_path_factory):
    """Settings of the user who runs the tests are neither read nor written, by subprocesses neither."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def unchecked():
    """Without the run-time type checks: what an option of the wrong kind meets in a user's program."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
