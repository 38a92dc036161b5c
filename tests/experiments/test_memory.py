"""Memory that a program will take, before it is compiled."""

import jax
import jax.numpy as jnp
import pytest

from experiments.run import memory

SQUARE = jax.ShapeDtypeStruct((256, 256), "float32")
SIZE = 256 * 256 * 4


def peak(function, *arguments):
    return memory.peak(jax.make_jaxpr(function)(*arguments))


def repeated(x):
    return jax.lax.fori_loop(0, 9, lambda _, y: jnp.tanh(y), x)


def stacked(x):
    return jax.lax.scan(lambda y, _: (y, y @ y), x, None, 7)


def twice(x):
    return (x @ x) @ (x @ x)


def called(x):
    return jax.jit(stacked)(x)[1]


def chosen(x):
    return jax.lax.cond(x[0, 0] > 0, lambda y: y @ y, lambda y: called(y)[0], x)


@pytest.mark.parametrize(
    ("function", "squares"),
    [
        (jnp.tanh, 0),  # may be fused with whatever comes next
        (lambda x: x @ x, 1),
        (lambda x: jnp.tanh(x @ x) + 1, 1),
        (twice, 2),  # the second product may take the place of one of the first two
        (repeated, 1),  # in place
        (stacked, 8),  # seven results, and the product of one turn
        (called, 8),
        (chosen, 8),
    ],
)
def test_what_is_alive_at_once(function, squares):
    assert SIZE * squares <= peak(function, SQUARE) < SIZE * (squares + 0.5)


@pytest.mark.parametrize("function", [twice, repeated, stacked, jax.grad(lambda x: twice(x).sum())])
def test_the_estimate_is_a_lower_bound(function):
    compiled = jax.jit(function).lower(SQUARE).compile().memory_analysis()
    taken = compiled.temp_size_in_bytes + compiled.output_size_in_bytes
    assert peak(function, SQUARE) <= taken + compiled.argument_size_in_bytes


def test_this_machine_has_memory():
    free = memory.free_on_host()
    assert free is None or 2**20 < free < 2**50
    assert jax.default_backend() != "cpu" or memory.free_on_device() is not None


@pytest.mark.parametrize("names", [memory._VERSION_1, memory._VERSION_2])
def test_a_containers_memory_is_its_limit_less_what_it_uses(tmp_path, names):
    (tmp_path / names.limit).write_text("5000\n")
    (tmp_path / names.used).write_text("3000\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\n{names.cache} 700\n")
    assert memory._free_in_group(tmp_path, names) == 2700
    (tmp_path / names.limit).write_text("max\n")
    assert memory._free_in_group(tmp_path, names) is None
    assert memory._free_in_group(tmp_path / "none", names) is None
