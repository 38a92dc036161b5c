"""Token tasks by name: `make_task("sort-4")`; and as environments: `envs.make("tokens-sort")`."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable

from envs.tokens.countdown import Countdown
from envs.tokens.digits import Add, Bandit, Reverse, Sort
from envs.tokens.env import TokenEnv
from envs.tokens.graph_path import GraphPath
from envs.tokens.task import RewardKind, Split, Task, require_splits

__all__ = ["Task", "TokenEnv", "make_task", "make_tokens", "register_task", "task_names"]

_TASKS: dict[str, Callable[..., Task]] = {
    "sort": Sort,
    "add": Add,
    "reverse": Reverse,
    "countdown": Countdown,
    "graph-path": GraphPath,
    "bandit": Bandit,
}


def task_names() -> list[str]:
    return sorted(_TASKS)


def register_task(name: str, factory: Callable[..., Task]) -> None:
    """Makes `make_task(name)` call `factory()`, and `envs.make("tokens-" + name)` its environment.

    Raises ValueError if the name is taken.
    """
    if name in _TASKS:
        raise ValueError(f"the task name {name!r} is taken")
    _TASKS[name] = factory


def make_task(name: str) -> Task:
    """The task called `name`; a number behind it is its size: "sort-4" sorts four digits.

    Raises ValueError with one line if there is none, or its size is impossible.
    """
    sized = re.fullmatch(r"(.+)-(\d+)", name)
    if name in _TASKS or not sized:
        return _factory(name)()
    factory, size = _factory(sized[1]), int(sized[2])
    fields = dataclasses.fields(factory) if isinstance(factory, type) else ()
    if not fields:
        raise ValueError(f"the task {sized[1]!r} comes in one size only")
    return factory(**{fields[0].name: size})


def make_tokens(task: str | Task, reward: RewardKind = "exact", split: Split = "train") -> TokenEnv:
    """The environment of a token task.

    Args:
      task: its name, or the task itself.
      reward: exact (1 if right), process (credit for each token), or rule (-1, 0.2 or 1: form wrong, answer wrong,
        right).
      split: where episodes take their prompts from, train or held-out.

    Raises ValueError for any others, and for a task with too few prompts to hold some out.
    """
    task = task if isinstance(task, Task) else make_task(task)
    require_splits(task)
    return TokenEnv(task, reward, split)


def _factory(name: str) -> Callable[..., Task]:
    if name not in _TASKS:
        near = difflib.get_close_matches(name, _TASKS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(task_names())}"
        raise ValueError(f"unknown task {name!r}: {hint}")
    return _TASKS[name]
