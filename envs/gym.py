"""Adapters of every environment to Gymnasium: single, vectorised, or functional.

`import envs` registers the environments, so that `gymnasium.make("stride/Walker-v0")` works; without the import, use
`gymnasium.make("envs:stride/Walker-v0")` (Gymnasium 1.0 and later load no plugins by themselves).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.experimental.functional import FuncEnv
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from jaxtyping import PRNGKeyArray

import envs
from envs import base
from envs.physics.render import FRAME_SIZE
from envs.process import require_unforked

_BANK_STEPS = 128  # steps between two draws of a vector environment's bank of start states
_ENDLESS = 2**31 - 1  # steps: a time limit that is none; what counts them has 32 bits


def make_gym(name: str, *, render_mode: str | None = None, **kwargs) -> GymEnv:
    """The environment called `name` with its options, as a `gymnasium.Env` without a time limit; the entry point of
    `gymnasium.make`. Raises ValueError like `envs.make`, and for a render mode that the environment lacks."""
    return GymEnv(envs.make(name, **kwargs), render_mode)


# `gymnasium.make` looks here for what it can wrap: for "rgb_array_list" and "human" it needs "rgb_array".
make_gym.metadata = {"render_modes": ["rgb_array"]}  # type: ignore[attr-defined]


def make_gym_vector(
    name: str,
    num_envs: int = 1,
    *,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    **kwargs,
) -> GymVectorEnv:
    """`num_envs` environments called `name`; the entry point of `gymnasium.make_vec`.

    Args:
      max_episode_steps: the environment's own limit, if None; -1: no limit, as for `gymnasium.make`.

    Raises ValueError like `envs.make`, and for a limit of a token task, whose episodes end by themselves.
    """
    if max_episode_steps is not None and name.startswith(envs.TOKENS_PREFIX):
        raise ValueError(
            f"{name} takes no max_episode_steps: the length of a response is part of the task"
        )
    if max_episode_steps is not None:
        kwargs["max_episode_steps"] = _ENDLESS if max_episode_steps == -1 else max_episode_steps
    return GymVectorEnv(envs.make(name, **kwargs), num_envs, render_mode)


class _View:
    """Set-up, seeding and compiled steps, shared by single and vectorised environments.

    Raises ValueError for a render mode that the environment lacks.
    """

    metadata: dict[str, Any] = {}

    def _set_up(self, env: base.Env, render_mode: str | None, reset: Callable, step: Callable):
        fps = env.render_fps
        modes = ["rgb_array"] if fps else []
        if render_mode not in (None, *modes):
            what = "rgb_array or None" if fps else "None: there is nothing to see"
            raise ValueError(f"render_mode must be {what}; got {render_mode!r}")
        self.metadata = self.metadata | {"render_modes": modes}
        if fps:
            self.metadata["render_fps"] = fps
        self.env = env.at(np.inf)
        self.render_mode = render_mode
        self._programs = reset, step
        self._running: Any = None
        self._key: Any = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """The first observation, and an empty dictionary. Raises ValueError for any options: there are none."""
        if options:
            names = ", ".join(map(str, options))
            raise ValueError(
                f"reset takes no options, got {names}: an environment has its own when it is made"
            )
        require_unforked()
        super().reset(seed=seed)  # type: ignore[misc]
        if seed is not None or self._key is None:
            self._key = _key(self.np_random)  # type: ignore[attr-defined]
        return self._start(self._programs[0])

    def _start(self, program: Callable, *arguments: Any) -> tuple[Any, dict]:
        self._running, self._key, obs = program(self.env, self._key, *arguments)
        return _native(self.observation_space, obs), {}  # type: ignore[attr-defined]

    def _advance(self, action, *arguments: Any) -> Any:
        require_unforked()
        self._require_reset("step")
        action = _checked(action, self.action_space)  # type: ignore[attr-defined]
        self._running, self._key, *shown = self._programs[1](
            self.env, self._key, self._running, action, *arguments
        )
        return shown

    def _require_reset(self, what: str) -> None:
        if self._running is None:
            raise gymnasium.error.ResetNeeded(f"call reset before {what}")


class GymEnv(_View, gymnasium.Env):
    """A single environment without a time limit; `gymnasium.make` adds the limit."""

    def __init__(self, env: base.Env, render_mode: str | None = None):
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self._set_up(env, render_mode, _reset, _step)

    def step(self, action):
        """One step: (observation, reward, terminated, truncated, info). Raises ResetNeeded before the first reset, and
        ValueError for an action outside the space in kind, shape or finiteness."""
        t, truncated = self._advance(action)
        info = {name: float(x) for name, x in t.info.items()}
        obs = _native(self.observation_space, t.obs)
        return obs, float(t.reward), bool(t.terminated), bool(truncated), info

    def render(self) -> np.ndarray | None:
        """An RGB image [height, width, 3] of the present state, with `render_mode="rgb_array"`."""
        if self.render_mode is None:
            return None
        self._require_reset("render")
        return self.env.render(jax.device_get(self._running.state), *FRAME_SIZE)


class GymVectorEnv(_View, VectorEnv):
    """Many environments in one compiled call. Episodes restart in the same step, and infos are those of Gymnasium's
    `SyncVectorEnv` in that mode: where an episode ended, `infos["final_obs"]` and `infos["final_info"]` hold its true
    last observation and infos; each entry has a mask of its name with a leading underscore.

    Where resets are costly (`env.reset_bank`), the episodes that follow one which ended begin at states drawn from a
    bank of that many, made anew every 128 steps.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, env: base.Env, num_envs: int, render_mode: str | None = None):
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        reset = functools.partial(_vector_reset, num_envs=num_envs)
        self._set_up(env, render_mode, reset, _vector_step)
        self._bank: Any = None
        self._age = 0  # steps since the reset

    def reset(
        self,
        *,
        seed: int | np.integer | Iterable[Any] | None = None,
        options: dict | None = None,
    ):
        """Resets all environments, from one seed, or from a seed for each: then each starts as a single environment
        with its seed does (None: a random one). Returns (observations, {}). Raises ValueError for another number of
        seeds than environments."""
        self._age = 0
        if seed is None or isinstance(seed, int | np.integer):
            return super().reset(seed=None if seed is None else int(seed), options=options)
        seeds = [None if x is None else operator.index(x) for x in seed]
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"{len(seeds)} seeds for {self.num_envs} environments: give one for each, or a single number"
            )
        super().reset(options=options)
        chance = self.np_random
        keys = [_key(chance if x is None else np_random(x)[0]) for x in seeds]
        given = [x for x in seeds if x is not None]
        if len(given) == len(seeds):  # then all that follows depends on them alone
            self._np_random = np.random.default_rng(given)
            self._key = _key(self._np_random)
        return self._start(_seeded_reset, jnp.stack(keys))

    def step(self, actions):
        """One step of all environments: (observations, rewards, terminated, truncated, infos). Raises like
        `GymEnv.step`."""
        require_unforked()
        if self.env.reset_bank and self._running is not None and self._age % _BANK_STEPS == 0:
            self._bank, self._key = _bank(self.env, self._key)
        self._age += 1
        (t,) = jax.tree.map(np.array, self._advance(actions, self._bank))
        done = t.terminated | t.truncated
        obs, final_obs = (_native(self.observation_space, x) for x in (t.obs, t.next_obs))
        infos = _masked(t.info, ~done)
        if done.any():
            infos["final_obs"] = np.full(self.num_envs, None)
            for i, x in enumerate(iterate(self.observation_space, final_obs)):
                infos["final_obs"][i] = x if done[i] else None
            infos["final_info"] = _masked(t.info, done)
            infos["_final_obs"] = infos["_final_info"] = done
        return obs, t.reward.astype(np.float64), t.terminated, t.truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """RGB images of all environments, with `render_mode="rgb_array"`; else None."""
        if self.render_mode is None:
            return None
        self._require_reset("render")
        states = jax.device_get(self._running.state)
        return tuple(
            self.env.render(jax.tree.map(lambda x, i=i: x[i], states), *FRAME_SIZE)
            for i in range(self.num_envs)
        )


