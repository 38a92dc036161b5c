"""Loads a user's own file: `path/to/my_robot.py:MyRobot` names a class in it, or a function that makes one."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import jax

from envs.base import Env
from envs.callback import host_failure, one_line
from envs.tokens import Task, TokenEnv
from experiments.console.suggest import suggestion

REQUIRED = (
    "observation_space",
    "action_space",
    "max_episode_steps",
    "initial",
    "transition",
    "observation",
    "reward",
    "terminal",
)
# The class's own part of `agents.algorithm.Learner`; an instance has a config, an env and two numbers besides.
LEARNER = frozenset({"Config", "init", "step", "learned", "buffer_bytes"})


def is_file(name: str) -> bool:
    """Tells that a name is of the form `FILE.py` or `FILE.py:NAME`."""
    return name.endswith(".py") or ".py:" in name


def path_of(name: str) -> Path:
    """Returns the file of `FILE.py:NAME` or `FILE.py`, absolute."""
    return _split(name)[0]


def name_in(name: str) -> str:
    """Returns the NAME of `FILE.py:NAME`. Raises ValueError where there is none."""
    path, attribute = _split(name)
    if not attribute:
        raise ValueError(f"{path} needs the name of a class, FILE.py:NAME")
    return attribute


def absolute(name: str) -> str:
    """Returns `FILE.py:NAME` or `FILE.py` with an absolute path."""
    path, attribute = _split(name)
    return f"{path}:{attribute}" if attribute else str(path)


def factory(name: str) -> Callable[..., Any]:
    """Returns the class or function to which `name` points. Raises ValueError with one line where there is none."""
    path, attribute = _split(name)
    module = load(path)
    if not attribute or not hasattr(module, attribute):
        candidates = _candidates(module)
        hint = (
            suggestion(attribute, candidates)
            if candidates
            else "no class in it derives from envs.base.Env or envs.tokens.Task"
        )
        wrong = f"has no {attribute!r}" if attribute else "needs the name of a class, FILE.py:NAME"
        raise ValueError(f"{path} {wrong}: {hint}")
    target = getattr(module, attribute)
    if not callable(target):
        kind = type(target).__name__
        raise ValueError(
            f"{attribute} in {path} is a {kind}, not a class or a function that makes one"
        )
    return target


def algorithm(name: str) -> tuple[str, type] | None:
    """Loads `FILE.py:NAME` or `FILE.py`. Returns NAME and the algorithm class of this name; None without a NAME.

    Raises ValueError with one line where the file cannot be loaded or has no such algorithm (`agents.algorithm`).
    """
    path, attribute = _split(name)
    module = load(path)
    if not attribute:
        return None
    classes = {k: x for k, x in vars(module).items() if isinstance(x, type)}
    if attribute not in classes:
        own = [k for k, x in classes.items() if not LEARNER - {*dir(x)}]
        hint = suggestion(attribute, own) if own else "no class in it is an algorithm"
        raise ValueError(f"{path} has no algorithm {attribute!r}: {hint}")
    lacking = sorted(LEARNER - {*dir(classes[attribute])})
    if lacking:
        raise ValueError(
            f"{attribute} in {path} is not an algorithm: it lacks {', '.join(lacking)}"
        )
    return attribute, classes[attribute]


def load(path: Path) -> ModuleType:
    """Loads the file as a module, once; its folder joins the import path, for its neighbours. Raises ValueError with
    one line where the file is missing or fails."""
    # The same in every process, and no two files', nor an installed package's.
    name = f"{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and `inspect.getfile` look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(f"{path} cannot be loaded: {located(error, path.parent)}") from error
    return module


def build(name: str, make: Callable[..., Any], kwargs: dict[str, Any]) -> Env:
    """Returns `make(**kwargs)`; a token task becomes its environment. Raises ValueError with one line where that fails
    or is no environment."""
    path, attribute = _split(name)
    try:
        env = make(**kwargs)
    except ValueError:
        raise  # what an environment says of impossible options
    except (Exception, SystemExit) as error:
        raise ValueError(f"{attribute} cannot be made: {located(error, path.parent)}") from error
    if isinstance(env, Task):
        return TokenEnv(env)
    if isinstance(env, TokenEnv):
        return env
    try:
        problem = not_an_env(env)
    except (Exception, SystemExit) as error:  # raised by one of its properties
        raise ValueError(f"{attribute} fails: {located(error, path.parent)}") from error
    if problem:
        raise ValueError(f"{attribute} in {path} {problem}")
    return env


def not_an_env(env: Any) -> str | None:
    """Returns what an environment lacks, as the end of a sentence; None where it lacks nothing."""
    kind = type(env).__name__
    if isinstance(env, gymnasium.Env):
        return "is a Gymnasium environment: register it there and give --env gym:ID"
    missing = [name for name in REQUIRED if _lacks(env, name)]
    if not isinstance(env, Env):
        rest = f"; it lacks {', '.join(missing)}" if missing else ""
        return f"makes a {kind}, not an environment: derive the class from envs.base.Env{rest}"
    if missing:
        return f"lacks {', '.join(missing)}"
    if any(x is env for x in jax.tree.leaves(env)):
        return f"is not decorated: put @flax.struct.dataclass above class {kind}"
    if type(env.max_episode_steps) is not int or env.max_episode_steps < 1:
        return f"has max_episode_steps {env.max_episode_steps!r}: it must be a whole number of at least 1"
    return None


def located(error: BaseException, folder: Path) -> str:
    """Returns file, line and error in one line; of the calls, the last in a file under `folder`. For an error on the
    host that JAX reports, only its message."""
    message = host_failure(error) or one_line(error)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    paths = [Path(f.filename) for f in frames]
    own = [
        f
        for f, path in zip(frames, paths, strict=True)
        if path.is_relative_to(folder) and "site-packages" not in path.parts
    ]
    return f"{own[-1].filename}, line {own[-1].lineno}: {message}" if own else message


def _lacks(env: Any, name: str) -> bool:
    """Tells that there is no such attribute, or only the contract's, which does nothing."""
    attribute = inspect.getattr_static(env, name, None)
    return attribute is None or attribute is inspect.getattr_static(Env, name, None)


def _candidates(module: ModuleType) -> list[str]:
    """Returns the environments and token tasks that a module defines."""
    return [
        name
        for name, x in vars(module).items()
        if isinstance(x, type) and issubclass(x, Env | Task) and x.__module__ == module.__name__
    ]


def _split(name: str) -> tuple[Path, str]:
    path, colon, attribute = name.rpartition(":")
    if not colon or attribute.endswith(".py"):  # a file without NAME, possibly with a drive letter
        path, attribute = name, ""
    return Path(path).expanduser().resolve(), attribute
