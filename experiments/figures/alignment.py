"""Resamples the curves of several seeds on a common grid, up to the end of the shortest curve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

Line = tuple[np.ndarray, np.ndarray]  # abscissae (environment steps, seconds), ascending; values


def common_range(axes: Iterable[np.ndarray]) -> tuple[float, float]:
    """Returns where the last axis begins and where the first one ends; the end lies before the begin where the axes
    have no part in common, as for no axes at all. Empty axes are ignored."""
    axes = [axis for axis in axes if len(axis)]
    if not axes:
        return 0.0, -1.0
    return max(axis[0] for axis in axes), min(axis[-1] for axis in axes)


def interpolate(
    curves: Sequence[Line], grid: Float[np.ndarray, " points"]
) -> Float[np.ndarray, "curves points"]:
    """Returns the curves' values on `grid`, straight between their points."""
    return np.stack([np.interp(grid, *curve) for curve in curves])


def align(
    curves: Sequence[Line],
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "curves points"]]:
    """Returns the abscissae of all curves within their common range, and the curves' values there."""
    curves = [curve for curve in curves if len(curve[0])]
    if not curves:
        return np.zeros(0), np.zeros((1, 0))
    begin, end = common_range(x for x, _ in curves)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= begin) & (grid <= end)]
    return grid, interpolate(curves, grid)


def quartiles(
    curves: Sequence[Line],
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "3 points"]]:
    """Returns abscissae as `align` does, and the 25th, 50th and 75th percentile over curves there."""
    grid, values = align(curves)
    return grid, np.percentile(values, [25, 50, 75], axis=0)
