"""Every environment here as a Gymnasium environment: single, vectorised, or functional.

`import envs` registers them, so `gymnasium.make("stride/Walker-v0")` works after it; without the import,
`gymnasium.make("envs:stride/Walker-v0")` does (Gymnasium 1.0 and later load no plugins by themselves).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.experimental.functional import FuncEnv
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

import envs
from envs import base
from envs.physics.render import FRAME_SIZE, render_state

_METADATA = {"render_modes": ["rgb_array"], "render_fps": 40}


def make_gym(name: str, *, render_mode: str | None = None, **kwargs) -> GymEnv:
    return GymEnv(envs.make(name, **kwargs), render_mode)


def make_gym_vector(
    name: str,
    num_envs: int = 1,
    *,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    **kwargs,
) -> GymVectorEnv:
    if max_episode_steps is not None:
        kwargs["max_episode_steps"] = max_episode_steps
    return GymVectorEnv(envs.make(name, **kwargs), num_envs, render_mode)


class GymEnv(gymnasium.Env):
    """One environment. It never truncates: `gymnasium.make` adds the time limit."""

    metadata: dict[str, Any] = _METADATA

    def __init__(self, env: base.Env, render_mode: str | None = None):
        self.env = env.at(np.inf)
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.render_mode = render_mode
        self._reset = jax.jit(_reset)
        self._step = jax.jit(_step)
        self._running: Any = None
        self._key: Any = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        if seed is not None or self._key is None:
            self._key = jax.random.key(int(self.np_random.integers(2**31)))
        self._running, self._key, obs = self._reset(self.env, self._key)
        return _numpy(obs), {}

    def step(self, action):
        if self._running is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        action = _checked(action, self.action_space)
        self._running, self._key, t = self._step(self.env, self._key, self._running, action)
        info = {name: float(x) for name, x in t.info.items()}
        return _numpy(t.obs), float(t.reward), bool(t.terminated), False, info

    def render(self) -> np.ndarray | None:
        """An RGB image [height, width, 3] of the present state, with `render_mode="rgb_array"`."""
        if self.render_mode is None:
            return None
        return render_state(self.env, self._running.state, *FRAME_SIZE)


class GymVectorEnv(VectorEnv):
    """Many environments in one compiled call. Episodes restart in the same step, and infos are those of Gymnasium's
    `SyncVectorEnv` in that mode: where an episode ended, `infos["final_obs"]` and `infos["final_info"]` hold its true
    last observation and infos; each entry has a mask of its name with a leading underscore."""

    metadata: dict[str, Any] = _METADATA | {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, env: base.Env, num_envs: int, render_mode: str | None = None):
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.env = env.at(np.inf)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        self._reset = jax.jit(_vector_reset, static_argnums=2)
        self._step = jax.jit(_vector_step)
        self._running: Any = None
        self._key: Any = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        if seed is not None or self._key is None:
            self._key = jax.random.key(int(self.np_random.integers(2**31)))
        self._running, self._key, obs = self._reset(self.env, self._key, self.num_envs)
        return _numpy(obs), {}

    def step(self, actions):
        if self._running is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        actions = _checked(actions, self.action_space)
        self._running, self._key, t = self._step(self.env, self._key, self._running, actions)
        t = jax.tree.map(np.array, t)
        done = t.terminated | t.truncated
        infos = _masked(t.info, ~done)
        if done.any():
            infos["final_obs"] = np.full(self.num_envs, None)
            for i, obs in enumerate(iterate(self.observation_space, t.next_obs)):
                infos["final_obs"][i] = obs if done[i] else None
            infos["final_info"] = _masked(t.info, done)
            infos["_final_obs"] = infos["_final_info"] = done
        return t.obs, t.reward.astype(np.float64), t.terminated, t.truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        if self.render_mode is None:
            return None
        return tuple(
            render_state(self.env, _pick(self._running.state, i), *FRAME_SIZE)
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


def _reset(env, key):
    key, reset_key = jax.random.split(key)
    running, obs = base.reset(env, reset_key)
    return running, key, obs


def _step(env, key, running, action):
    key, step_key = jax.random.split(key)
    running, timestep = base.advance(env, step_key, running, action)
    return running, key, timestep


def _vector_reset(env, key, num_envs):
    key, reset_key = jax.random.split(key)
    running, obs = jax.vmap(base.reset, (None, 0))(env, jax.random.split(reset_key, num_envs))
    return running, key, obs


def _vector_step(env, key, running, actions):
    key, step_key = jax.random.split(key)
    keys = jax.random.split(step_key, actions.shape[0])
    running, timestep = jax.vmap(base.step, (None, 0, 0, 0))(env, keys, running, actions)
    return running, key, timestep


def _checked(action, space: gymnasium.Space) -> np.ndarray:
    action = np.asarray(action, space.dtype)
    if action.shape != space.shape:
        raise ValueError(f"an action of shape {space.shape} is wanted, got {action.shape}")
    if np.issubdtype(action.dtype, np.floating) and not np.isfinite(action).all():
        raise ValueError("the action has entries that are not finite")
    if np.issubdtype(action.dtype, np.integer) and not space.contains(action):
        raise ValueError(f"the action {action.tolist()} is not in {space}")
    return action


def _pick(tree, i: int):
    return jax.tree.map(lambda x: x[i], tree)


def _numpy(tree):
    return jax.tree.map(np.array, tree)


def _masked(info: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
    """Gymnasium's layout: each entry of the environments in `mask`, zero elsewhere, and the mask beside it."""
    entries = {name: np.where(mask, x, 0).astype(np.float64) for name, x in info.items()}
    return entries | {f"_{name}": mask.copy() for name in info}