class _Functional(FuncEnv):
    def __init__(self, env: base.Env):
        super().__init__()
        self.env = env
        self.observation_space = env.observation_space
        self.action_space = env.action_space

    def initial(self, rng, params=None):
        return self.env.initial(rng)

    def transition(self, state, action, rng, params=None):
        return self.env.transition(state, action, rng)

    def observation(self, state, rng, params=None):
        return self.env.observation(state)

    def reward(self, state, action, next_state, rng, params=None):
        return self.env.reward(state, action, next_state)

    def terminal(self, state, rng, params=None):
        return self.env.terminal(state)

    def transition_info(self, state, action, next_state, params=None):
        return self.env.info(state, action, next_state)


def as_func_env(env: base.Env) -> FuncEnv:
    """`env` under Gymnasium's (unstable) functional interface."""
    return _Functional(env)


@jax.jit
def _reset(env, key):
    key, reset_key = jax.random.split(key)
    running, obs = base.reset(env, reset_key)
    return running, key, obs


@jax.jit
def _step(env, key, running, action):
    key, step_key = jax.random.split(key)
    running, timestep = base.advance(env, step_key, running, action)
    truncated = env.truncated(running.state) & ~timestep.terminated  # without the time limit
    return running, key, timestep, truncated


@functools.partial(jax.jit, static_argnames="num_envs")
def _vector_reset(env, key, num_envs):
    key, reset_key = jax.random.split(key)
    running, obs = jax.vmap(base.reset, (None, 0))(env, jax.random.split(reset_key, num_envs))
    return running, key, obs


