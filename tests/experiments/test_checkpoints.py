import dataclasses
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.run import checkpoints

PROGRESS = {"iteration": 3, "pending": {"loss": [[0.1, float("inf")]]}}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    params: dict
    opt_state: tuple
    key: jax.Array
    nothing: None
    empty: jax.Array
    flags: jax.Array
    small: jax.Array


def make(seed):
    params = {"w": jax.random.normal(jax.random.key(seed), (3, 2)), "b/c": jnp.float32(seed)}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
    return State(
        params,
        optimizer.init(params),
        jax.random.key(seed),
        None,
        jnp.zeros((0, 4)),
        jnp.array([True, False]),
        jnp.ones(3, jnp.bfloat16),
    )


TEMPLATE = jax.eval_shape(make, 0)


def plain(tree):
    return jax.tree.map(lambda x: np.asarray(checkpoints._data(x)), tree)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, plain(a), plain(b))
    assert jax.tree.map(lambda x: x.dtype, a) == jax.tree.map(lambda x: x.dtype, b)


def no_warning(line):
    raise AssertionError(line)


def test_what_is_saved_comes_back(tmp_path):
    checkpoints.save(tmp_path, 10, make(1), PROGRESS)
    state, progress, steps = checkpoints.restore(tmp_path, TEMPLATE, no_warning)
    assert_same(state, make(1))
    assert (progress, steps) == (PROGRESS, 10)
    # Keys work, and buffers may be donated.
    step = jax.jit(
        lambda s: dataclasses.replace(s, key=jax.random.split(s.key)[0]), donate_argnums=0
    )
    step(step(state))


def test_the_last_three_are_kept(tmp_path):
    for steps in (0, 5, 10, 100):
        checkpoints.save(tmp_path, steps, make(steps), {})
    assert checkpoints.steps(tmp_path) == [100, 10, 5]


def files(path):
    return sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


DAMAGES = {
    "flipped": lambda p: [flip(f) for f in files(p)],
    "truncated": lambda p: [f.write_bytes(f.read_bytes()[:-5]) for f in files(p)],
    "emptied": lambda p: [f.write_bytes(b"") for f in files(p)],
    "files missing": lambda p: [f.unlink() for f in files(p)],
    "state missing": lambda p: shutil.rmtree(p / "state"),
    "progress missing": lambda p: shutil.rmtree(p / "progress"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over_with_a_word(tmp_path, damage):
    checkpoints.save(tmp_path, 10, make(1), PROGRESS)
    checkpoints.save(tmp_path, 20, make(2), PROGRESS)
    DAMAGES[damage](tmp_path / "20")
    said = []
    state, _, steps = checkpoints.restore(tmp_path, TEMPLATE, said.append)
    assert steps == 10
    assert_same(state, make(1))
    assert len(said) == 1
    assert "checkpoint 20 is damaged" in said[0]
    assert "\n" not in said[0]
    checkpoints.discard_after(tmp_path, 10)
    checkpoints.save(tmp_path, 20, make(3), PROGRESS)
    assert_same(checkpoints.restore(tmp_path, TEMPLATE, no_warning)[0], make(3))


def test_any_single_damaged_or_missing_file_is_noticed(tmp_path):
    checkpoints.save(tmp_path, 20, make(2), PROGRESS)
    for file in files(tmp_path / "20"):
        copy = file.read_bytes()
        for damage in (flip, Path.unlink):
            damage(file)
            with pytest.raises(checkpoints.DamagedCheckpointError):
                checkpoints.restore(tmp_path, TEMPLATE, lambda line: None)
            file.write_bytes(copy)
    checkpoints.restore(tmp_path, TEMPLATE, no_warning)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: dataclasses.replace(s, flags=jnp.zeros(3, bool)),
        lambda s: dataclasses.replace(s, flags=jnp.zeros(2, jnp.int32)),
        lambda s: dataclasses.replace(s, small=jnp.ones(3, jnp.float32)),
        lambda s: dataclasses.replace(s, params={**s.params, "w": jnp.zeros((2, 3))}),
        lambda s: dataclasses.replace(s, params={"w": s.params["w"]}),
    ],
)
def test_another_shape_or_dtype_is_refused(tmp_path, change):
    checkpoints.save(tmp_path, 10, change(make(1)), {})
    said = []
    with pytest.raises(checkpoints.DamagedCheckpointError):
        checkpoints.restore(tmp_path, TEMPLATE, said.append)
    assert "is whole, but does not fit the settings in config.json" in said[0]


def test_a_checkpoint_counts_from_its_checksums_on(tmp_path):
    assert not checkpoints.begun(tmp_path / "nowhere")
    (tmp_path / "0").mkdir()
    assert not checkpoints.begun(tmp_path)
    checkpoints.save(tmp_path, 10, make(1), {})
    assert checkpoints.begun(tmp_path)


def test_only_what_a_save_left_behind_is_removed(tmp_path):
    for name in ("5", "20", "20.orbax-checkpoint-tmp", "mine"):
        (tmp_path / name).mkdir()
    checkpoints.discard_after(tmp_path, 10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["5", "mine"]
    checkpoints.discard_after(tmp_path / "nowhere", 10)


def test_where_none_can_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written: ") as error:
        checkpoints.save(tmp_path / "file", 10, make(1), {})
    assert "\n" not in str(error.value)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from experiments.run import checkpoints
n = 0
while True:
    n += 1
    checkpoints.save(Path(sys.argv[1]), n, {"x": np.full(300_000, n, np.float32)}, {"n": n})
    print(n, flush=True)
"""


@pytest.mark.parametrize(
    "delay", [0.03, *(pytest.param(x, marks=pytest.mark.slow) for x in (0.01, 0.05))]
)
def test_killed_while_writing_the_last_whole_one_is_there(tmp_path, delay):
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    written = [int(process.stdout.readline()) for _ in range(4)][-1]
    time.sleep(delay)
    process.kill()
    written = max([written, *map(int, process.stdout.read().split())])
    process.stdout.close()
    process.wait()
    template = {"x": jax.ShapeDtypeStruct((300_000,), jnp.float32)}
    said = []  # killed between a checkpoint and its checksums, it is not complete
    state, progress, steps = checkpoints.restore(tmp_path, template, said.append)
    assert all("not completed" in line for line in said)
    assert steps == progress["n"] >= written
    assert np.all(np.asarray(state["x"]) == steps)
    checkpoints.discard_after(tmp_path, steps)
    assert all(p.name.isdigit() for p in tmp_path.iterdir())
