"""Checks that an environment keeps the contract of `envs/base.py`: each a pure function, its finding in plain words.

Checks go from the ground up: after one that the next ones stand on has failed, the rest is left.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from envs import base
from envs.base import Env
from envs.tokens import TokenEnv
from experiments.evaluation import control
from experiments.evaluation.frame_rate import frame_rate
from experiments.user_envs.check_spaces import action_bounds, spaces
from experiments.user_envs.check_tools import (
    Note,
    Problem,
    explained,
    key_of,
    leaf_name,
    random_action,
    require_equal,
    require_same_shapes,
    shape_of,
    shapes,
    untraced,
)
from experiments.user_envs.load import not_an_env
from experiments.user_envs.random_run import ends, finite_run, random_run, run_within_bounds
from experiments.user_envs.token_checks import TOKEN_CHECKS

Check = tuple[str, Callable[..., None], bool]


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of a check."""

    check: str  # what was looked at
    problem: str | None = None  # the error and its remedy; None: no error
    note: str | None = None  # what may be meant, or not


def check(env: Env, folder: Path | None = None, checks: Sequence[Check] = ()) -> list[Finding]:
    """Checks `env` and returns the findings, in order.

    `folder`: where its code is, to name lines in it. `checks`: all that there are of it, if none are given.
    """
    run = functools.cache(lambda: random_run(env))
    findings = []
    for name, look, ground in checks or checks_of(env):
        arguments = (env, run) if look in _OF_A_RUN else (env,)
        finding = _look(name, functools.partial(look, *arguments), folder or Path.cwd())
        findings.append(finding)
        if ground and finding.problem:
            break
    return findings


def checks_of(env: Env) -> Sequence[Check]:
    """Returns the checks of an environment; those of the task where the task is all that a user wrote."""
    return TOKEN_CHECKS if isinstance(env, TokenEnv) else CHECKS


def passed(findings: list[Finding]) -> bool:
    """Tells that no finding is a problem."""
    return not any(f.problem for f in findings)


def _look(name: str, look: Callable[[], None], folder: Path) -> Finding:
    try:
        look()
    except Problem as raised:
        return Finding(name, problem=str(raised))
    except Note as raised:
        return Finding(name, note=str(raised))
    except (Exception, SystemExit) as error:  # any error of the environment
        return Finding(name, problem=explained(error, folder))
    return Finding(name)


# ------------------------------------------------------------------------------- what it is made of


def _is_an_env(env: Env) -> None:
    problem = not_an_env(env)
    if problem:
        raise Problem(f"it {problem}")


def _is_a_pytree(env: Env) -> None:
    mark = "mark the field flax.struct.field(pytree_node=False)"
    for path, leaf in jax.tree_util.tree_leaves_with_path(env):
        if not isinstance(leaf, bool | int | float | np.ndarray | np.generic | jax.Array):
            raise Problem(
                f"its field {leaf_name(path)} holds a {type(leaf).__name__}, which is no number or array: {mark}"
            )
    fields: Any = dataclasses.fields(env) if dataclasses.is_dataclass(env) else ()
    static = [f for f in fields if not f.metadata.get("pytree_node", True)]
    for field in static:
        value = getattr(env, field.name)
        try:
            hash(value)
        except TypeError:
            raise Problem(
                f"its field .{field.name}, marked pytree_node=False, holds a {type(value).__name__}, which cannot be "
                "hashed: use a tuple in place of a list, and leave arrays unmarked"
            ) from None


# ---------------------------------------------------------------------------------- shapes and types


