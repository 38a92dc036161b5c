"""Arithmetic and drawing of curves that several figures share: means over seeds, fits, peaks."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from experiments.figures.canvas import BLACK, BLUE, GOLD, RED, SKY

COLOURS = (BLUE, RED, GOLD, BLACK, SKY, "#4d8b57", "#8a5fa8")


def mean(curve: Any) -> Float[np.ndarray, " marks"]:
    """Returns the mean over seeds of a curve [seeds][marks]."""
    return np.mean(np.asarray(curve, float), axis=0)


def draw_seeds(ax: Any, x: Any, curve: Any, colour: str, label: str, **line: Any) -> None:
    """Draws a curve's mean over seeds, and each seed thinly.

    Args:
      x: [marks], or [seeds][marks].
      curve: [seeds][marks].
    """
    x, curve = np.asarray(x, float), np.asarray(curve, float)
    each = np.broadcast_to(x, curve.shape)
    for place, values in zip(each, curve, strict=True):
        ax.plot(place, values, color=colour, linewidth=0.7, alpha=0.35, **line)
    ax.plot(mean(each), mean(curve), color=colour, linewidth=2, label=label, **line)


def distance(kl: Any) -> Float[np.ndarray, "*shape"]:
    """Returns the square roots of KL divergences, 0 where an estimate is negative."""
    return np.sqrt(np.maximum(np.asarray(kl, float), 0.0))


def peak(curve: Any) -> tuple[int, float, float, float]:
    """Returns (place of the peak, first value, peak, last value) of the mean over seeds."""
    values = mean(curve)
    at = int(np.argmax(values))
    return at, float(values[0]), float(values[at]), float(values[-1])


def fit_best_of_n(kl: ArrayLike, gain: ArrayLike) -> tuple[float, float]:
    """Returns (a, b) of gain = d (a - b d), d = sqrt(kl), by least squares.

    Gao et al. 2022, sec. 3.1. https://arxiv.org/abs/2210.10760
    """
    d = np.sqrt(np.asarray(kl, float))
    return _fit(d, d, gain)


def fit_reinforcement(kl: ArrayLike, gain: ArrayLike) -> tuple[float, float]:
    """Returns (a, b) of gain = d (a - b log d), d = sqrt(kl), by least squares; points at distance 0 do not count.

    Gao et al. 2022, sec. 3.1. https://arxiv.org/abs/2210.10760
    """
    d = distance(kl)
    apart = d > 1e-3
    return _fit(d[apart], np.log(d[apart]), np.asarray(gain, float)[apart])


def best_of_n_curve(d: Float[np.ndarray, " n"], a: float, b: float) -> Float[np.ndarray, " n"]:
    """Returns d (a - b d)."""
    return d * (a - b * d)


def reinforcement_curve(d: Float[np.ndarray, " n"], a: float, b: float) -> Float[np.ndarray, " n"]:
    """Returns d (a - b log d), 0 at d = 0."""
    return np.where(d > 0, d * (a - b * np.log(np.maximum(d, 1e-12))), 0.0)


def span(values: ArrayLike, digits: int = 2) -> str:
    """Returns "mean (lowest to highest)" over seeds."""
    each = np.asarray(values, float)
    low, middle, high = (f"{x:.{digits}f}" for x in (each.min(), each.mean(), each.max()))
    return f"{middle} ({low} to {high})"


def _fit(d: Any, second: Any, gain: Any) -> tuple[float, float]:
    columns = np.stack([d, -d * second], axis=1)
    (a, b), *_ = np.linalg.lstsq(columns, np.asarray(gain, float), rcond=None)
    return float(a), float(b)
