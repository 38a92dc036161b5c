"""An antialiased canvas for pictures of a task, in the task's units: x to the right, y up."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

SKY, GROUND, LINE, INK = (238, 242, 247), (214, 217, 216), (176, 182, 185), (52, 58, 70)
BLUE, ORANGE, GREEN, RED = (82, 122, 168), (217, 148, 84), (88, 148, 108), (192, 92, 86)

_SUPERSAMPLING = 3  # drawn larger, then averaged down

Color = tuple[int, int, int]
Point = Any  # (x, y), in metres or the task's unit


class Canvas:
    """A picture of `width` x `height` pixels with `center` in its middle, in which `span` (wide, high) fits.

    Lines and text keep their size relative to the picture, shapes theirs relative to the task.
    """

    def __init__(
        self, width: int, height: int, center: tuple[float, float], span: tuple[float, float]
    ):
        width, height = width * _SUPERSAMPLING, height * _SUPERSAMPLING
        self._middle = np.array([width, height]) / 2
        self._center = np.array(center)
        self._scale = min(width / span[0], height / span[1])  # pixels per unit
        self._image = Image.new("RGB", (width, height), SKY)
        self._draw = ImageDraw.Draw(self._image)
        self._height = height
        self._stroke = max(1, height // 180)  # 2 pixels of a picture 360 pixels high

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """A filled polygon."""
        self._draw.polygon(self._place(points), fill=color)

    def line(self, points: Sequence[Point], color: Color) -> None:
        """A thin line through `points`."""
        self._draw.line(self._place(points), fill=color, width=self._stroke, joint="curve")

    def rod(self, ends: Sequence[Point], thickness: float, color: Color) -> None:
        """A thick line with round ends."""
        self._draw.line(self._place(ends), fill=color, width=round(thickness * self._scale))
        for end in ends:
            self.disc(end, thickness / 2, color)

    def disc(self, center: Point, radius: float, color: Color) -> None:
        """A filled disc."""
        self._draw.ellipse(self._box(center, radius), fill=color)

    def circle(self, center: Point, radius: float, color: Color) -> None:
        """A thin ring."""
        self._draw.ellipse(self._box(center, radius), outline=color, width=self._stroke)

    def text(self, point: Point, text: str, anchor: str) -> None:
        """Text at a point. `anchor` is Pillow's: "ma" hangs the text centred below the point, "ld" stands it right
        above."""
        (place,) = self._place([point])
        self._draw.text(place, text, fill=INK, font=_font(self._height // 28), anchor=anchor)

    def caption(self, text: str) -> None:
        """Text in the upper left corner."""
        margin = self._height // 24
        self._draw.text((margin, margin), text, fill=INK, font=_font(margin))

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture, uint8 [height, width, 3]."""
        return np.asarray(self._image.reduce(_SUPERSAMPLING))

    def _place(self, points: Sequence[Point]) -> list[tuple[float, float]]:
        offset = (np.asarray(points, float) - self._center) * self._scale
        pixels = self._middle + offset * [1.0, -1.0]
        return [(float(x), float(y)) for x, y in pixels]

    def _box(self, center: Point, radius: float) -> list[float]:
        ((x, y),) = self._place([center])
        reach = radius * self._scale
        return [x - reach, y - reach, x + reach, y + reach]


@functools.lru_cache(maxsize=8)
def _font(size: int):
    return ImageFont.load_default(size)
