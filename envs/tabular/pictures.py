"""Pictures of grid worlds, drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

_SUPERSAMPLING = 3  # drawn larger, then averaged down: smooth edges
_PAPER, _LINE, _INK = (246, 247, 249), (206, 211, 218), (52, 58, 70)
_AGENT, _RIM = (224, 108, 50), (255, 255, 255)
_FILL = {"F": (226, 238, 246), "S": (207, 226, 240), "H": (66, 88, 116), "G": (205, 231, 206)}
_FILL |= {".": (238, 236, 228), "C": (112, 92, 84)}
_LOW, _HIGH = np.array([249, 244, 226]), np.array([94, 158, 160])  # shades of values
_PLACES = (  # red, green, yellow, blue: cell and colour
    ((0, 0), (214, 73, 73)),
    ((0, 4), (70, 160, 90)),
    ((4, 0), (224, 180, 50)),
    ((4, 3), (66, 116, 200)),
)
_WALLS = ((0, 1), (1, 1), (3, 0), (4, 0), (3, 2), (4, 2))  # (row, column) with a wall on the right

Cell = tuple[int, int]  # row, column
Point = tuple[float | int, float | int]  # right, down


class _Board:
    """A canvas with a grid centred on it. Lengths are in cells, places (right, down) from the grid's corner."""

    def __init__(self, width: int, height: int, rows: int, columns: int):
        self.size = (width, height)
        canvas = (width * _SUPERSAMPLING, height * _SUPERSAMPLING)
        self.cell = 0.94 * min(canvas[0] / columns, canvas[1] / rows)
        self.left = (canvas[0] - self.cell * columns) / 2
        self.top = (canvas[1] - self.cell * rows) / 2
        self.image = Image.new("RGB", canvas, _PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def at(self, *points: Point) -> list[tuple[float, float]]:
        return [(self.left + x * self.cell, self.top + y * self.cell) for x, y in points]

    def square(self, cell: Cell, fill: Any) -> None:
        row, column = cell
        corners = self.at((column, row), (column + 1, row + 1))
        self.draw.rectangle(corners, fill=fill, outline=_LINE, width=self.pixels(0.02))

    def disc(self, x: float, y: float, radius: float, fill: Any, rim: Any = None) -> None:
        corners = self.at((x - radius, y - radius), (x + radius, y + radius))
        self.draw.ellipse(corners, fill=fill, outline=rim, width=self.pixels(0.05))

    def line(self, points: list[Point], fill: Any, width: float) -> None:
        self.draw.line(self.at(*points), fill=fill, width=self.pixels(width))

    def polygon(self, points: list[Point], fill: Any) -> None:
        self.draw.polygon(self.at(*points), fill=fill)

    def pixels(self, length: float) -> int:
        return max(1, round(length * self.cell))

    def finish(self) -> UInt8[np.ndarray, "h w 3"]:
        return np.asarray(self.image.resize(self.size, Image.Resampling.BOX))


def grid(
    desc: Sequence[str],
    width: int,
    height: int,
    agent: int | None = None,
    arrows: Sequence[Cell] | None = None,
    values: Any = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """A grid world. Letters: S start, F ice, "." ground, H hole, C cliff, G goal.

    Args:
      agent: the agent's cell, counted row by row.
      arrows: for each cell (rows down, columns right); none is drawn on holes, cliffs and goals.
      values: for each cell a number to shade it by; holes, cliffs and goals keep their colours.
    """
    rows, columns = len(desc), len(desc[0])
    board = _Board(width, height, rows, columns)
    shade = _shades(desc, values)
    for index, letter in enumerate("".join(desc)):
        row, column = cell = divmod(index, columns)
        board.square(cell, shade(index) if letter in "SF." else _FILL[letter])
        _mark(board, letter, row, column)
        if arrows is not None and letter in "SF.":
            _arrow(board, row, column, arrows[index])
    if agent is not None:
        row, column = divmod(agent, columns)
        board.disc(column + 0.5, row + 0.5, 0.27, _AGENT, _RIM)
    return board.finish()


def taxi(
    width: int, height: int, place: Cell, passenger: int, destination: int
) -> UInt8[np.ndarray, "h w 3"]:
    """The taxi's town: the four places in their colours, the destination with a flag, the passenger a dark disc at a
    place or (4) in the taxi.

    Args:
      place: the taxi's row and column.
    """
    board = _Board(width, height, 5, 5)
    for index in range(25):
        board.square(divmod(index, 5), _FILL["."])
    for (row, column), colour in _PLACES:
        faded = tuple(round(0.55 * 255 + 0.45 * c) for c in colour)
        board.square((row, column), faded)
    (row, column), colour = _PLACES[destination]
    _flag(board, row, column, colour)
    for row, column in _WALLS:
        board.line([(column + 1, row), (column + 1, row + 1)], _INK, 0.07)
    board.draw.rectangle(board.at((0, 0), (5, 5)), outline=_INK, width=board.pixels(0.07))
    if passenger < 4:
        row, column = _PLACES[passenger][0]
        board.disc(column + 0.27, row + 0.72, 0.13, _INK, _RIM)
    row, column = place
    board.polygon(
        [(column + x, row + y) for x, y in ((0.2, 0.62), (0.32, 0.36), (0.68, 0.36), (0.8, 0.62))],
        _AGENT,
    )
    body = board.at((column + 0.13, row + 0.52), (column + 0.87, row + 0.76))
    board.draw.rounded_rectangle(body, radius=board.pixels(0.06), fill=_AGENT)
    for x in (0.3, 0.7):
        board.disc(column + x, row + 0.77, 0.09, _INK)
    if passenger == 4:
        board.disc(column + 0.5, row + 0.47, 0.12, _INK, _RIM)
    return board.finish()


def _mark(board: _Board, letter: str, row: int, column: int) -> None:
    if letter == "H":
        board.disc(column + 0.5, row + 0.5, 0.36, (30, 44, 66))
    elif letter == "G":
        _flag(board, row, column, (60, 140, 80))
    elif letter == "C":
        for y in (0.3, 0.55, 0.8):
            board.line(
                [(column + 0.15, row + y), (column + 0.85, row + y - 0.1)], (84, 66, 60), 0.04
            )
    elif letter == "S":
        corners = board.at((column + 0.12, row + 0.12), (column + 0.88, row + 0.88))
        board.draw.rectangle(corners, outline=(120, 150, 180), width=board.pixels(0.035))


def _flag(board: _Board, row: int, column: int, colour: Any) -> None:
    board.line([(column + 0.4, row + 0.18), (column + 0.4, row + 0.84)], _INK, 0.05)
    tip = [(column + 0.4, row + 0.16), (column + 0.78, row + 0.31), (column + 0.4, row + 0.46)]
    board.polygon(tip, colour)


def _arrow(board: _Board, row: int, column: int, move: Cell) -> None:
    down, right = move
    x, y = column + 0.5, row + 0.5
    tip = (x + 0.3 * right, y + 0.3 * down)
    neck = (x + 0.08 * right, y + 0.08 * down)
    board.line([(x - 0.28 * right, y - 0.28 * down), neck], _INK, 0.06)
    # The arrow's head is as wide across (right and down swapped) as it is long.
    side = (0.14 * down, 0.14 * right)
    head = [tip, (neck[0] + side[0], neck[1] + side[1]), (neck[0] - side[0], neck[1] - side[1])]
    board.polygon(head, _INK)


def _shades(desc: Sequence[str], values: Any) -> Callable[[int], tuple[int, ...]]:
    letters = "".join(desc)
    if values is None:
        return lambda index: _FILL[letters[index]]
    numbers = np.asarray(values, float)
    shown = np.array([letter in "SF." for letter in letters])
    low, high = numbers[shown].min(), numbers[shown].max()
    share = (numbers - low) / (high - low if high > low else 1.0)

    def shade(index: int) -> tuple[int, ...]:
        return tuple(np.rint(_LOW + share[index] * (_HIGH - _LOW)).astype(int).tolist())

    return shade
