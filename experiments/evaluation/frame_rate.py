"""The frame rate of videos: interprets `render_fps` for the checks and for rendering."""

from __future__ import annotations

import math

from envs.base import Env

SECONDS = 20  # longer videos are cut
SLOWEST, FASTEST = (
    0.05,
    10_000.0,
)  # steps a second of which a video can be made: one in 20 s, and 0.1 ms


def frame_rate(env: Env) -> float | None:
    """Returns `render_fps` as a number; None where there is nothing to see.

    Raises ValueError in one line where it is no number, or no such number of steps a second.
    """
    given = env.render_fps
    if given is None:
        return None
    try:
        rate = math.nan if isinstance(given, bool | str | bytes) else float(given)
    except (TypeError, ValueError, OverflowError):  # among others an array of several
        rate = math.nan
    if not SLOWEST <= rate <= FASTEST:
        words = " ".join(repr(given).split())
        words = words if len(words) <= 40 else f"{words[:40]}..."
        raise ValueError(
            f"render_fps is {words}: give the steps of a second, a number from {SLOWEST:g} to {FASTEST:g}"
        )
    return rate


def drawable(env: Env) -> bool:
    """Tells that a video can be made; False also for an impossible `render_fps`."""
    try:
        return frame_rate(env) is not None
    except ValueError:
        return False


def shown_steps(env: Env) -> int | None:
    """Steps of an episode that a video shows; None where none can be made."""
    rate = frame_rate(env) if drawable(env) else None
    return None if rate is None else max(1, math.floor(SECONDS * rate))
