import os
import subprocess
import sys

import jax
import pytest

from envs import xla

ORTHOGONAL = """
import envs, jax
orthogonal = jax.nn.initializers.orthogonal()
init = jax.jit(jax.vmap(lambda key: orthogonal(key, (64, 64))))
for i in range(200):
    jax.block_until_ready(init(jax.random.split(jax.random.key(i), 8)))
print("done")
"""


def configured(monkeypatch, flags, version):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(jax, "__version_info__", version)
    xla._configure()
    return os.environ["XLA_FLAGS"]


def test_the_flag_is_set_for_jax_0_10_alone(monkeypatch):
    flag = f"{xla._FLAG}=false"
    assert configured(monkeypatch, "", (0, 10, 2)) == flag
    assert configured(monkeypatch, "--xla_a=1", (0, 10, 0)) == f"--xla_a=1 {flag}"
    assert configured(monkeypatch, f"{xla._FLAG}=true", (0, 10, 2)) == f"{xla._FLAG}=true"
    assert configured(monkeypatch, "--xla_a=1", (0, 11, 0)) == "--xla_a=1"
    assert configured(monkeypatch, "", (0, 9, 2)) == ""


@pytest.mark.skipif(jax.__version_info__[:2] != (0, 10), reason="the flag is for JAX 0.10")
def test_importing_envs_sets_the_flag():
    assert xla._FLAG in os.environ["XLA_FLAGS"]  # set by tests/conftest.py importing envs


def test_batched_qr_does_not_hang():
    """Without the flag JAX 0.10 deadlocks here on two cores, at once or nearly."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
        "JAX_PLATFORMS": "cpu"
    }
    run = subprocess.run(
        [sys.executable, "-c", ORTHOGONAL],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.strip() == "done", run.stderr
