"""Environments by name: `make`, `register`, `names`."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from envs import xla  # noqa: F401  first, before any device is used
from envs import probes
from envs.base import Env
from envs.biped.walker import make_walker

__all__ = ["Env", "make", "names", "register"]

_FACTORIES: dict[str, Callable[..., Env]] = {
    "walker": make_walker,
    "probe-constant": probes.ConstantReward,
    "probe-action": probes.RewardIsAction,
    "probe-observation": probes.RewardIsObservation,
    "probe-delayed": probes.DelayedReward,
    "probe-truncation": probes.TruncationOnly,
}


def make(name: str, **kwargs) -> Env:
    """The environment called `name`. Raises ValueError, naming the nearest name, if there is none."""
    if name not in _FACTORIES:
        near = difflib.get_close_matches(name, _FACTORIES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names())}"
        raise ValueError(f"unknown environment {name!r}: {hint}")
    return _FACTORIES[name](**kwargs)


def register(name: str, factory: Callable[..., Env]) -> None:
    """Makes `make(name, **kwargs)` call `factory(**kwargs)`. Raises ValueError if the name is taken."""
    if name in _FACTORIES:
        raise ValueError(f"the environment name {name!r} is taken")
    _FACTORIES[name] = factory


def names() -> list[str]:
    return sorted(_FACTORIES)
