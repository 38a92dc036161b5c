"""Statistics over few seeds. Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice",
https://arxiv.org/abs/2108.13264. Plain NumPy.

Scores are [runs] or [runs, points]; several environments are a list of such arrays, one each: strata, which are
resampled apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

Array = np.ndarray
Statistic = Callable[[Array], Array]  # over axis 0

RESAMPLES = 2000
CONFIDENCE = 0.95


def iqm(scores: Float[Array, " runs *points"]) -> Float[Array, "*points"]:
    """Interquartile mean: of each point the mean of what remains without the lowest and the highest quarter.

    A quarter is floor(runs / 4) of them, as in `scipy.stats.trim_mean(scores, 0.25)` and rliable: with three runs or
    fewer it is the mean.
    """
    cut = len(scores) // 4
    return np.mean(np.sort(scores, axis=0)[cut : len(scores) - cut], axis=0)


def bootstrap(
    strata: Sequence[Float[Array, " _ *points"]],
    statistic: Statistic = iqm,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[Float[Array, "*points"], Float[Array, "*points"]]:
    """Percentile interval of a statistic of all runs together, each stratum resampled with replacement on its own.

    Raises ValueError where there is no run.
    """
    if not strata or any(len(s) == 0 for s in strata):
        raise ValueError("there are no runs to draw from")
    rng = np.random.default_rng(seed)
    picks = [rng.integers(0, len(s), (resamples, len(s))) for s in strata]
    drawn = np.concatenate([s[pick] for s, pick in zip(strata, picks, strict=True)], axis=1)
    found = statistic(np.moveaxis(drawn, 1, 0))  # runs first
    outside = (1 - confidence) / 2
    # Between a finite and an infinite value there is nothing to interpolate.
    method: Literal["linear", "inverted_cdf"]
    method = "linear" if np.isfinite(found).all() else "inverted_cdf"
    low, high = np.quantile(found, [outside, 1 - outside], axis=0, method=method)
    return low, high


def performance_profile(
    scores: Float[Array, " runs *more"], thresholds: Float[Array, " points"]
) -> Float[Array, "*more points"]:
    """Share of runs above each threshold: with those of all environments the score distribution of sec. 4.2."""
    return np.mean(scores[..., None] > thresholds, axis=0)


def probability_of_improvement(x: Float[Array, " n"], y: Float[Array, " m"]) -> float:
    """P(X > Y) for a run of each; ties count half (Mann-Whitney's U / nm). Sec. 4.3."""
    return float(np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y)))


def optimality_gap(scores: Float[Array, " runs *points"], goal: float) -> Float[Array, "*points"]:
    """By how much runs fall short of the goal, on average; what is above it does not make up for it. Sec. 4.3."""
    return np.mean(goal - np.minimum(scores, goal), axis=0)


def clipped(
    x: Float[Array, " n"], y: Float[Array, " n"], begin: float, end: float
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """The curve, straight between its points, from `begin` to `end`, which lie on it."""
    within = np.array([begin, *x[(begin < x) & (x < end)], end])
    return within, np.interp(within, x, y)


def area_under_curve(x: Float[Array, " n"], y: Float[Array, " n"]) -> float:
    """Mean height of the curve between its ends, by trapezoids; of a single point its height."""
    if len(x) == 1 or x[-1] == x[0]:
        return float(y[-1])
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def first_reached(x: Float[Array, " n"], y: Float[Array, " n"], threshold: float) -> float:
    """Where the curve, straight between its points, first reaches the threshold; infinity if nowhere."""
    above = np.flatnonzero(y >= threshold)
    if len(above) == 0:
        return float("inf")
    i = int(above[0])
    if i == 0:
        return float(x[0])
    share = (threshold - y[i - 1]) / (y[i] - y[i - 1])
    return float(x[i - 1] + share * (x[i] - x[i - 1]))
