"""How far the classic tasks are from Gymnasium's: `worst_errors()` is the table, test_parity.py says what is allowed.

Gymnasium's own episodes are recorded, from its own starts (and, one step each, from states all over the state space,
so that walls, limits and wraps are met); the same actions then go through ours.
"""

import contextlib
import functools
import math
import sys
from typing import Any, NamedTuple
from unittest import mock

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

import envs

STEPS = 200
SEEDS = (0, 1, 2)

# The state space, and somewhat beyond: angles of more than one turn, a cart off the track, speeds over the limit.
ANYWHERE = {
    "CartPole-v1": ([-2.5, -3, -0.25, -3], [2.5, 3, 0.25, 3]),
    "Acrobot-v1": ([-math.pi, -math.pi, -13, -29], [math.pi, math.pi, 13, 29]),
    "MountainCar-v0": ([-1.2, -0.07], [0.6, 0.07]),
    "MountainCarContinuous-v0": ([-1.2, -0.07], [0.6, 0.07]),
    "Pendulum-v1": ([-9.0, -8.0], [9.0, 8.0]),
}
TASKS = tuple(ANYWHERE)


STABLE = ("MountainCar-v0", "MountainCarContinuous-v0")  # the others magnify rounding without bound


def _balance(s):
    return int(s[2] + 0.5 * s[3] + 0.05 * s[0] + 0.1 * s[1] > 0)


def _run_off(s):
    """Keeps the pole leaning to the right, and chases it."""
    return int(s[2] - 0.08 + 0.5 * s[3] > 0)


def _pump(s):
    """Adds the energy that is missing to stand upright (a rod of 1 kg and 1 m); beyond the limit, on purpose."""
    missing = 5.0 - (s[1] ** 2 / 6 + 5.0 * math.cos(s[0]))
    return np.array([math.copysign(2.6, s[1] * missing)])


# Purposes that random actions never reach: long episodes, a cart off the track, goals.
POLICIES = {
    "CartPole-v1": {"balance": _balance, "run off": _run_off},
    "Acrobot-v1": {"pump": lambda s: 2 if s[3] > 0 else 0},
    "MountainCar-v0": {"with the speed": lambda s: 2 if s[1] > 0 else 0},
    "MountainCarContinuous-v0": {"with the speed": lambda s: np.array([1.2 if s[1] > 0 else -1.2])},
    "Pendulum-v1": {"pump": _pump},
}


class Record(NamedTuple):
    """What Gymnasium did; [N, T] with N = policies x seeds."""

    before: Any  # [N, T, n] the state each step started from
    fresh: Any  # [N, T] whether that state is an episode's first
    action: Any  # [N, T, ...]
    obs: Any  # [N, T, m]
    reward: Any
    terminated: Any


class _Double:
    """NumPy, but for float32 being float64: Gymnasium rounds what it shows (and the continuous mountain car its state)
    to single precision, which would hide all but seven digits."""

    float32 = np.float64

    def __getattr__(self, name):
        return getattr(np, name)


def _gymnasium_task(name, double, book_or_nips=None, **options):
    """Gymnasium's bare environment and a context in which to use it."""
    env = gymnasium.make(name, **options).unwrapped
    if book_or_nips is not None:  # there, an attribute
        env.book_or_nips = book_or_nips
    module = sys.modules[type(env).__module__]
    return env, mock.patch.object(module, "np", _Double()) if double else contextlib.nullcontext()


def _random_policy(space, seed):
    space.seed(seed)

    def policy(state):
        del state
        action = space.sample()
        if isinstance(space, gymnasium.spaces.Discrete):
            return action
        # Also beyond the space: who clips, and who charges for what it clips, is part of the task.
        return 1.5 * action.astype(np.float64)

    return policy


@functools.cache
def record(name, double, **options):
    """Gymnasium's episodes, one after the other, for STEPS steps a seed and policy."""
    env, context = _gymnasium_task(name, double, **options)
    limit = gymnasium.spec(name).max_episode_steps
    runs = []
    with context:
        for seed in SEEDS:
            policies = {"random": _random_policy(env.action_space, seed), **POLICIES[name]}
            runs += [_run(env, policy, seed, limit) for policy in policies.values()]
    return Record(*map(np.stack, zip(*runs, strict=True)))


