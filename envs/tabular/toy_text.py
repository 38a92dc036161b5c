"""Gymnasium's toy-text environments as exact tables: the transition lists `env.unwrapped.P`, entry by entry.

The tables are read from Gymnasium when the environment is made; this module adds options, time limits and pictures.
Infos are empty: Gymnasium's `prob` and Taxi's `action_mask` are omitted. Actions have Gymnasium's numbers: FrozenLake
left, down, right, up; CliffWalking up, right, down, left; Taxi south, north, east, west, pick up, drop off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.struct
import numpy as np
from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
from gymnasium.envs.toy_text.frozen_lake import MAPS, FrozenLakeEnv
from gymnasium.envs.toy_text.taxi import TaxiEnv
from jaxtyping import UInt8

from envs import TIME_LIMITS
from envs.base import static
from envs.tabular import pictures
from envs.tabular.table import Tabular, TabularState, from_outcomes

LAKE_MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))  # (rows down, columns right) of each action
CLIFF_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
_CLIFF = ("." * 12, "." * 12, "." * 12, "S" + "C" * 10 + "G")


@flax.struct.dataclass
class Grid(Tabular):
    """A table whose states are the cells of a grid, row by row."""

    desc: tuple[str, ...] = static(())
    moves: tuple[tuple[int, int], ...] = static(LAKE_MOVES)

    render_fps = 4

    def render(self, state: TabularState, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
        """The grid with the agent on it, uint8 [height, width, 3]."""
        return self.picture(width, height, agent=int(state.s))

    def picture(
        self,
        width: int,
        height: int,
        agent: int | None = None,
        policy: Any = None,
        values: Any = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The grid as an RGB image.

        Args:
          agent: the cell to mark.
          policy: [S] actions to draw as arrows.
          values: [S] numbers to shade the cells by, from the lowest to the highest.
        """
        arrows = None if policy is None else [self.moves[int(a)] for a in policy]
        return pictures.grid(self.desc, width, height, agent, arrows, values)


@flax.struct.dataclass
class Taxi(Tabular):
    """State: ((row * 5 + column) * 5 + passenger) * 4 + destination; passenger 4 is in the taxi."""

    render_fps = 4

    def render(self, state: TabularState, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
        """The town with taxi, passenger and destination, uint8 [height, width, 3]."""
        row, column, passenger, destination = np.unravel_index(int(state.s), (5, 5, 5, 4))
        place = (int(row), int(column))
        return pictures.taxi(width, height, place, int(passenger), int(destination))


def make_frozen_lake(
    map_name: str = "4x4",
    is_slippery: bool = True,
    desc: Sequence[str] | None = None,
    success_rate: float | int = 1.0 / 3.0,
    reward_schedule: Sequence[float | int] = (1, 0, 0),
    max_episode_steps: int = 100,
) -> Grid:
    """Over the ice to the goal, around the holes.

    Args:
      map_name: "4x4" or "8x8".
      is_slippery: the move is the intended one with `success_rate`, else one to either side of it.
      desc: a map of one's own, a string for each row; S start, F ice, H hole, G goal. Gymnasium's
        `generate_random_map` makes them.
      success_rate: 0 to 1.
      reward_schedule: rewards for goal, hole and ice.

    Raises ValueError for a map or a rate it cannot use.
    """
    if isinstance(desc, str):
        raise ValueError(f"desc must be a list of rows, got the string {desc!r}")
    if desc is None and map_name not in MAPS:
        raise ValueError(f"unknown map_name {map_name!r}: choose from {', '.join(MAPS)}")
    rows = tuple(MAPS[map_name] if desc is None else desc)
    if len({len(row) for row in rows}) != 1 or set("".join(rows)) - set("SFHG"):
        raise ValueError(f"desc must be rows of equal length of the letters S, F, H, G: {rows}")
    if "S" not in "".join(rows):
        raise ValueError(f"desc needs a start, S: {rows}")
    if not 0 <= success_rate <= 1:
        raise ValueError(f"success_rate must be between 0 and 1, got {success_rate}")
    if len(reward_schedule) != 3:
        raise ValueError(f"reward_schedule must be (goal, hole, ice), got {reward_schedule}")
    source = FrozenLakeEnv(
        desc=list(rows),
        is_slippery=is_slippery,
        success_rate=success_rate,
        reward_schedule=tuple(reward_schedule),  # type: ignore[arg-type]  # any three numbers
    )
    return Grid(**_tables(source), max_episode_steps=max_episode_steps, desc=rows, moves=LAKE_MOVES)


def make_frozen_lake_8x8(
    map_name: str = "8x8", max_episode_steps: int = 200, **options: Any
) -> Grid:
    """`make_frozen_lake` on the larger map, with 200 steps; same options and errors."""
    return make_frozen_lake(map_name, max_episode_steps=max_episode_steps, **options)


def make_cliff_walking(
    is_slippery: bool = False, max_episode_steps: int = TIME_LIMITS["CliffWalking-v1"]
) -> Grid:
    """Along the cliff to the goal: -1 a step, -100 and back to the start over the edge. Sutton and Barto 2018,
    example 6.6. The time limit is ours, Gymnasium has none.

    Args:
      is_slippery: moves are the intended one or one to either side of it, equally likely.
    """
    tables = _tables(CliffWalkingEnv(is_slippery=is_slippery))
    return Grid(**tables, max_episode_steps=max_episode_steps, desc=_CLIFF, moves=CLIFF_MOVES)


def make_taxi(
    is_rainy: bool = False,
    rainy_probability: float | int = 0.8,
    fickle_passenger: bool = False,
    max_episode_steps: int = 200,
) -> Taxi:
    """A passenger to be picked up at one of four places and dropped off at another. Dietterich 2000,
    https://arxiv.org/abs/cs/9905014

    Args:
      is_rainy: moves are the intended one with `rainy_probability`, else one to either side of it.
      fickle_passenger: not offered. Whether the passenger still may change their mind is no part of Gymnasium's
        500 states, so there is no table for it.

    Raises ValueError for a fickle passenger, or a probability outside 0 to 1.
    """
    if fickle_passenger:
        raise ValueError(
            "fickle_passenger=True is no table: it depends on what observations do not show; "
            "make('gym:Taxi-v4', fickle_passenger=True) has it"
        )
    if not 0 <= rainy_probability <= 1:
        raise ValueError(f"rainy_probability must be between 0 and 1, got {rainy_probability}")
    source = TaxiEnv(is_rainy=is_rainy, rainy_probability=rainy_probability)
    return Taxi(**_tables(source), max_episode_steps=max_episode_steps)


def _tables(source: Any) -> dict[str, np.ndarray]:
    return from_outcomes(source.P, source.initial_state_distrib)
