"""Statistics over few seeds. Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice",
https://arxiv.org/abs/2108.13264. Plain NumPy.

Scores are [runs] or [runs, points]; several environments are a list of such arrays, one each: strata, which are
resampled apart, and of which each weighs the same however many runs it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

Array = np.ndarray
Statistic = Callable[[Array], Array]  # over axis 0

RESAMPLES = 2000
CONFIDENCE = 0.95
# How often a percentile bootstrap that claims 95% holds the true IQM of n normal seeds.
COVERAGE = {2: 0.52, 3: 0.73, 5: 0.90, 10: 0.95}
_LONGEST = (
    1024  # runs of an environment, repeated for its weight; beyond that a run's weight is rounded
)
_AT_ONCE = 2 * 10**5  # numbers resampled at a time


def iqm(scores: Float[Array, " runs *points"]) -> Float[Array, "*points"]:
    """Returns the interquartile mean of each point: the mean without the lowest and the highest quarter of the runs.

    A quarter is floor(runs / 4) of them, as in `scipy.stats.trim_mean(scores, 0.25)` and rliable: with three runs or
    fewer it is the mean.
    """
    cut = len(scores) // 4
    return np.mean(np.sort(scores, axis=0)[cut : len(scores) - cut], axis=0)


def pooled(strata: Sequence[Float[Array, " _ *points"]]) -> Float[Array, " runs *points"]:
    """Returns all runs together, every stratum with the same weight: runs of smaller strata are repeated.

    With equal numbers of runs none is. Raises ValueError where a stratum has no run.
    """
    return np.concatenate([s[pick] for s, pick in zip(strata, _repeats(strata), strict=True)])


def bootstrap(
    strata: Sequence[Float[Array, " _ *points"]],
    statistic: Statistic = iqm,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[Float[Array, "*points"], Float[Array, "*points"]]:
    """Returns the percentile interval of a statistic of all runs together (`pooled`), each stratum resampled with
    replacement on its own.

    Raises ValueError where there is no run.
    """
    repeats = _repeats(strata)
    rng = np.random.default_rng(seed)
    picks = [rng.integers(0, len(s), (resamples, len(s))) for s in strata]
    size = sum(len(r) for r in repeats) * max(1, int(np.prod(strata[0].shape[1:])))
    parts = []
    for of_part in np.array_split(np.arange(resamples), -(-resamples * size // _AT_ONCE)):
        drawn = [
            s[pick[of_part][:, repeat]]
            for s, pick, repeat in zip(strata, picks, repeats, strict=True)
        ]
        parts.append(statistic(np.moveaxis(np.concatenate(drawn, axis=1), 1, 0)))  # runs first
    statistics = np.concatenate(parts)
    outside = (1 - confidence) / 2
    # Between a finite and an infinite value there is nothing to interpolate.
    method: Literal["linear", "inverted_cdf"]
    method = "linear" if np.isfinite(statistics).all() else "inverted_cdf"
    low, high = np.quantile(statistics, [outside, 1 - outside], axis=0, method=method)
    return low, high


def interval(
    strata: Sequence[Float[Array, " _ *points"]], statistic: Statistic = iqm
) -> tuple[Float[Array, "*points"], Float[Array, "*points"]] | None:
    """Returns the bootstrap's interval; None where a stratum has a single run, whose spread is unknown."""
    if any(len(s) < 2 for s in strata):
        return None
    return bootstrap(strata, statistic)


def coverage_note() -> str:
    """Returns a sentence on the coverage of intervals over few seeds."""
    rates = ", ".join(f"{rate:.0%} of cases with n = {n} seeds" for n, rate in COVERAGE.items())
    return (
        f"A percentile-bootstrap interval of nominally 95% holds the true value in about {rates}; a single seed has "
        "none."
    )


def _repeats(strata: Sequence[Array]) -> list[Array]:
    """Indices into each stratum, of one length for all."""
    sizes = [len(s) for s in strata]
    if not sizes or 0 in sizes:
        raise ValueError("there are no runs to draw from")
    length = math.lcm(*sizes)
    length = length if length <= _LONGEST else max(_LONGEST, *sizes)
    return [np.arange(length) * n // length for n in sizes]


def performance_profile(
    scores: Float[Array, " runs *more"], thresholds: Float[Array, " points"]
) -> Float[Array, "*more points"]:
    """Returns the share of runs above each threshold; over all environments, the score distribution of sec. 4.2."""
    return np.mean(scores[..., None] > thresholds, axis=0)


def probability_of_improvement(x: Float[Array, " n"], y: Float[Array, " m"]) -> float:
    """Returns P(X > Y) for a run of each; ties count half (Mann-Whitney's U / nm). Sec. 4.3."""
    return float(np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y)))


def optimality_gap(scores: Float[Array, " runs *points"], goal: float) -> Float[Array, "*points"]:
    """Returns the mean amount by which runs fall short of `goal`; scores above it do not make up for that. Sec. 4.3."""
    return np.mean(goal - np.minimum(scores, goal), axis=0)


def clipped(
    x: Float[Array, " n"], y: Float[Array, " n"], begin: float, end: float
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Returns the curve, straight between its points, from `begin` to `end`, which lie on it."""
    within = np.array([begin, *x[(begin < x) & (x < end)], end])
    return within, np.interp(within, x, y)


def area_under_curve(x: Float[Array, " n"], y: Float[Array, " n"]) -> float:
    """Returns the mean height of the curve between its ends, by trapezoids; the height of a single point."""
    if len(x) == 1 or x[-1] == x[0]:
        return float(y[-1])
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def first_reached(x: Float[Array, " n"], y: Float[Array, " n"], threshold: float) -> float:
    """Returns where the curve, straight between its points, first reaches the threshold; infinity if nowhere."""
    above = np.flatnonzero(y >= threshold)
    if len(above) == 0:
        return float("inf")
    i = int(above[0])
    if i == 0:
        return float(x[0])
    share = (threshold - y[i - 1]) / (y[i] - y[i - 1])
    return float(x[i - 1] + share * (x[i] - x[i - 1]))
