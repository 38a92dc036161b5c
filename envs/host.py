"""Any environment of `gymnasium.make`, stepped on the host from inside a JAX program.

    envs.make("gym:LunarLander-v3")

A Gymnasium environment is a mutable object; the contract needs a function of a state. The state here is a ticket: the
number of a slot on the host that holds the object, and the number of the call that left the object there. A ticket is
valid for one step. Data dependence orders the calls, and since tickets are unique, JAX cannot merge two calls; it may
drop a step whose ticket is unused, because nobody reads that object again. So a callback that JAX assumes
pure is sufficient, although the objects change (`io_callback` has no batching rule, and may not be in a loop whose end
differs between seeds, such as evaluation's).

One call steps the whole batch, seeds x environments, in a plain loop: Gymnasium's environments hold Python's global
lock, so threads would gain nothing.

A start can be repeated from its seed. Any other invalid ticket (used, or from another process) denotes an episode that
cannot be continued: the episode is truncated with reward 0 and its last observation, and a new episode follows.
Resuming a run does this to all episodes in progress, so a resumed run is valid, but not bit-identical.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import math
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete
from jaxtyping import Array, PRNGKeyArray

from envs.base import Env, static
from envs.callback import HostError, host_call, one_line
from envs.host_values import (
    Observations,
    all_finite,
    jax_space,
    reset_observation,
    reward_number,
    step_values,
)

_KEPT = 1024  # environments that a training run's host keeps besides the newest batch


@flax.struct.dataclass
class HostState:
    """A ticket for one step, and what the last one showed."""

    slot: Any  # int32 [], where the environment lives
    call: Any  # int32 [], the call to the host that left it as it is
    seed: Any  # int32 [], at a start from which `reset(seed=...)` leads here; elsewhere -1
    obs: Any  # the space's shape, in its dtype (floats as float32, integers of at most 32 bits)
    reward: Any  # float32 []
    terminated: Any  # bool []
    truncated: Any  # bool [], by the environment itself or by the time limit
    start_obs: Any  # like obs: where the episode ended, the next one's first observation


@flax.struct.dataclass
class HostEnv(Env[HostState]):
    """Build one with `make_host`. Actions are clipped to their bounds; the environment's infos are not passed on.

    Evaluation (`at(inf)`) has a host of its own, which keeps no more environments than the largest batch so far:
    each batch of new episodes takes the environments of the one before.
    """

    host: Host = static()
    evaluation_host: Host = static()
    max_episode_steps: int = static()

    on_host = True

    @property
    def observation_space(self) -> Box | Discrete:
        """The environment's space, in the types that JAX has."""
        return self.host.observation_space

    @property
    def action_space(self) -> Box | Discrete:
        """The environment's space, in the types that JAX has."""
        return self.host.action_space

    def initial(self, key: PRNGKeyArray) -> HostState:
        """A new environment in a slot of its own, reset with a seed drawn from `key`."""
        return self._call(self.host.create, _seed(key))

    def transition(self, state: HostState, action: Array, key: PRNGKeyArray) -> HostState:
        """Steps the environment, and resets it at once if that ended the episode. In a state whose episode has ended
        and was not restarted, nothing happens. `key` seeds the episode that replaces one which cannot go on."""
        return self._call(self.host.step, state, action, _seed(key))

    def restart(self, state: HostState, key: PRNGKeyArray) -> HostState:
        """The state from which the next episode goes on: the host began it when the last one ended."""
        del key  # the environment was reset when its episode ended, and goes on with its own random numbers
        off = jnp.zeros((), bool)
        return dataclasses.replace(state, obs=state.start_obs, terminated=off, truncated=off)

    def observation(self, state: HostState) -> Array:
        """The last observation."""
        return state.obs

    def reward(self, state: HostState, action: Array, next_state: HostState) -> Array:
        """The reward that the environment returned for the step."""
        return next_state.reward

    def terminal(self, state: HostState) -> Array:
        """True if the environment terminated the episode."""
        return state.terminated

    def truncated(self, state: HostState) -> Array:
        """True if the environment, or the host's time limit, truncated the episode."""
        return state.truncated

    def stand_in(self, state: HostState, next_state: HostState) -> HostState:
        """The last observation, with the ticket of `next_state`: that of `state` is spent. The host has begun the next
        episode already."""
        on, off = jnp.ones((), bool), jnp.zeros((), bool)
        return dataclasses.replace(
            next_state, obs=state.obs, reward=jnp.zeros(()), terminated=on, truncated=off
        )

    def at(self, env_steps: Array | float) -> HostEnv:
        """The environment on its evaluation host if `env_steps` is infinite; else itself."""
        evaluating = isinstance(env_steps, float) and env_steps == np.inf
        return dataclasses.replace(self, host=self.evaluation_host) if evaluating else self

    def _call(self, function: Callable, *arguments: Any) -> HostState:
        return host_call(function, self.host.result, *arguments)


