import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import base, process
from envs.classic.cartpole import CartPole
from envs.cores import usable_cores
from envs.threefry import threefry2x32, threefry2x32_in_loop

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
    process.set_scheduler_flag()
    return os.environ["XLA_FLAGS"]


def test_the_flag_is_set_for_jax_0_10_alone(monkeypatch):
    flag = f"{process.SCHEDULER_FLAG}=false"
    assert configured(monkeypatch, "", (0, 10, 2)) == flag
    assert configured(monkeypatch, "--xla_a=1", (0, 10, 0)) == f"--xla_a=1 {flag}"
    assert (
        configured(monkeypatch, f"{process.SCHEDULER_FLAG}=true", (0, 10, 2))
        == f"{process.SCHEDULER_FLAG}=true"
    )
    assert configured(monkeypatch, "--xla_a=1", (0, 11, 0)) == "--xla_a=1"
    assert configured(monkeypatch, "", (0, 9, 2)) == ""


@pytest.mark.skipif(jax.__version_info__[:2] != (0, 10), reason="the flag is for JAX 0.10")
def test_importing_envs_sets_the_flag():
    assert (
        process.SCHEDULER_FLAG in os.environ["XLA_FLAGS"]
    )  # set by tests/conftest.py importing envs


def test_threefry_passes_its_authors_known_answers():
    """Random123's kat_vectors, threefry2x32, 20 rounds: counter, key, result."""
    ones = 0xFFFFFFFF
    for x, key, expected in (
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((ones, ones), (ones, ones), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ):
        result = threefry2x32(*(jnp.uint32(v) for v in (*key, *x)))
        assert tuple(map(int, result)) == expected


def test_threefry_in_a_loop_gives_the_same_bits():
    keys, counters = (jnp.arange(2 * n, dtype=jnp.uint32).reshape(2, n) for n in (1, 5))
    counters = counters << 20
    unrolled = threefry2x32(*keys, *counters)
    looped = jax.jit(threefry2x32_in_loop)(*keys, *counters)
    np.testing.assert_array_equal(np.stack(looped), np.stack(unrolled))


def test_random_numbers_are_jax_own_without_its_loop():
    draw = "jax.random.bits(jax.random.split(jax.random.key(7), 3)[2], (5,))"
    code = f"import jax; assert 'while' in jax.jit(lambda: {draw}).lower().as_text(); print({draw})"
    untouched = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )

    def bits():
        return jax.random.bits(jax.random.split(jax.random.key(7), 3)[2], (5,))

    assert str(bits()) == untouched.stdout.strip()
    assert "while" not in jax.jit(bits).lower().as_text()


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


@pytest.fixture
def wide():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def test_64_bit_jax(wide):
    """Refused where an environment is made, and where one that was made before is used."""
    for use in (
        lambda: envs.make("CartPole-v1"),
        lambda: envs.make("gym:CartPole-v1"),
        lambda: jax.eval_shape(lambda key: base.reset(CartPole(), key), jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match="for JAX with 32 bits, and jax_enable_x64 is on"):
            use()


def test_usable_cores_where_the_system_tells_nothing_of_a_process(monkeypatch):
    """As on macOS and Windows."""
    assert usable_cores() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()


UNTOUCHED = """
import os, jax, jax.numpy as jnp, mujoco
handlers = []
os.register_at_fork = lambda **given: handlers.extend(given.values())
flags = os.environ.get("XLA_FLAGS")
dispatch = jax.config.values["jax_cpu_enable_async_dispatch"]
import envs
from envs import base, process

def run(name, **options):
    env = envs.make(name, **options)
    keys = jax.random.split(jax.random.key(0), 3)
    running, _ = jax.jit(jax.vmap(base.reset, (None, 0)))(env, keys)
    action = jnp.stack([jnp.asarray(env.action_space.sample())] * 3)
    _, timestep = jax.jit(jax.vmap(base.step, (None, 0, 0, 0)))(env, keys, running, action)
    return timestep.reward.shape

assert run("CartPole-v1") == run("walker", backend="native") == (3,)
draw = jax.jit(lambda: jax.random.bits(jax.random.key(7), (5,)))
print(
    os.environ.get("XLA_FLAGS") == flags,
    jax.config.values["jax_cpu_enable_async_dispatch"] == dispatch,
    "while" in draw.lower().as_text(),
    not [handler for handler in handlers if str(handler.__module__).startswith("envs")],
    mujoco.get_mju_user_warning() is None,
    bool(process._clock_pointer().value),
)
print(draw().tolist())
"""


@pytest.mark.slow
def test_one_switch_leaves_the_process_alone():
    """Without it all six are changed; environments work, with the same random numbers, in both cases."""

    def output(switch):
        clean = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        run = subprocess.run(
            [sys.executable, "-c", UNTOUCHED],
            env=clean | {process.SWITCH: switch, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        untouched, numbers = run.stdout.splitlines()
        return untouched.split(), numbers

    untouched, numbers = output("1")
    assert untouched == ["True"] * 6
    changed, same = output("0")
    # The flag is for one version of JAX.
    assert changed == [str(jax.__version_info__[:2] != (0, 10)), *["False"] * 5]
    assert same == numbers
