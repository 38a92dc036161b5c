"""What the checks of `check.py` are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from agents.spaces import element, has_range
from envs import base
from envs.base import Env
from experiments.evaluation import control
from experiments.user_envs.load import located

STEPS, ENVS = 1000, 8  # of the random run
Run = Callable[[], dict[str, Any]]  # what `random_run` has found


class Problem(Exception):  # noqa: N818  not an error of the program
    """The end of a check that found something."""


class Note(Exception):  # noqa: N818
    """The end of a check that found something which may be meant."""


def key_of(n: int) -> jax.Array:
    return jax.random.key(n)


def shapes(env: Env) -> tuple[Any, jax.ShapeDtypeStruct]:
    """Of a state and an action."""
    return jax.eval_shape(env.initial, key_of(0)), jax.eval_shape(
        lambda k: random_action(env, k), key_of(0)
    )


def shape_of(x: Any) -> Any:
    return getattr(x, "shape", f"of a {type(x).__name__}")


def random_action(env: Env, key: jax.Array) -> jax.Array:
    """A random one, uniform where there are bounds."""
    space = env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return element(space, jax.random.randint(key, (), 0, int(space.n)))
    assert isinstance(space, gymnasium.spaces.Box)
    uniform = jax.random.uniform(key, space.shape, minval=-1.0, maxval=1.0)
    raw = jnp.where(has_range(space), uniform, jax.random.normal(key, space.shape))
    return element(space, raw)


def anew(function: Callable) -> Callable:
    """Under another identity: JAX remembers what it has traced."""
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
    """Raises Problem with the message, about the first leaf that differs."""
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
    return jax.tree_util.keystr(path)


def is_bad(x: Any) -> bool:
    x = np.asarray(x)
    return bool(np.issubdtype(x.dtype, np.floating) and not np.all(np.isfinite(x)))


def random_run(env: Env, steps: int | None = None) -> dict[str, Any]:
    """Some steps of random actions in each of ENVS environments; None: STEPS. Compiles in a hurry.

    broken, unseen, terminated: bool [steps, ENVS], state or reward not finite, observation not finite, episode
    terminated; bad: uint8 [steps, ENVS], see `envs.base.Bad`; t: [steps, ENVS] steps of the episode so far; unstarted:
    bool [ENVS], an episode's first observation not finite; low, high: like an observation, its range; before: state,
    action and key [ENVS] of the first step that broke.
    """

    def body(carry, key):
        running, before, found, unstarted, low, high = carry
        action_key, step_key = jax.random.split(key)
        action = random_action(env, action_key)
        transition_key = jax.random.split(step_key)[0]  # as `step` splits it
        after, timestep = base.step(env, step_key, running, action)
        broken = (timestep.bad & (base.Bad.STATE | base.Bad.REWARD)) > 0
        here = (running.state, action, transition_key)
        before = jax.tree.map(lambda a, b: jnp.where(broken & ~found, a, b), here, before)
        unstarted = unstarted | ~base.all_finite(timestep.obs)
        low, high = _wider(low, high, timestep.next_obs)
        unseen = (timestep.bad & base.Bad.OBSERVATION) > 0
        out = (broken, unseen, timestep.terminated, timestep.bad, running.t + 1)
        return (after, before, found | broken, unstarted, low, high), out

    def run(key):
        start_key, action_key, steps_key = jax.random.split(key, 3)
        running, obs = base.reset(env, start_key)
        before = (running.state, random_action(env, action_key), key)
        carry = (running, before, jnp.zeros((), bool), ~base.all_finite(obs), obs, obs)
        return jax.lax.scan(body, carry, jax.random.split(steps_key, steps or STEPS))

    keys = jax.random.split(key_of(10), ENVS)
    program = jax.jit(jax.vmap(run)).lower(keys).compile(compiler_options=_hurried())
    (_, before, _, unstarted, low, high), out = program(keys)
    names = ("broken", "unseen", "terminated", "bad", "t")
    found = {name: np.asarray(x).T for name, x in zip(names, out, strict=True)}
    ends = {"low": np.min(low, axis=0), "high": np.max(high, axis=0)}
    return {**found, **ends, "unstarted": np.asarray(unstarted), "before": before}


def _hurried() -> dict[str, Any] | None:
    """Options with which XLA compiles a program that runs for a moment in a third of the time; None: its own, where it
    is not known to have these."""
    if jax.default_backend() != "cpu" or not jax.__version__.startswith("0.10."):
        return None
    return {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def _wider(low: jax.Array, high: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.fmin(low, seen), jnp.fmax(high, seen)


def explained(error: BaseException, folder: Path) -> str:
    """What JAX's commonest complaints mean, and where."""
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
