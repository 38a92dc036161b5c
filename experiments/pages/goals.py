"""When runs first reached the goals of their task, as columns and tables of results pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments.console.display import duration, si
from experiments.pages import markdown

# Of a page whose runs have a gait, but are all from before goals were noted.
_OF_A_GAIT = ("walks", "return_216")
_HOW = "reached the goal, by as many episodes as the final one has."
_DASH = "A dash: the run is from before this was measured."


def names(noted: Iterable[dict[str, Any] | None]) -> list[str]:
    """Returns the goals of runs, of each of which `noted` has what summary.json says of them (`reached`), or None."""
    found = dict.fromkeys(name for reached in noted for name in reached or {})
    return list(found or _OF_A_GAIT)


def moment(reached: dict[str, Any] | None, goal: str) -> str:
    """Returns when a run first reached a goal: its median seed, and how many seeds did where not all did."""
    at = (reached or {}).get(goal)
    if at is None:
        return "-"
    return _text([at["env_steps"]], [at["wall_clock_s"]]) if at["seeds"] else "never"


def remark(noted: Iterable[dict[str, Any] | None]) -> str:
    """Returns sentences on the columns of goals."""
    old = any(not reached for reached in noted)
    return " ".join(
        ["First: when the first evaluation began that", _HOW, *([_DASH] if old else [])]
    )


def table(noted: dict[str, Sequence[dict[str, Any] | None]], called: str) -> list[str]:
    """Returns the lines of an environment's section: a row for each algorithm.

    Args:
      noted: algorithm to what is known of each seed: goal to its moment or None (never); None: not measured.
      called: the environment's name on the page.
    """
    every = [reached for seeds in noted.values() for reached in seeds]
    goals = names(every)
    lines = [f"## Time to goals, {markdown.inert(called)}", ""]
    lines += [
        "Environment steps and wall clock of the run, its compilation included, when the first evaluation began that "
        f"{_HOW} Median over the seeds that did (lowest to highest).",
        *([_DASH] if any(reached is None for reached in every) else []),
        "",
    ]
    rows = [
        [algo, *(_of_seeds([r.get(goal) for r in seeds if r is not None]) for goal in goals)]
        for algo, seeds in noted.items()
    ]
    return [*lines, *markdown.table(["algorithm", *map(heading, goals)], rows), ""]


def heading(goal: str) -> str:
    """Returns the heading of a goal's column."""
    return f"first {goal.replace('_', ' ')}"


def _of_seeds(moments: list[dict[str, Any] | None]) -> str:
    if not moments:
        return "-"
    known = [m for m in moments if m is not None]
    share = f"{len(known)} of {len(moments)} seeds"
    if not known:
        return f"never, {share}"
    steps, seconds = zip(*((m["env_steps"], m["wall_clock_s"]) for m in known), strict=True)
    return f"{_text(steps, seconds)}; {share}"


def _text(steps: Sequence[float], seconds: Sequence[float]) -> str:
    def spread(values, written):
        middle = written(float(np.median(values)))
        ends = written(min(values)), written(max(values))
        return middle if ends[0] == ends[1] else f"{middle} ({ends[0]} to {ends[1]})"

    return f"{spread(steps, si)}, {spread(seconds, duration)}"
