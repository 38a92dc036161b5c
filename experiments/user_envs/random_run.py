"""A run of random actions, and the checks that read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from envs import base
from envs.base import Env
from experiments.user_envs.check_tools import (
    Note,
    Problem,
    is_bad,
    key_of,
    leaf_name,
    random_action,
)

STEPS, ENVS = 1000, 8
RandomRun = Callable[[], dict[str, Any]]  # returns what `random_run` does, computed once


def random_run(env: Env, steps: int | None = None) -> dict[str, Any]:
    """Takes `steps` (None: STEPS) random actions in each of ENVS environments, and returns what happened.

    broken, unseen, terminated: bool [steps, ENVS], state or reward not finite, observation not finite, episode
    terminated; bad: uint8 [steps, ENVS], see `envs.base.Bad`; t: [steps, ENVS] steps of the episode so far; unstarted:
    bool [ENVS], an episode's first observation not finite; low, high: like an observation, its range; before: state,
    action and key [ENVS] of the first step that broke.
    """

    def body(carry, key):
        running, before, broke, unstarted, low, high = carry
        action_key, step_key = jax.random.split(key)
        action = random_action(env, action_key)
        transition_key = jax.random.split(step_key)[0]  # as `step` splits it
        after, timestep = base.step(env, step_key, running, action)
        broken = (timestep.bad & (base.Bad.STATE | base.Bad.REWARD)) > 0
        here = (running.state, action, transition_key)
        before = jax.tree.map(lambda a, b: jnp.where(broken & ~broke, a, b), here, before)
        unstarted = unstarted | ~base.all_finite(timestep.obs)
        low, high = _wider(low, high, timestep.next_obs)
        unseen = (timestep.bad & base.Bad.OBSERVATION) > 0
        out = (broken, unseen, timestep.terminated, timestep.bad, running.t + 1)
        return (after, before, broke | broken, unstarted, low, high), out

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
    figures = {name: np.asarray(x).T for name, x in zip(names, out, strict=True)}
    ends = {"low": np.min(low, axis=0), "high": np.max(high, axis=0)}
    return {**figures, **ends, "unstarted": np.asarray(unstarted), "before": before}


def _hurried() -> dict[str, Any] | None:
    """Returns options with which XLA compiles a short program in a third of the time; None where XLA is not known to
    have them."""
    if jax.default_backend() != "cpu" or not jax.__version__.startswith("0.10."):
        return None
    return {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def _wider(low: jax.Array, high: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.fmin(low, seen), jnp.fmax(high, seen)


def finite_run(env: Env, run: RandomRun) -> None:
    """Raises Problem where a state, reward or observation of the random run is not finite."""
    if run()["broken"].any():
        t, n = np.argwhere(run()["broken"])[0]
        before, action, key = jax.tree.map(lambda x: x[n], run()["before"])
        for path, x in jax.tree_util.tree_leaves_with_path(before):
            if is_bad(x):
                raise Problem(f"state{leaf_name(path)} is not finite as initial gives it")
        after = env.transition(before, action, key)
        parts = [
            f"state{leaf_name(p)}"
            for p, x in jax.tree_util.tree_leaves_with_path(after)
            if is_bad(x)
        ]
        parts += ["reward"] if not parts else []
        raise Problem(f"{', '.join(parts)} is not finite after {t + 1} steps of random actions")
    if run()["unstarted"].any():
        raise Problem("observation is not finite after a reset: fix initial or observation")
    if run()["unseen"].any():
        t, _ = np.argwhere(run()["unseen"])[0]
        raise Problem(
            f"observation is not finite after {t + 1} steps of random actions, though the state is"
        )


def ends(env: Env, run: RandomRun) -> None:
    """Raises Problem or Note where the lengths of the random run's episodes look like a time limit or a slip."""
    ended = run()["t"][run()["terminated"]]
    if len(ended) > 3 and np.all(ended == env.max_episode_steps):
        raise Problem(
            "every episode is terminated in exactly max_episode_steps: leave the time limit to max_episode_steps, "
            "terminal would teach that the future ends there"
        )
    if len(ended) > 3 and np.all(ended == 1):
        raise Note("under random actions every episode ends with its first step")
    if len(ended) > 3 and np.all(ended == ended[0]):
        raise Note(
            f"every episode is terminated after exactly {ended[0]} steps; a time limit belongs in max_episode_steps"
        )
    if not len(ended):
        raise Note(
            f"no episode terminated in {len(run()['t'])} steps of random actions; only the limit of "
            f"{env.max_episode_steps} steps ends them"
        )


def run_within_bounds(env: Env, run: RandomRun) -> None:
    """Raises Problem where an observation of the random run lies outside its space."""
    seen = run()["low"], run()["high"]
    slack = 1e-5 * np.issubdtype(seen[0].dtype, np.floating)  # a cosine may come out above 1
    # In double precision, NumPy's: the ends of single precision have no room for the slack.
    low, high, lowest, highest = (
        np.asarray(x, np.float64) for x in (*seen, *_ends_of(env.observation_space))
    )
    outside = (low < lowest - slack * (1 + abs(lowest))) | (
        high > highest + slack * (1 + abs(highest))
    )
    if outside.any():
        index = tuple(int(i) for i in np.argwhere(outside)[0])
        at = f"[{', '.join(map(str, index))}]" if index else ""
        raise Problem(
            f"observation{at} goes from {low[index]:.4g} to {high[index]:.4g} under random actions, but the space "
            f"ends at {lowest[index]:.4g} and {highest[index]:.4g}"
        )


def _ends_of(space: gymnasium.Space) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and the highest observation of a Box or a Discrete space."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.asarray(space.start), np.asarray(space.start + space.n - 1)
    assert isinstance(space, gymnasium.spaces.Box)
    return space.low, space.high
