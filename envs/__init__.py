"""Environments by name: `make`, `register`, `names`. Importing this package also registers them with Gymnasium, as
`stride/Walker-v0` and so on.

Modules are imported when their environment is made, so that `import envs` stays cheap.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import gymnasium

from envs import xla  # noqa: F401  must come before any device is used

if TYPE_CHECKING:
    from envs.base import Env

__all__ = ["make", "names", "register"]

_FACTORIES: dict[str, str | Callable[..., Env]] = {
    "walker": "envs.biped.walker:make_walker",
    "probe-constant": "envs.probes:ConstantReward",
    "probe-action": "envs.probes:RewardIsAction",
    "probe-observation": "envs.probes:RewardIsObservation",
    "probe-delayed": "envs.probes:DelayedReward",
    "probe-truncation": "envs.probes:TruncationOnly",
}


def make(name: str, **kwargs) -> Env:
    """The environment called `name`. Raises ValueError, naming the nearest name, if there is none."""
    if name not in _FACTORIES:
        near = difflib.get_close_matches(name, _FACTORIES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names())}"
        raise ValueError(f"unknown environment {name!r}: {hint}")
    factory = _FACTORIES[name]
    if isinstance(factory, str):
        module, _, attribute = factory.partition(":")
        factory = getattr(importlib.import_module(module), attribute)
    return factory(**kwargs)


def register(name: str, factory: Callable[..., Env]) -> None:
    """Makes `make(name, **kwargs)` call `factory(**kwargs)`. Raises ValueError if the name is taken."""
    if name in _FACTORIES:
        raise ValueError(f"the environment name {name!r} is taken")
    _FACTORIES[name] = factory


def names() -> list[str]:
    return sorted(_FACTORIES)


def _register_with_gymnasium(gymnasium_id: str, name: str, max_episode_steps: int) -> None:
    if gymnasium_id in gymnasium.registry:
        return
    gymnasium.register(
        id=gymnasium_id,
        entry_point="envs.gym:make_gym",
        vector_entry_point="envs.gym:make_gym_vector",
        max_episode_steps=max_episode_steps,
        kwargs={"name": name},
    )


_register_with_gymnasium("stride/Walker-v0", "walker", 400)
