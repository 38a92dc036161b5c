"""Token tasks by name: `make_task("sort-4")`; and as environments: `envs.make("tokens-sort", digits=4)`."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from envs.tokens.countdown import Countdown
from envs.tokens.digits import Add, Bandit, Reverse, Sort
from envs.tokens.env import TokenEnv
from envs.tokens.games import Calculator, GuessNumber
from envs.tokens.graph_path import GraphPath
from envs.tokens.reasoning_gym import PREFIX, ReasoningGym
from envs.tokens.task import RewardKind, Split, Task, require_splits
from envs.tokens.text import TextTask
from envs.tokens.turns import TurnTask

__all__ = [
    "Task",
    "TextTask",
    "TokenEnv",
    "TokenFactory",
    "TurnTask",
    "make_task",
    "make_tokens",
    "plain_name",
    "register_task",
    "sized_name",
    "task_names",
    "token_factory",
]

_TASKS: dict[str, Callable[..., Task]] = {
    "sort": Sort,
    "add": Add,
    "reverse": Reverse,
    "countdown": Countdown,
    "graph-path": GraphPath,
    "bandit": Bandit,
    "guess-number": GuessNumber,
    "calculator": Calculator,
}
_OF_ENV = ("reward", "split")  # parameters of `make_tokens`, besides the task


def task_names() -> list[str]:
    """Names of all registered tasks, sorted."""
    return sorted(_TASKS)


def register_task(name: str, factory: Callable[..., Task]) -> None:
    """Makes `make_task(name)` call `factory()`, and `envs.make("tokens-" + name)` its environment.

    Raises ValueError if the name is taken.
    """
    if name in _TASKS:
        raise ValueError(f"the task name {name!r} is taken")
    _TASKS[name] = factory


def make_task(name: str) -> Task:
    """The task called `name`; a number after it is its size: "sort-4" sorts four digits; "reasoning-gym:chain_sum" is a
    data set of that package.

    Raises ValueError with one line if there is none, or its size is impossible.
    """
    factory = token_factory(name)
    return factory.task(**factory.fixed)


def make_tokens(task: str | Task, reward: RewardKind = "exact", split: Split = "train") -> TokenEnv:
    """The environment of a token task.

    Args:
      task: its name, or the task itself.
      reward: exact (1 if right), process (credit for each token up to the first wrong one), share (of tokens that are
        right, also behind a wrong one), or rule (-1, 0.2 or 1: form wrong, answer wrong, right).
      split: where episodes take their prompts from, train or held-out.

    Raises ValueError for any others, and for a task with too few prompts to hold some out.
    """
    task = task if isinstance(task, Task) else make_task(task)
    require_splits(task)
    return TokenEnv(task, reward, split)


@dataclasses.dataclass(frozen=True)
class TokenFactory:
    """Makes the environments of one kind of task: `factory(digits=4, reward="process")`.

    Its parameters are those of `task`, then those of `make_tokens` which `task` has not itself.
    """

    task: Callable[..., Task]
    """a class of tasks, or a function that makes one"""
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """options that the name already says, as "sort-4" does"""
    name: str = "the task"
    """for messages"""
    environment: Callable[..., TokenEnv] = make_tokens
    """(task, reward, split) to the environment"""

    @property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(self.task).parameters.values()
        of_env = inspect.signature(make_tokens).parameters
        named = [p for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        taken = {p.name for p in named}
        parameters = [
            p.replace(kind=p.KEYWORD_ONLY, default=self.fixed.get(p.name, p.default))
            for p in [*named, *(of_env[name] for name in _OF_ENV if name not in taken)]
        ]
        return inspect.Signature(parameters)

    def __call__(self, **options: Any) -> TokenEnv:
        """Raises ValueError for impossible options, and for those that contradict the name."""
        for key, value in self.fixed.items():
            if options.get(key, value) != value:
                raise ValueError(
                    f"{self.name} has {key} {value}, not {options[key]}: leave out one of the two"
                )
        own = inspect.signature(self.task).parameters
        defaults = {k: inspect.signature(make_tokens).parameters[k].default for k in _OF_ENV}
        given = {k: options.pop(k) for k in _OF_ENV if k in options and k not in own}
        made = self.task(**{**self.fixed, **options})
        if isinstance(made, Task):
            return self.environment(made, *(defaults | given).values())
        if not isinstance(made, TokenEnv):
            kind = type(made).__name__
            raise ValueError(
                f"{self.name} makes a {kind}, not a token task: derive the class from envs.tokens.Task"
            )
        for key, value in given.items():
            has = {"reward": made.reward_kind, "split": made.split}[key]
            if value not in (has, defaults[key]):
                raise ValueError(f"{self.name} makes an environment whose {key} is {has} already")
        return made


def token_factory(name: str) -> TokenFactory:
    """The factory of environments of the task called `name`, with its size if the name has one ("sort-4").

    Raises ValueError with one line if there is no such task, or it has no sizes.
    """
    dataset = name.removeprefix(PREFIX)
    if dataset != name:
        return TokenFactory(ReasoningGym, {"dataset": dataset}, name)
    base, size = sized_name(name)
    if base not in _TASKS:
        near = difflib.get_close_matches(base, _TASKS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(task_names())}"
        raise ValueError(f"unknown task {base!r}: {hint}")
    if size is None:
        return TokenFactory(_TASKS[base], name=name)
    first = _size_field(base)
    if first is None:
        raise ValueError(f"the task {base!r} comes in one size only")
    return TokenFactory(_TASKS[base], {first.name: size}, name)


def sized_name(name: str) -> tuple[str, int | None]:
    """A task's own name, and the size after it: "sort-4" is ("sort", 4), "sort" is ("sort", None)."""
    sized = re.fullmatch(r"(.+)-(\d+)", name)
    return (sized[1], int(sized[2])) if sized and name not in _TASKS else (name, None)


def plain_name(name: str) -> str:
    """The name without a size that the task has anyway: "sort-6" is "sort", "sort-04" is "sort-4"."""
    base, size = sized_name(name)
    first = _size_field(base) if base in _TASKS else None
    if size is None or first is None:
        return name
    return base if size == first.default else f"{base}-{size}"


def _size_field(base: str) -> dataclasses.Field | None:
    """The field that a number after a task's name sets: the first one."""
    factory = _TASKS[base]
    fields = dataclasses.fields(factory) if isinstance(factory, type) else ()
    return fields[0] if fields else None
