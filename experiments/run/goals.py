"""When a run's policy first reached the goals of its task, such as walking.

Evaluations during training are small: of 16 to 128 episodes, too few to tell 95% from 93% upright. So where one of them
reaches a goal for the first time, it is enlarged to the size of the final evaluation, and the goal counts as reached
only if all of these episodes together reach it. Most evaluations cost nothing more than before.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

# Seed's index, as text, to goal to (environment steps, wall clock in s): when the evaluation began. Plain JSON.
Reached = dict[str, dict[str, list[float]]]


def note(
    reached: Reached,
    judge: Callable[[Any], dict[str, bool]],
    episodes: list[Any],
    enlarged: Callable[[], list[Any]],
    moment: tuple[int, float],
) -> Reached:
    """Returns `reached` with the goals that the present policies are the first to reach.

    Args:
      judge: an evaluation of one seed to goals and whether it reaches them.
      episodes: an evaluation of each seed.
      enlarged: returns the same in the size of a final evaluation; called only where `episodes` reach something new.
      moment: environment steps and wall clock in seconds of the evaluation.
    """
    if not any(_new(reached, i, judge(found)) for i, found in enumerate(episodes)):
        return reached
    return reached | {
        str(i): reached.get(str(i), {})
        | {name: [*moment] for name in _new(reached, i, judge(found))}
        for i, found in enumerate(enlarged())
    }


def entries(goals: Iterable[str], reached: dict[str, list[float]]) -> dict[str, Any]:
    """Returns what summary.json tells of one seed: of each goal `env_steps` and `wall_clock_s`, or None."""
    return {
        name: dict(zip(("env_steps", "wall_clock_s"), (int(at[0]), at[1]), strict=True))
        if (at := reached.get(name))
        else None
        for name in goals
    }


def of_seeds(per_seed: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns of each goal the number of seeds that reached it, `seeds`, and the medians over these, None if there are
    none."""
    return {name: _medians([entry[name] for entry in per_seed]) for name in per_seed[0]}


def _medians(moments: list[dict[str, Any] | None]) -> dict[str, Any]:
    known = [moment for moment in moments if moment is not None]
    return {
        "seeds": len(known),
        **{
            name: statistics.median(moment[name] for moment in known) if known else None
            for name in ("env_steps", "wall_clock_s")
        },
    }


def _new(reached: Reached, seed_index: int, goals: dict[str, bool]) -> list[str]:
    known = reached.get(str(seed_index), {})
    return [name for name, is_reached in goals.items() if is_reached and name not in known]
