"""Calls to the host from inside a JAX program: `jax.pure_callback` without its way through JAX.

`pure_callback` puts its arguments on a device and its function under a context of its own before each call, which costs
more than everything else in a crossing (of 512 robots: 175 microseconds with it, 32 without), and runs JAX inside a
callback, from which JAX now and then never returns (see process.py). Here the function takes and returns NumPy arrays.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import PyTree

_REPORT = "Traceback (most recent call last):\n"

_host_call = Primitive("host_call")
_host_call.multiple_results = True


def host_call(function: Callable[..., PyTree], result: PyTree, *arguments: PyTree) -> PyTree:
    """Calls `function(*arguments)` in Python on the host. NumPy alone: JAX must not be called in there.

    Args:
      function: observably pure: JAX may call it again, or not at all. Under `vmap` it is called once for the whole
        batch, with the batch's axes in front of all arguments, which it may not write to.
      result: shapes and dtypes of its result without a batch, `jax.ShapeDtypeStruct`s.
    """
    if not hasattr(mlir, "emit_python_callback"):  # JAX promises to keep pure_callback, not this
        return jax.pure_callback(function, result, *arguments, vmap_method="broadcast_all")
    leaves, arguments_tree = jax.tree.flatten(arguments)
    results, result_tree = jax.tree.flatten(result)

    def flat(*arrays: np.ndarray) -> list[np.ndarray]:
        out = function(*jax.tree.unflatten(arguments_tree, arrays))
        return [np.asarray(x) for x in jax.tree.leaves(out)]

    out = _host_call.bind(*map(jnp.asarray, leaves), function=flat, results=tuple(results))
    return jax.tree.unflatten(result_tree, out)


class HostError(RuntimeError):
    """A failure of a function that is called on the host, whose message is one line for people to read."""


def host_failure(error: BaseException) -> str | None:
    """The failure on the host behind `error`, in one line; None if `error` comes from no call to the host.

    JAX reports an exception on the host as a JaxRuntimeError, or, from a program's second call on, as a ValueError,
    whose text is a traceback.
    """
    if isinstance(error, HostError):
        return str(error)
    if not isinstance(error, jax.errors.JaxRuntimeError | ValueError):
        return None
    _, found, report = str(error).rpartition(_REPORT)
    said = itertools.dropwhile(lambda line: line.startswith("  "), report.splitlines())
    line = " ".join(" ".join(said).split())
    return line.partition(f"{HostError.__name__}: ")[2] or line if found else None


def one_line(error: BaseException) -> str:
    """Its type and its message: "KeyError: 'x'"."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no more is said'}"


@_host_call.def_impl
def _call(*arguments, function, results):
    del results
    return [jnp.asarray(x) for x in function(*map(np.asarray, arguments))]


@_host_call.def_abstract_eval
def _shapes(*arguments, function, results):
    del arguments, function
    return [jax.core.ShapedArray(x.shape, x.dtype) for x in results]


def _batch(arguments, axes, *, function, results):
    size = next(x.shape[i] for x, i in zip(arguments, axes, strict=True) if i is not None)
    arguments = [
        jnp.broadcast_to(x, (size, *x.shape)) if i is None else jnp.moveaxis(x, i, 0)
        for x, i in zip(arguments, axes, strict=True)
    ]
    results = tuple(jax.ShapeDtypeStruct((size, *x.shape), x.dtype) for x in results)
    out = _host_call.bind(*arguments, function=function, results=results)
    return out, [0] * len(out)


def _lower(ctx: Any, *operands, function, results):
    del results
    out, _, _ = mlir.emit_python_callback(
        ctx,
        function,
        None,
        operands,
        ctx.avals_in,
        ctx.avals_out,
        has_side_effect=False,
        returns_token=False,
    )
    return out


batching.primitive_batchers[_host_call] = _batch
mlir.register_lowering(_host_call, _lower, cacheable=False)  # each call its own function