def _run(env, policy, seed, limit):
    rows, t = [], 0
    env.reset(seed=seed)
    for _ in range(STEPS):
        before = np.array(env.state, np.float64)
        action = policy(before)
        obs, reward, terminated, _, _ = env.step(action)
        rows.append((before, t == 0, action, obs, reward, terminated))
        t += 1
        if terminated or t == limit:
            env.reset()
            t = 0
    return tuple(map(np.stack, zip(*rows, strict=True)))


@functools.cache
def record_anywhere(name, double, **options):
    """Single steps [1, T] from states drawn uniformly from all over the state space."""
    env, context = _gymnasium_task(name, double, **options)
    rng = np.random.default_rng(0)
    policy = _random_policy(env.action_space, 0)
    low, high = (np.array(x, np.float64) for x in ANYWHERE[name])
    rows = []
    with context:
        for before in rng.uniform(low, high, (5 * STEPS, len(low))):
            env.reset(seed=0)
            env.state = before.copy()
            action = policy(before)
            obs, reward, terminated, _, _ = env.step(action)
            rows.append((before, True, action, obs, reward, terminated))
    return Record(*(np.stack(column)[None] for column in zip(*rows, strict=True)))


def ours(env, recorded, synchronised):
    """(obs, reward, terminated) [N, T] of our `env` under the recorded actions, from the recorded states at each
    episode's start, or, if `synchronised`, at every step. In the precision of the moment."""
    fresh = np.ones_like(recorded.fresh) if synchronised else recorded.fresh
    return _replay(env, jnp.asarray(recorded.before), jnp.asarray(recorded.action), fresh)


@jax.jit
def _replay(env, before, action, fresh):
    def step(state, row):
        before, action, fresh = row
        state = jnp.where(fresh, before, state)
        after = env.transition(state, action, jax.random.key(0))
        shown = env.observation(after), env.reward(state, action, after), env.terminal(after)
        return after, shown

    def run(before, action, fresh):
        return jax.lax.scan(step, before[0], (before, action, fresh))[1]

    return jax.vmap(run)(before, action, fresh)


def compare(name, env, recorded, synchronised, precision, what):
    """A row of the table. Errors are relative to the largest size that Gymnasium's number reaches."""
    with jax.enable_x64(precision == "float64"):
        obs, reward, terminated = map(np.asarray, ours(env, recorded, synchronised))
    assert obs.dtype == precision
    size = np.abs(recorded.obs).max((0, 1))
    return {
        "env": name,
        "precision": precision,
        "what": what,
        "steps": int(recorded.reward.size),
        "obs": float((np.abs(obs - recorded.obs) / size).max()),
        "reward": float(np.abs(reward - recorded.reward).max() / np.abs(recorded.reward).max()),
        "terminations": int(recorded.terminated.sum()),
        "terminations_equal": bool((terminated == recorded.terminated).all()),
    }


@functools.cache
def errors(name):
    """The rows of one task."""
    env = envs.make(name)
    double, single = record(name, True), record(name, False)
    rows = [
        compare(name, env, double, False, "float64", "episodes"),
        compare(name, env, record_anywhere(name, True), True, "float64", "single steps"),
        compare(name, env, single, True, "float32", "single steps of episodes"),
        compare(name, env, record_anywhere(name, False), True, "float32", "single steps"),
    ]
    if name in STABLE:
        rows.append(compare(name, env, single, False, "float32", "episodes"))
    return rows


def worst_errors():
    """The table: one dict a task, precision and way to compare.

    Keys: env; precision; what ("episodes": set to Gymnasium's state where an episode starts, and then on its own;
    "single steps of episodes": set to it at every step; "single steps": the same, from states drawn from all over the
    state space); steps; obs and reward, the largest errors relative to the quantity's own size; terminations, how many
    there were; terminations_equal.
    """
    return [row for name in TASKS for row in errors(name)]
