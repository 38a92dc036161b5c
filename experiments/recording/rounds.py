"""Rounds of whole episodes: as many environments side by side as serve, each from its start to its end.

A round is a pure function of the seed and its number, so that a recording that was stopped goes on with the same
episodes. All episodes of a round are kept in order of their environment, never the first to end: those are the short
ones.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs import base
from envs.base import Env
from experiments.data.episodes import Episode
from experiments.recording.behaviour import Behaviour

MOST_ENVS = 128
_ROOM = 2**28  # bytes of a round's observations
_KEY_TAG = 0x64617461  # "data": sets recording's stream apart from training's and evaluation's


def envs_of_round(env: Env, steps: int) -> int:
    """Returns the number of environments side by side, for a dataset of so many steps."""
    obs = jax.eval_shape(lambda k: base.reset(env, k)[1], jax.random.key(0))
    each = sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(obs))
    most = _ROOM // max(1, each * (env.max_episode_steps + 1))
    return int(np.clip(-(-steps // env.max_episode_steps), 1, max(1, min(MOST_ENVS, most))))


class Rounds:
    """The rounds of a behaviour, by their numbers."""

    def __init__(self, behaviour: Behaviour, seed: int, num_envs: int):
        self.behaviour = behaviour
        self.num_envs = num_envs
        self._key = jax.random.fold_in(jax.random.key(seed), _KEY_TAG)
        self._program = jax.jit(lambda *arguments: run_round(behaviour, *arguments))

    def episodes(self, number: int) -> list[Episode]:
        """Returns the episodes of a round. Raises ValueError where one had a step that was not finite."""
        key = jax.random.fold_in(self._key, number)
        *keys, act_key = jax.random.split(key, self.num_envs + 1)
        program = self._program(self.behaviour.state, jnp.stack(keys), act_key)
        found = jax.device_get(program)
        if found["bad"].any():
            raise ValueError(
                f"{self.behaviour.env_name} took a step that is not finite: such episodes are not recorded"
            )
        return [_episode(found, n) for n in range(self.num_envs)]


def run_round(
    behaviour: Behaviour, state: Any, keys: jax.Array, act_key: jax.Array
) -> dict[str, Any]:
    """Returns one episode for each of N `keys`. A pure function.

    Returns:
      obs [T + 1, N, ...], action [T, N, ...], reward, terminated, truncated [T, N], length [N], and bad [N]: something
      was not finite.
    """
    env = behaviour.env.at(jnp.inf)
    limit, n = env.max_episode_steps, keys.shape[0]
    reset_keys, step_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 0, 1)
    start, obs = jax.vmap(base.reset, (None, 0))(env, reset_keys)

    def take_step(t, running, obs, alive):
        keys_t = jax.vmap(jax.random.fold_in, (0, None))(step_keys, t)
        action = behaviour.act(state, obs, jax.random.fold_in(act_key, t))
        following, timestep = jax.vmap(base.advance, (None, 0, 0, 0))(env, keys_t, running, action)
        running = _where(alive, following, running)  # an episode that is over stands still
        return running, action, timestep

    def body(carry):
        t, running, obs, alive, rows = carry
        running, action, timestep = take_step(t, running, obs, alive)
        over = timestep.terminated | timestep.truncated
        seen = _where(alive, timestep.next_obs, obs)
        rows = {
            "obs": rows["obs"].at[t + 1].set(seen),
            "action": rows["action"].at[t].set(action),
            "reward": rows["reward"].at[t].set(timestep.reward),
            "terminated": rows["terminated"].at[t].set(timestep.terminated),
            "truncated": rows["truncated"].at[t].set(timestep.truncated),
            "length": rows["length"] + alive,
            "bad": rows["bad"] | (alive & (timestep.bad != 0)),
        }
        return t + 1, running, seen, alive & ~over, rows

    alive = jnp.ones(n, bool)
    _, action, _ = jax.eval_shape(take_step, 0, start, obs, alive)
    rows = {
        "obs": jnp.zeros((limit + 1, *obs.shape), obs.dtype).at[0].set(obs),
        "action": jnp.zeros((limit, *action.shape), action.dtype),
        "reward": jnp.zeros((limit, n)),
        "terminated": jnp.zeros((limit, n), bool),
        "truncated": jnp.zeros((limit, n), bool),
        "length": jnp.zeros(n, jnp.int32),
        "bad": ~jax.vmap(base.all_finite)(obs),
    }
    carry = (jnp.zeros((), jnp.int32), start, obs, alive, rows)
    return jax.lax.while_loop(lambda c: (c[0] < limit) & jnp.any(c[3]), body, carry)[4]


def _episode(found: dict[str, np.ndarray], n: int) -> Episode:
    length = int(found["length"][n])
    obs = found["obs"][: length + 1, n]
    rest = (found[name][:length, n] for name in ("action", "reward", "terminated", "truncated"))
    return Episode(obs, *rest)


def _where(condition, x, y):
    def pick(a, b):
        return jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, x, y)