def _initial(env: Env) -> None:
    state = jax.eval_shape(env.initial, key_of(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if jnp.issubdtype(leaf.dtype, jnp.float64):
            raise Problem(f"state{leaf_name(path)} is float64: use float32")
    if not jax.tree.leaves(state):
        raise Problem("the state that initial returns has no arrays in it")


def _transition(env: Env) -> None:
    state, action = shapes(env)
    after = jax.eval_shape(env.transition, state, action, key_of(0))
    require_same_shapes(state, after, "initial", "transition")
    require_same_shapes(state, jax.eval_shape(env.restart, state, key_of(0)), "initial", "restart")


def _observation(env: Env) -> None:
    state, _ = shapes(env)
    seen, space = jax.eval_shape(env.observation, state), env.observation_space
    if not hasattr(seen, "shape"):
        raise Problem(f"observation is a {type(seen).__name__}, not an array")
    if seen.shape != space.shape:
        raise Problem(f"observation has shape {seen.shape}, but the space says {space.shape}")
    both_whole = np.issubdtype(seen.dtype, np.integer) and isinstance(
        space, gymnasium.spaces.Discrete
    )
    if not both_whole and seen.dtype != space.dtype:
        raise Problem(f"observation has dtype {seen.dtype}, but the space says {space.dtype}")


def _reward(env: Env) -> None:
    state, action = shapes(env)
    reward = jax.eval_shape(env.reward, state, action, state)
    if not hasattr(reward, "shape") or reward.shape != ():
        raise Problem(f"reward has shape {shape_of(reward)}: return one number; jnp.sum, perhaps")
    if not jnp.issubdtype(reward.dtype, jnp.floating):
        raise Problem(f"reward has dtype {reward.dtype}: return a float")


def _terminal(env: Env) -> None:
    state, _ = shapes(env)
    for name in ("terminal", "truncated"):
        flag = jax.eval_shape(getattr(env, name), state)
        if not hasattr(flag, "shape") or flag.shape != ():
            raise Problem(f"{name} has shape {shape_of(flag)}: return one bool; jnp.any, perhaps")
        if flag.dtype != bool:
            raise Problem(f"{name} has dtype {flag.dtype}: return a bool, as comparisons give it")


def _info(env: Env) -> None:
    state, action = shapes(env)

    def info(*arguments):
        shown = env.info(*arguments)
        if not isinstance(shown, dict):
            raise Problem(f"info is a {type(shown).__name__}: return a dict")
        for name, x in shown.items():
            if not isinstance(x, bool | int | float | np.ndarray | np.generic | jax.Array):
                raise Problem(f"info[{name!r}] is a {type(x).__name__}: give one number")
        return shown

    infos = [jax.eval_shape(untraced(info), state, action, state) for _ in range(2)]
    if infos[0].keys() != infos[1].keys():
        raise Problem(
            f"info's keys change from call to call ({', '.join(infos[0].keys() ^ infos[1].keys())}): always give all"
        )
    for name, x in infos[0].items():
        if not isinstance(name, str):
            raise Problem(f"info has the key {name!r}: keys are strings")
        if shape_of(x) != ():
            raise Problem(f"info[{name!r}] has shape {shape_of(x)}: give one number")


def _at(env: Env) -> None:
    for steps in (0.0, np.inf):
        later = env.at(steps)
        if not isinstance(later, Env):
            raise Problem(f"at({steps}) is a {type(later).__name__}: return an environment")
    jax.eval_shape(env.at, jax.ShapeDtypeStruct((), jnp.int32))


# ------------------------------------------------------------------------------------------ behaviour


def _pure(env: Env) -> None:
    """Checks that functions are pure, outside `jit`, where a second call really is one."""
    first, second = (env.initial(key_of(1)) for _ in range(2))
    same_key = "called twice with the same key, {} gives different results ({}): draw from the key, with jax.random"
    require_equal(first, second, "initial", same_key)
    action = random_action(env, key_of(2))
    state, before = first, jax.tree.map(np.array, control.arrays(first))
    structure: Any = jax.tree.structure(state)
    after = env.transition(state, action, key_of(3))
    if structure != jax.tree.structure(state):
        raise Problem("transition changes the state it is given: make a new one")
    require_equal(
        before, state, "transition", "{} changes the state it is given ({}): make a new one"
    )
    require_equal(after, env.transition(state, action, key_of(3)), "transition", same_key)
    same = "called twice with the same state, {} gives different results ({}): it may depend on nothing else"
    for name in ("observation", "terminal"):
        look = getattr(env, name)
        require_equal(look(after), look(after), name, same)
    reward, again = (env.reward(state, action, after) for _ in range(2))
    require_equal(reward, again, "reward", same)
    require_equal(before, state, "reward", "{} changes the state it is given ({})")


def _keys(env: Env) -> None:
    starts = jax.jit(lambda k: jax.vmap(env.initial)(k))(jax.random.split(key_of(4), 8))
    if all(
        np.all(np.asarray(x) == np.asarray(x)[:1]) for x in jax.tree.leaves(control.arrays(starts))
    ):
        raise Note(
            "initial gives the same state for every key: draw from the key, unless that is meant"
        )


def _batches(env: Env) -> None:
    """Compares one environment alone with the same one among others."""
    key, action = key_of(5), random_action(env, key_of(6))

    def two_steps(key):
        running, obs = base.reset(env, key)
        running, first = base.advance(env, key, running, action)
        running, second = base.advance(env, key, running, action)
        return obs, first, second

    keys = jnp.stack([key, key_of(7), key])
    together = jax.jit(jax.vmap(two_steps))(keys)
    alone = jax.jit(two_steps)(key)
    paths = jax.tree_util.tree_leaves_with_path(alone)
    for (path, x), y in zip(paths, jax.tree.leaves(together), strict=True):
        if not np.allclose(np.asarray(x), np.asarray(y)[0], rtol=1e-3, atol=1e-3, equal_nan=True):
            raise Problem(
                f"alone and under jax.vmap it gives different results ({leaf_name(path)}): functions may "
                "see one environment only"
            )


def _starts(env: Env) -> None:
    ended = jax.jit(lambda k: jax.vmap(lambda k: env.terminal(env.initial(k)))(k))(
        jax.random.split(key_of(8), 64)
    )
    if np.any(ended):
        raise Problem(
            f"{np.mean(ended):.0%} of the episodes are over at their start: terminal(initial(key)) is true"
        )


def _render(env: Env) -> None:
    if env.render_fps is None:
        raise Note("render_fps is None: there will be no videos")
    try:
        frame_rate(env)
    except ValueError as error:
        raise Problem(str(error)) from None
    state = jax.tree.map(np.asarray, jax.jit(env.initial)(key_of(9)))
    try:
        image = env.render(state, 160, 90)
    except NotImplementedError:
        raise Problem("render_fps is set, but render is not written") from None
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != (90, 160, 3):
        kind = f"{image.dtype} {image.shape}" if hasattr(image, "shape") else type(image).__name__
        raise Problem(
            f"render(state, 160, 90) gives {kind}: return a NumPy array, uint8 (90, 160, 3)"
        )


_OF_A_RUN = (finite_run, run_within_bounds, ends)

# What is looked at, by which function, and whether the checks after it stand on it.
CHECKS: tuple[Check, ...] = (
    ("it is an environment", _is_an_env, True),
    ("its fields", _is_a_pytree, True),
    ("spaces", spaces, True),
    ("action bounds", action_bounds, False),
    ("initial", _initial, True),
    ("transition keeps the state's shape", _transition, True),
    ("observation fits its space", _observation, True),
    ("reward is a number", _reward, True),
    ("terminal is a bool", _terminal, True),
    ("info", _info, True),
    ("at", _at, False),
    ("functions are pure", _pure, False),
    ("starts differ", _keys, False),
    ("works in batches", _batches, True),
    ("no episode is over at its start", _starts, False),
    ("finite under random actions", finite_run, True),
    ("observations stay within bounds", run_within_bounds, False),
    ("how episodes end", ends, False),
    ("pictures", _render, False),
)
