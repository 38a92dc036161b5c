"""Tools of the checks: how they end, random actions, comparisons of states, explanations of errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from agents.spaces import element, has_range
from envs.base import Env
from experiments.evaluation import control
from experiments.user_envs.load import located


class Problem(Exception):  # noqa: N818  not an error of the program
    """Ends a check that finds something wrong; the message says what, and what to do."""


class Note(Exception):  # noqa: N818
    """Ends a check that finds something that may be intended."""


def key_of(n: int) -> jax.Array:
    """Returns the PRNG key of a number, one for each draw of a check."""
    return jax.random.key(n)


def shapes(env: Env) -> tuple[Any, jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of a state and an action."""
    return jax.eval_shape(env.initial, key_of(0)), jax.eval_shape(
        lambda k: random_action(env, k), key_of(0)
    )


def shape_of(x: Any) -> Any:
    """Returns the shape of an array, else words for its type."""
    return getattr(x, "shape", f"of a {type(x).__name__}")


def random_action(env: Env, key: jax.Array) -> jax.Array:
    """Returns a random action, uniform where the space has bounds."""
    space = env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return element(space, jax.random.randint(key, (), 0, int(space.n)))
    assert isinstance(space, gymnasium.spaces.Box)
    uniform = jax.random.uniform(key, space.shape, minval=-1.0, maxval=1.0)
    raw = jnp.where(has_range(space), uniform, jax.random.normal(key, space.shape))
    return element(space, raw)


def untraced(function: Callable) -> Callable:
    """Returns the same function under another identity: JAX remembers what it has traced."""
    return lambda *arguments: function(*arguments)


def require_same_shapes(one: Any, other: Any, name: str, other_name: str) -> None:
    """Raises Problem where two states differ in shape."""
    leaves, others = (
        {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
        for state in (one, other)
    )
    for leaf in leaves.keys() ^ others.keys():
        has, lacks = (name, other_name) if leaf in leaves else (other_name, name)
        raise Problem(
            f"{has} gives a state with {leaf or 'one array'}, {lacks} one without: give the same parts"
        )
    for leaf, a in leaves.items():
        b = others[leaf]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise Problem(
                f"state{leaf} is {a.dtype} {a.shape} from {name}, but {b.dtype} {b.shape} from {other_name}: a state "
                "keeps its shape and type for ever"
            )
    built: Any = jax.tree.structure(one)
    if built != jax.tree.structure(other):
        kinds = f"{type(one).__name__} from {name}, {type(other).__name__} from {other_name}"
        raise Problem(f"the state is built differently: {kinds}; use one class for both")


def require_equal(one: Any, other: Any, name: str, message: str) -> None:
    """Raises Problem with `message` about the first leaf in which two pytrees differ. `message` has places for `name`
    and for the leaf's name."""
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(control.arrays(one)),
        jax.tree.leaves(control.arrays(other)),
        strict=True,
    )
    for (path, x), y in pairs:
        x, y = np.asarray(x), np.asarray(y)
        if not np.array_equal(x, y, equal_nan=np.issubdtype(x.dtype, np.floating)):
            raise Problem(message.format(name, leaf_name(path) or "its value"))


def leaf_name(path: Any) -> str:
    """Returns a leaf's path in a pytree as Python writes it: ".qpos[0]"."""
    return jax.tree_util.keystr(path)


def is_bad(x: Any) -> bool:
    """Tells that an array of floats holds a number that is not finite."""
    x = np.asarray(x)
    return bool(np.issubdtype(x.dtype, np.floating) and not np.all(np.isfinite(x)))


def explained(error: BaseException, folder: Path) -> str:
    """Returns one line on an error raised in a user's code: its place in `folder`, and what it means where it is one of
    JAX's common complaints."""
    for kind, meaning in _MEANINGS.items():
        if isinstance(error, kind):
            where = located(error, folder).partition(f": {type(error).__name__}")[0]
            place = f" ({where})" if ", line " in where else ""
            return meaning + place
    return located(error, folder)


_MEANINGS: dict[type[Exception], str] = {
    jax.errors.TracerBoolConversionError: "a Python if, while, and, or, not, min or max depends on an array, which "
    "has no value while JAX compiles: use jnp.where, &, |, ~, jnp.minimum or jax.lax.cond",
    jax.errors.TracerArrayConversionError: "NumPy is called on an array that has no value while JAX compiles: use "
    "jax.numpy (jnp)",
    jax.errors.TracerIntegerConversionError: "an array is used as an index or a count in Python: use jnp indexing, or "
    "jax.lax.fori_loop",
    jax.errors.NonConcreteBooleanIndexError: "an array is indexed with a mask, so that the result's size depends on "
    "values: use jnp.where",
    jax.errors.UnexpectedTracerError: "an array of one call is kept and used in another: everything that lasts goes "
    "into the state",
    jax.errors.ConcretizationTypeError: "float(), int(), bool() or a shape depends on an array, which has no value "
    "while JAX compiles: keep it an array",
}