@dataclasses.dataclass
class _Slot:
    env: gymnasium.Env
    call: int  # the call that left it as it is
    t: int  # steps taken in this episode


class Host:
    """The environments of one `HostEnv`, by slot. NumPy alone: JAX must not be called from inside a callback.

    `calls` counts the crossings to the host, `slots` holds the environments in use, longest unused first, `made` all
    that were ever made. `create` first takes back those beyond `kept` others.
    """

    def __init__(self, spec: EnvSpec, max_episode_steps: int, kept: int):
        self.calls = 0
        self.slots: collections.OrderedDict[int, _Slot] = collections.OrderedDict()
        self._spec = spec
        self._max_episode_steps = max_episode_steps
        self._kept = kept
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self.made: list[gymnasium.Env] = []
        self._free: list[gymnasium.Env] = []
        weakref.finalize(self, close_all, self.made)  # at exit, if not before

        env = self._take()
        self._free.append(env)
        self._actions = env.action_space
        self.observation_space = jax_space(env.observation_space, "observations", spec.id)
        self.action_space = jax_space(env.action_space, "actions", spec.id)
        self._observations = Observations(env.observation_space, self.observation_space)
        obs = self._observations.shape_and_dtype
        count, reward, flag = (jax.ShapeDtypeStruct((), t) for t in (np.int32, np.float32, bool))
        self.result = HostState(count, count, count, obs, reward, flag, flag, obs)

    def create(self, seeds) -> HostState:
        """New environments, one for each seed: uint32 [*batch]."""
        seeds = np.asarray(seeds)
        out = jax.tree.map(lambda x: np.zeros((seeds.size, *x.shape), x.dtype), self.result)
        with self._lock, np.errstate(over="ignore"):  # float64 observations beyond float32
            self.calls += 1
            while len(self.slots) > self._kept:
                self._free.append(self.slots.popitem(last=False)[1].env)
            for i, seed in enumerate(seeds.ravel()):
                out.slot[i], out.call[i], out.seed[i] = self._number(), self.calls, seed
                out.obs[i] = self._fresh(int(out.slot[i]), seed)
        out.start_obs[:] = out.obs
        return _unflatten(out, seeds.shape)

    def step(self, state: HostState, actions, seeds) -> HostState:
        """One step of each environment; leaves [*batch, ...]."""
        batch = np.shape(state.slot)
        out = jax.tree.map(lambda x: _flatten(x, batch).copy(), state)
        actions, seeds = self.native_actions(_flatten(actions, batch)), _flatten(seeds, batch)
        with self._lock, np.errstate(over="ignore"):
            self.calls += 1
            stepped: set[int] = set()
            for i in np.flatnonzero(~(out.terminated | out.truncated)).tolist():
                if out.slot[i] in stepped:  # a copy of a state that has had its step
                    out.slot[i] = self._number()
                stepped.add(int(out.slot[i]))
                self._step(out, i, actions[i], seeds[i])
        return _unflatten(out, batch)

    def _step(self, out: HostState, i: int, action, seed) -> None:
        number, call, start = int(out.slot[i]), int(out.call[i]), int(out.seed[i])
        out.call[i], out.seed[i], out.reward[i] = self.calls, -1, 0.0
        known = number in self.slots and self.slots[number].call == call
        if not known and start < 0:
            out.truncated[i], out.seed[i] = True, seed
            out.start_obs[i] = self._fresh(number, seed)
            return
        if not known:
            self._fresh(number, start)
        slot = self.slots[number]
        with self._reported("step", number):
            obs, reward, terminated, truncated, _ = step_values(slot.env.step(action))
            out.obs[i] = out.start_obs[i] = self._observations.checked(obs)
            out.reward[i] = reward_number(reward)
            finite = all_finite(out.obs[i]) and math.isfinite(out.reward[i])
        slot.call, slot.t = self.calls, slot.t + 1
        self.slots.move_to_end(number)
        out.terminated[i] = terminated
        out.truncated[i] = not terminated and (truncated or slot.t >= self._max_episode_steps)
        # What is not finite ends an episode, see `envs.base.advance`.
        if out.terminated[i] or out.truncated[i] or not finite:
            with self._reported("reset", number):
                out.start_obs[i] = self._observations.first(reset_observation(slot.env.reset()))
            slot.t = 0

    def _fresh(self, number: int, seed):
        """Starts an episode in slot `number`; its first observation."""
        if number not in self.slots:
            with self._reported("make", number):
                self.slots[number] = _Slot(self._take(), 0, 0)
        slot = self.slots[number]
        slot.call, slot.t = self.calls, 0
        self.slots.move_to_end(number)
        with self._reported("reset", number):
            return self._observations.first(reset_observation(slot.env.reset(seed=int(seed))))

    def _take(self) -> gymnasium.Env:
        if self._free:
            return self._free.pop()
        self.made.append(_make(self._spec))
        return self.made[-1]

    def _number(self) -> int:
        """A slot's number that is not in use: slots of an earlier process may be."""
        return next(number for number in self._numbers if number not in self.slots)

    def native_actions(self, actions: np.ndarray) -> np.ndarray:
        """Elements of the environment's own action space: `actions`, elements of `action_space`, in its own type.

        float32 rounds some bounds of a float64 space outwards, so that a Box is clipped once more.
        """
        space: Any = self._actions
        actions = np.asarray(actions)
        if isinstance(space, Discrete):
            return actions.astype(space.dtype)
        if np.issubdtype(space.dtype, np.integer) and np.issubdtype(actions.dtype, np.floating):
            actions = np.round(actions)
        return np.clip(actions, space.low, space.high).astype(space.dtype)

    @contextlib.contextmanager
    def _reported(self, method: str, number: int):
        try:
            yield
        except (Exception, SystemExit) as error:
            self.slots.pop(number, None)  # in no known condition: not to be used again
            raise HostError(f"{self._spec.id} failed in {method}: {one_line(error)}") from error


