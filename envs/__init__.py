"""Environments by name: `make`, `register`, `names`. Importing this package also registers them with Gymnasium, as
`stride/CartPole-v1` and so on (the walker as `stride/Walker-v0`).

Modules are imported when their environment is made, so that `import envs` stays cheap.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import gymnasium

from envs import process  # must come before any device is used

if TYPE_CHECKING:
    from envs.base import Env

__all__ = ["factory", "make", "names", "register", "register_with_gymnasium"]

TOKENS_PREFIX = "tokens-"  # "tokens-sort-4" is a token task of size 4
HOST_PREFIX = "gym:"  # "gym:LunarLander-v3" is Gymnasium's own environment, stepped on the host

_FACTORIES: dict[str, str | Callable[..., Env]] = {
    "walker": "envs.biped.walker:make_walker",
    "CartPole-v1": "envs.classic.cartpole:CartPole",
    "Acrobot-v1": "envs.classic.acrobot:Acrobot",
    "MountainCar-v0": "envs.classic.mountain_car:MountainCar",
    "MountainCarContinuous-v0": "envs.classic.mountain_car:ContinuousMountainCar",
    "Pendulum-v1": "envs.classic.pendulum:Pendulum",
    "InvertedPendulum-v5": "envs.gymnasium_mujoco.inverted_pendulum:InvertedPendulum",
    "InvertedDoublePendulum-v5": "envs.gymnasium_mujoco.inverted_pendulum:InvertedDoublePendulum",
    "Reacher-v5": "envs.gymnasium_mujoco.arms:Reacher",
    "Pusher-v5": "envs.gymnasium_mujoco.arms:Pusher",
    "Swimmer-v5": "envs.gymnasium_mujoco.locomotion:Swimmer",
    "Hopper-v5": "envs.gymnasium_mujoco.locomotion:Hopper",
    "HalfCheetah-v5": "envs.gymnasium_mujoco.locomotion:HalfCheetah",
    "Walker2d-v5": "envs.gymnasium_mujoco.locomotion:Walker2d",
    "Ant-v5": "envs.gymnasium_mujoco.ant:Ant",
    "Bandit-v0": "envs.tabular.bandit:Bandit",
    "FrozenLake-v1": "envs.tabular.toy_text:make_frozen_lake",
    "FrozenLake8x8-v1": "envs.tabular.toy_text:make_frozen_lake_8x8",
    "CliffWalking-v1": "envs.tabular.toy_text:make_cliff_walking",
    "Taxi-v4": "envs.tabular.toy_text:make_taxi",
    **{
        f"tokens-{task}": "envs.tokens:make_tokens"
        for task in ("sort", "add", "reverse", "countdown", "graph-path", "bandit")
    },
    "probe-constant": "envs.probes:ConstantReward",
    "probe-action": "envs.probes:RewardIsAction",
    "probe-observation": "envs.probes:RewardIsObservation",
    "probe-delayed": "envs.probes:DelayedReward",
    "probe-truncation": "envs.probes:TruncationOnly",
}

# Time limits, in steps, that Gymnasium's registry lacks. The defaults of the environments read them here, because
# registration imports no module.
TIME_LIMITS = {"walker": 400, "Bandit-v0": 1, "CliffWalking-v1": 1000}

# Made without a computation, so that a forked process can refuse at their first reset and say why.
_COMPUTE_NOTHING = frozenset(name for name in _FACTORIES if not name.startswith(TOKENS_PREFIX))


def make(name: str, **kwargs) -> Env:
    """The environment called `name`, with its options.

    Raises ValueError, with the nearest name, if there is none, for impossible options, and where JAX computes with 64
    bits; RuntimeError in a forked process whose JAX cannot compute (see `process.require_unforked`).
    """
    if name not in _COMPUTE_NOTHING:
        process.require_unforked()
    return factory(name)(**kwargs)


def factory(name: str) -> Callable[..., Env]:
    """The callable behind `make(name, ...)`; its parameters are the environment's options. Raises ValueError like
    `make`."""
    process.require_single_precision()
    if name.startswith(HOST_PREFIX):
        from envs.host import make_host

        return functools.partial(make_host, name.removeprefix(HOST_PREFIX))
    if name.startswith(TOKENS_PREFIX) and not callable(_FACTORIES.get(name)):
        from envs.tokens import token_factory

        return token_factory(name.removeprefix(TOKENS_PREFIX))
    if name not in _FACTORIES:
        near = difflib.get_close_matches(name, _FACTORIES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names())}"
        raise ValueError(f"unknown environment {name!r}: {hint}")
    entry = _FACTORIES[name]
    if isinstance(entry, str):
        module, _, attribute = entry.partition(":")
        return getattr(importlib.import_module(module), attribute)
    return entry


def register(name: str, factory: Callable[..., Env]) -> None:
    """Makes `make(name, **kwargs)` call `factory(**kwargs)`. Raises ValueError if the name is taken."""
    if name in _FACTORIES:
        raise ValueError(f"the environment name {name!r} is taken")
    _FACTORIES[name] = factory


def names() -> list[str]:
    """Names of all registered environments, sorted; those of Gymnasium (`gym:...`) and sized token tasks are not
    listed."""
    return sorted(_FACTORIES)


def _time_limit(name: str) -> int | None:
    """Returns the time limit in steps with which to register an environment; None for token tasks.

    A token task terminates at the length of its responses. A limit would mark the same step as truncated, too.
    """
    if name.startswith(TOKENS_PREFIX):
        return None
    return TIME_LIMITS.get(name) or gymnasium.registry[name].max_episode_steps


def register_with_gymnasium() -> None:
    """Registers every environment here with Gymnasium, under `stride/`. Importing this package does it; a second call
    changes nothing. The target of the entry point `gymnasium.envs`."""
    for name, entry in _FACTORIES.items():
        if callable(entry) or name.startswith("probe-"):  # callable: a user's own
            continue
        gymnasium_id = f"stride/{'Walker-v0' if name == 'walker' else name}"
        if gymnasium_id not in gymnasium.registry:
            gymnasium.register(
                id=gymnasium_id,
                entry_point="envs.gym:make_gym",
                vector_entry_point="envs.gym:make_gym_vector",
                max_episode_steps=_time_limit(name),
                kwargs={"name": name},
            )


register_with_gymnasium()