@jax.jit
def _seeded_reset(env, key, keys):
    """Returns the environments after `_reset`, each with its own key of the keys [N]."""
    running, _, obs = jax.vmap(_reset, (None, 0))(env, keys)
    return running, key, obs


@jax.jit
def _vector_step(env, key, running, actions, bank):
    key, step_key = jax.random.split(key)
    keys = jax.random.split(step_key, actions.shape[0])
    running, timestep = jax.vmap(base.step, (None, 0, 0, 0, None))(
        env, keys, running, actions, bank
    )
    return running, key, timestep


@jax.jit
def _bank(env, key):
    key, bank_key = jax.random.split(key)
    return base.start_states(env, bank_key, env.reset_bank), key


def _key(generator: np.random.Generator) -> PRNGKeyArray:
    return jax.random.key(int(generator.integers(2**31)))


def _checked(action, space: gymnasium.Space) -> np.ndarray:
    action, dtype = np.asarray(action), np.dtype(space.dtype)
    if not np.can_cast(action.dtype, dtype, "same_kind"):  # 0.9 would become 0
        raise ValueError(f"an action of {dtype} is wanted, got {action.dtype}")
    action = action.astype(dtype)
    if action.shape != space.shape:
        raise ValueError(f"an action of shape {space.shape} is wanted, got {action.shape}")
    if np.issubdtype(action.dtype, np.floating) and not np.isfinite(action).all():
        raise ValueError("the action has entries that are not finite")
    if np.issubdtype(action.dtype, np.integer) and not space.contains(action):
        raise ValueError(f"the action {action.tolist()} is not in {space}")
    return action


def _native(space: gymnasium.Space, obs):
    """Returns a value in the space's dtype: JAX has 32 bits where a Discrete space has a scalar of 64."""
    if space.dtype is None:  # of several parts
        return jax.tree.map(np.array, obs)
    obs = np.array(obs, space.dtype)
    return obs[()] if isinstance(space, gymnasium.spaces.Discrete) else obs


def _masked(info: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
    """Gymnasium's layout: each entry of the environments in `mask`, zero elsewhere, and the mask beside it."""
    entries = {name: np.where(mask, x, 0).astype(np.float64) for name, x in info.items()}
    return entries | {f"_{name}": mask.copy() for name in info}