def make_host(gymnasium_id: str, *, max_episode_steps: int | None = None, **kwargs) -> HostEnv:
    """The environment that `gymnasium.make(gymnasium_id, **kwargs)` makes, stepped on the host.

    Args:
      max_episode_steps: Gymnasium's own limit for it, if None.

    A failure later on, in its `reset` or `step`, is a HostError on the host (see `envs.callback.host_failure`).

    Raises ValueError if there is no such environment, it cannot be made, whatever the reason, it is one of this
    package's own, it has no time limit, or its observations or actions are neither Box nor Discrete, or integers of
    more than 32 bits.
    """
    name = gymnasium_id.rpartition(":")[2]
    if name.startswith("stride/"):
        raise ValueError(f"{name} is an environment of this package: leave out gym: and stride/")
    env = _make(gymnasium_id, **kwargs)
    spec = env.spec
    env.close()
    assert spec is not None  # of all that `gymnasium.make` made
    registered = gymnasium.registry[spec.id].max_episode_steps
    limit = registered if max_episode_steps is None else max_episode_steps
    if limit is None:
        raise ValueError(f"{spec.id} has no time limit: give it one, as max_episode_steps")
    return HostEnv(Host(spec, limit, _KEPT), Host(spec, limit, 0), limit)


def _make(what: str | EnvSpec, **kwargs) -> gymnasium.Env:
    """Without a time limit: the host counts, for it must know when `base.step` will end an episode.

    Raises ValueError in one line if that fails.
    """
    try:
        return gymnasium.make(what, max_episode_steps=-1, disable_env_checker=True, **kwargs)
    except (Exception, SystemExit) as error:
        name = what if isinstance(what, str) else what.id
        raise ValueError(f"gym:{name} cannot be made: {one_line(error)}") from error


def _seed(key: PRNGKeyArray) -> Array:
    return jax.random.bits(key, (), jnp.uint32) >> 1  # some environments take 31 bits


def _flatten(x, batch: tuple[int, ...]) -> np.ndarray:
    x = np.asarray(x)
    return x.reshape(-1, *x.shape[len(batch) :])


def _unflatten(out: HostState, batch: tuple[int, ...]) -> HostState:
    return jax.tree.map(lambda x: x.reshape((*batch, *x.shape[1:])), out)


def close_all(made: Iterable[gymnasium.Env]) -> None:
    """Closes environments; failures are ignored: at exit, what one needs may be gone."""
    for env in made:
        with contextlib.suppress(Exception):
            env.close()
