"""Checks a user's environment before each training, in about a second, without writing a file.

An environment in JAX gets the checks of shapes and types in `check.py` and a few random steps; an environment of
Gymnasium gets a few of its own steps. `python -m experiments.envs --check` checks more.
"""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path

import gymnasium
import numpy as np

import envs
from envs.base import Bad, Env
from envs.callback import HostError
from envs.host import Host, HostEnv
from envs.mujoco_env import MujocoEnv
from experiments.evaluation import nonfinite
from experiments.evaluation.frame_rate import frame_rate
from experiments.user_envs import check
from experiments.user_envs.check_tools import Note, Problem
from experiments.user_envs.random_run import finite_run, random_run, run_within_bounds

STEPS = 32  # random ones, of each of some environments in JAX
HOST_STEPS = 8  # of one environment on the host
_BY_SHAPE = (
    "it is an environment",
    "its fields",
    "spaces",
    "action bounds",
    "initial",
    "transition keeps the state's shape",
    "observation fits its space",
    "reward is a number",
    "terminal is a bool",
    "info",
    "at",
)


def require_sound(name: str, env: Env) -> list[str]:
    """Lines about what happens now and then in `env`, called `name`, or may be meant.

    Raises ValueError in one line where learning would fail or learn from nothing. This package's own environments are
    passed over: tests have looked at them.
    """
    if isinstance(env, HostEnv):
        return _require_sound_host(name, env.evaluation_host)
    if type(env).__module__.partition(".")[0] != envs.__name__:
        return _require_sound_code(name, env)
    return []


def _require_sound_code(name: str, env: Env) -> list[str]:
    """Checks an environment that a user wrote, in a file or registered under a name."""
    kind = type(env)
    looks = [c for c in check.CHECKS if c[0] in _BY_SHAPE]
    looks += [("pictures", _frame_rate, False), ("first steps", _first_steps, False)]
    findings = check.check(env, _folder(kind), looks)
    for problem in (f.problem for f in findings if f.problem):
        closer = f"python -m experiments.envs --check {shlex.quote(name)}"
        raise ValueError(f"{kind.__name__}: {problem} ({closer} looks closer)")
    return [f"{kind.__name__}: {f.note}" for f in findings if f.note]


def _folder(kind: type) -> Path:
    """Returns the folder in which a class is written, to name lines there."""
    try:
        return Path(inspect.getfile(kind)).parent
    except (TypeError, OSError):  # it came from no file
        return Path.cwd()


def _frame_rate(env: Env) -> None:
    try:
        frame_rate(env)
    except ValueError as error:
        raise Problem(str(error)) from None


def _first_steps(env: Env) -> None:
    """Raises Problem where every step is spoiled, or a start, or an observation lies outside its space; Note where some
    are spoiled."""
    if isinstance(env, MujocoEnv) and env.backend == "mjx":
        return  # it would compile for a minute
    run = random_run(env, STEPS)
    bad = run["bad"]
    if np.all(bad != 0) or run["unstarted"].any():
        finite_run(env, lambda: run)
    run_within_bounds(env, lambda: run)
    if np.any(bad):
        share = nonfinite.percent(np.mean(bad != 0))
        raise Note(
            f"{nonfinite.in_words(bad, env.on_host)} not finite in {share} of {bad.size} first steps of random actions"
        )


def _require_sound_host(name: str, host: Host) -> list[str]:
    """Steps one environment of the host, in NumPy alone. Shapes and types are looked at by the host itself."""
    rng, none = np.random.default_rng(0), np.zeros(1, np.uint32)
    bad, outside = np.zeros(HOST_STEPS, np.uint8), None
    try:
        state = host.create(none)
        for t in range(HOST_STEPS):
            state = host.step(state, _random_action(host.action_space, rng)[None], none)
            bad[t] = _bad_parts(state.obs, state.reward)
            outside = outside or _outside(host.observation_space, state.obs[0])
            if state.terminated[0] or state.truncated[0] or bad[t]:
                state = host.create(none)
    except HostError as error:
        raise ValueError(str(error)) from None
    message = f"{name}: {nonfinite.in_words(bad, True)} not finite in" if bad.any() else ""
    if bad.all():
        raise ValueError(f"{message} any of its first {HOST_STEPS} steps of random actions")
    if message:
        message = f"{message} {np.count_nonzero(bad)} of {HOST_STEPS} first steps of random actions"
    return [*filter(None, [message, outside and f"{name}: {outside}"])]


def _random_action(space: gymnasium.Space, rng: np.random.Generator) -> np.ndarray:
    """Returns a random element; of a Box without bounds a standard normal one."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.asarray(rng.integers(space.start, space.start + space.n))
    assert isinstance(space, gymnasium.spaces.Box)
    low, high = (np.clip(x.astype(np.float64), -1e6, 1e6) for x in (space.low, space.high))
    bounded = (low > -1e6) & (high < 1e6)
    uniform, normal = rng.uniform(low, high), rng.standard_normal(space.shape)
    return np.where(bounded, uniform, np.clip(normal, low, high)).astype(space.dtype)


def _bad_parts(obs: np.ndarray, reward: np.ndarray) -> int:
    parts = {Bad.OBSERVATION: obs, Bad.REWARD: reward}
    return sum(
        int(part) for part, x in parts.items() if x.dtype.kind == "f" and not np.isfinite(x).all()
    )


def _outside(space: gymnasium.Space, obs: np.ndarray) -> str | None:
    """Returns a line about an observation outside a Box, or None; NaN is not outside."""
    if not isinstance(space, gymnasium.spaces.Box):
        return None  # the host refuses it
    slack = 1e-5 * (obs.dtype.kind == "f")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    with np.errstate(invalid="ignore"):
        wrong = (obs < low - slack * (1 + abs(low))) | (obs > high + slack * (1 + abs(high)))
    if not wrong.any():
        return None
    i = tuple(int(n) for n in np.argwhere(wrong)[0])
    at = f"[{', '.join(map(str, i))}]" if i else ""
    return (
        f"observation{at} was {obs[i]:.4g}, but its space goes from {low[i]:.4g} to {high[i]:.4g}"
    )
