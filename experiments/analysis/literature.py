"""Published returns for the tasks here, and their comparison with our records.

A number is meaningful only with its metric and budget. Each row has both, and is compared with ours by the same metric.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from experiments.analysis import statistics
from experiments.run.spec import short_name

Metric = Literal["final", "max", "evaluation"]
Verdict = Literal["above", "within", "below"]
Record = dict[str, Any]

METRICS: dict[str, str] = {
    "final": "mean of the last 100 training episodes",
    "max": "highest point of the learning curve of evaluations, averaged over seeds before it is sought",
    "evaluation": "evaluation of the trained, deterministic policy",
}
SOURCES = {
    "CleanRL": "CleanRL and the Open RL Benchmark, mean over seeds (3 of classic control)",
    "Tianshou": "Tianshou's MuJoCo benchmark, 10 seeds",
    "rl-zoo3": "rl-baselines3-zoo, benchmark.md: one run with tuned settings, not a mean over seeds",
    "sb3-contrib": "sb3-contrib's page on TRPO, mean over 3 seeds of the last evaluations",
}


@dataclasses.dataclass(frozen=True)
class Published:
    """One published number."""

    task: str  # without its version
    algo: str
    metric: Metric
    value: float
    source: str
    version: str  # of the task
    budget: int  # environment steps


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Our figure beside a published number."""

    env: str
    algo: str
    value: float  # IQM over seeds
    low: float  # ends of the interval; of two seeds the range, of one the value
    high: float
    seeds: int
    steps: int  # of the seed that had the fewest
    best: Published
    verdict: Verdict

    @property
    def budget(self) -> Literal["fewer", "as many", "more"]:
        """Our steps beside theirs: "fewer", "as many" or "more"; a whole number of iterations is never exactly a round
        number."""
        ratio = self.steps / self.best.budget
        if abs(ratio - 1) <= 0.02:
            return "as many"
        return "fewer" if ratio < 1 else "more"


def _rows(
    metric: Metric, source: str, values: dict[tuple[str, str, int], dict[str, float]]
) -> list[Published]:
    """Returns rows of TABLE from `values`: (task, version, budget) to the numbers of algorithms."""
    return [
        Published(task, algo, metric, value, source, version, budget)
        for (task, version, budget), of in values.items()
        for algo, value in of.items()
    ]


_K, _M = 10**3, 10**6
TABLE: tuple[Published, ...] = (
    *_rows("final", "CleanRL", {
        ("CartPole", "v1", 500 * _K): {"dqn": 498, "ppo": 490},
        ("Acrobot", "v1", 500 * _K): {"dqn": -89, "ppo": -86},
        ("MountainCar", "v0", 500 * _K): {"dqn": -189, "ppo": -200},
        ("HalfCheetah", "v4", _M): {"ppo": 1443, "sac": 9635, "td3": 9583, "ddpg": 10374},
        ("Hopper", "v4", _M): {"ppo": 2383, "sac": 2310, "td3": 3135, "ddpg": 1577},
        ("Walker2d", "v4", _M): {"ppo": 2288, "sac": 3591, "td3": 4058, "ddpg": 1240},
        ("Humanoid", "v4", _M): {"ppo": 716, "sac": 4996, "td3": 5035, "ddpg": 1700},
        ("InvertedPendulum", "v4", _M): {"ppo": 963, "sac": 909, "td3": 969, "ddpg": 643},
    }),
    *_rows("max", "Tianshou", {
        ("HalfCheetah", "v3", _M): {
            "ppo": 5784, "trpo": 4471, "a2c": 1830, "sac": 12139, "td3": 10201, "ddpg": 11719,
        },
        ("Hopper", "v3", _M): {
            "ppo": 2609, "trpo": 2046, "a2c": 1253, "sac": 3542, "td3": 3472, "ddpg": 2197,
        },
        ("Walker2d", "v3", _M): {
            "ppo": 3589, "trpo": 3827, "a2c": 1092, "sac": 5007, "td3": 3982, "ddpg": 1401,
        },
        ("Ant", "v3", _M): {
            "ppo": 3258, "trpo": 2867, "a2c": 3485, "sac": 5850, "td3": 5116, "ddpg": 990,
        },
        ("Humanoid", "v3", _M): {
            "ppo": 787, "trpo": 810, "a2c": 1726, "sac": 5489, "td3": 5190, "ddpg": 177,
        },
        ("Swimmer", "v3", _M): {
            "ppo": 67, "trpo": 41, "a2c": 37, "sac": 44, "td3": 104, "ddpg": 144,
        },
        ("Reacher", "v2", _M): {
            "ppo": -4.1, "trpo": -5.1, "a2c": -6.7, "sac": -2.6, "td3": -2.7, "ddpg": -3.3,
        },
        ("InvertedPendulum", "v2", _M): dict.fromkeys(
            ("ppo", "trpo", "a2c", "sac", "td3", "ddpg"), 1000
        ),
        ("InvertedDoublePendulum", "v2", _M): {
            "ppo": 9231, "trpo": 8435, "a2c": 9258, "sac": 9360, "td3": 9349, "ddpg": 8364,
        },
        ("HalfCheetah", "v3", 10 * _M): {"reinforce": 1139},
        ("Hopper", "v3", 10 * _M): {"reinforce": 416},
        ("Walker2d", "v3", 10 * _M): {"reinforce": 441},
        ("Ant", "v3", 10 * _M): {"reinforce": 1108},
        ("Humanoid", "v3", 10 * _M): {"reinforce": 464},
        ("Swimmer", "v3", 10 * _M): {"reinforce": 36},
        ("Reacher", "v2", 10 * _M): {"reinforce": -5.5},
        ("InvertedPendulum", "v2", 10 * _M): {"reinforce": 1000},
        ("InvertedDoublePendulum", "v2", 10 * _M): {"reinforce": 7726},
    }),
    *_rows("evaluation", "rl-zoo3", {
        ("CartPole", "v1", 50 * _K): {"dqn": 500},
        ("CartPole", "v1", 100 * _K): {"ppo": 500, "trpo": 500},
        ("CartPole", "v1", 500 * _K): {"a2c": 500},
        ("Acrobot", "v1", 100 * _K): {"dqn": -76.6, "trpo": -83.1},
        ("Acrobot", "v1", 500 * _K): {"a2c": -83.4},
        ("Acrobot", "v1", _M): {"ppo": -73.5},
        ("MountainCar", "v0", 100 * _K): {"trpo": -107.3},
        ("MountainCar", "v0", 120 * _K): {"dqn": -100.8},
        ("MountainCar", "v0", _M): {"ppo": -110.4, "a2c": -111.3},
        ("MountainCarContinuous", "v0", 20 * _K): {"ppo": 88.3},
        ("MountainCarContinuous", "v0", 50 * _K): {"sac": 94.7, "trpo": 92.5},
        ("MountainCarContinuous", "v0", 100 * _K): {"a2c": 91.2},
        ("MountainCarContinuous", "v0", 300 * _K): {"td3": 93.5, "ddpg": 93.5},
        ("Pendulum", "v1", 20 * _K): {"sac": -157.0, "td3": -151.9, "ddpg": -152.1},
        ("Pendulum", "v1", 100 * _K): {"ppo": -172.2, "trpo": -174.6},
        ("Pendulum", "v1", _M): {"a2c": -163.0},
        ("HalfCheetah", "v3", _M): {
            "ppo": 5819, "trpo": 1785, "a2c": 3041, "sac": 9535, "td3": 9656,
        },
        ("Hopper", "v3", _M): {"ppo": 2410, "trpo": 3618, "a2c": 733, "sac": 2326, "td3": 3606},
        ("Walker2d", "v3", _M): {"ppo": 3479, "trpo": 4933, "sac": 3863, "td3": 4718},
        ("Ant", "v3", _M): {"ppo": 1327, "trpo": 4982, "sac": 4616, "td3": 5813},
        ("Humanoid", "v3", 2 * _M): {"sac": 6232, "td3": 5567},
        ("Swimmer", "v3", _M): {"ppo": 282, "trpo": 366, "a2c": 201, "sac": 346, "td3": 359},
    }),
    *_rows("evaluation", "sb3-contrib", {
        ("HalfCheetah", "v3", _M): {"trpo": 1803},
        ("Hopper", "v3", _M): {"trpo": 3372},
        ("Walker2d", "v3", _M): {"trpo": 4502},
        ("Ant", "v3", _M): {"trpo": 3554},
        ("Swimmer", "v3", _M): {"trpo": 359},
    }),
)  # fmt: skip

# Mean return of uniformly random actions on Gymnasium 1.4's tasks, v5 where there are several versions: 20 episodes
# (HalfCheetah, Swimmer) to 500 (CartPole) of seeds 0, 1, ...; standard errors are below 2% of the way to the best
# published number.
RANDOM: dict[str, float] = {
    "CartPole": 22.9,
    "Acrobot": -497.1,
    "MountainCar": -200.0,
    "MountainCarContinuous": -33.3,
    "Pendulum": -1256.0,
    "HalfCheetah": -264.0,
    "Hopper": 18.0,
    "Walker2d": 2.1,
    "Ant": -70.3,
    "Humanoid": 112.6,
    "Swimmer": -3.2,
    "Reacher": -43.3,
    "InvertedPendulum": 5.1,
    "InvertedDoublePendulum": 48.2,
}


def task(env: str) -> tuple[str, str]:
    """Returns an environment's name and version: ("Hopper", "v5") for gym:Hopper-v5, ("", "") for names without a
    version."""
    name, _, number = short_name(env).rpartition("-v")
    return (name, f"v{number}") if number.isdigit() else ("", "")


def reference(env: str) -> tuple[float, float] | None:
    """Returns that count as 0, those of random actions, and as 1: the best of any algorithm by any metric here."""
    name, _ = task(env)
    if name not in RANDOM:
        return None
    return RANDOM[name], max(row.value for row in TABLE if row.task == name)


def against(records: Iterable[Record]) -> tuple[list[Comparison], list[tuple[str, str]]]:
    """Returns comparisons for each (environment, algorithm) by each metric that has a published number, and the pairs
    that have none."""
    cells: dict[tuple[str, str], list[Record]] = {}
    for r in records:
        cells.setdefault((r["env"], r["algo"]), []).append(r)
    compared: list[Comparison] = []
    alone: list[tuple[str, str]] = []
    for (env, algo), seeds in cells.items():
        rows = [row for row in TABLE if (row.task, row.algo) == (task(env)[0], algo)]
        beside = [_compared(seeds, [row for row in rows if row.metric == m]) for m in METRICS]
        compared += [c for c in beside if c]
        if not any(beside):
            alone.append((env, algo))
    return compared, alone


def peak(scores: np.ndarray) -> np.ndarray:
    """Returns the highest IQM over seeds (axis 0) of any point (last axis)."""
    return statistics.iqm(scores).max(axis=-1)


def best_of(seeds: list[Record]) -> float:
    """Returns the "max" of METRICS; NaN where nothing was evaluated."""
    scores = _curves(seeds)
    return float(peak(scores)) if scores.size else float("nan")


def interval(scores: np.ndarray) -> tuple[float, float]:
    """Returns the interval of the peak of `scores` [seeds, points]: a bootstrap interval for three seeds or more; for
    fewer, whose spread resampling cannot show, the range at the peak. The bootstrap of a maximum is biased upward."""
    if len(scores) < 3:
        there = scores[:, int(np.argmax(statistics.iqm(scores)))]
        return float(there.min()), float(there.max())
    low, high = statistics.bootstrap([scores], peak)
    return float(low), float(high)


def judge(published: float, low: float, high: float) -> Verdict:
    """Returns the verdict on our interval, `low` to `high`, beside a published number: "above", "within" or "below"."""
    if published < low:
        return "above"
    return "below" if published > high else "within"


def _compared(seeds: list[Record], rows: list[Published]) -> Comparison | None:
    """Compares seeds with the best of `rows`, all of one metric."""
    if not rows:
        return None
    best = max(rows, key=lambda row: row.value)
    scores = _curves(seeds) if best.metric == "max" else _figures(seeds, best.metric)
    if not scores.size:
        return None
    low, high = interval(scores)
    return Comparison(
        env=seeds[0]["env"],
        algo=best.algo,
        value=float(peak(scores)),
        low=low,
        high=high,
        seeds=len(scores),
        steps=min(r["env_steps"] for r in seeds),
        best=best,
        verdict=judge(best.value, low, high),
    )


def _figures(seeds: list[Record], metric: Metric) -> np.ndarray:
    """Returns figures [seeds, 1]; seeds that lack the metric are left out, seeds that diverged count as worse than
    any."""
    values = [
        -np.inf
        if diverged(r)
        else r["train_return_last_100"]
        if metric == "final"
        else r["final"]["mean"]
        for r in seeds
    ]
    return np.array([[v] for v in values if v is not None], float)


def diverged(r: Record) -> bool:
    """Tells that a seed's final evaluation was not finite."""
    return r["final"]["mean"] is None


def _curves(seeds: list[Record]) -> np.ndarray:
    """Returns evaluations [seeds, points], interpolated at the first run's steps where runs were evaluated at different
    ones. From its first value that is not finite on, a seed counts as worse than any."""
    curves = [_known(r) for r in seeds]
    curves = [(x, y, lost) for x, y, lost in curves if len(x)]
    if not curves:
        return np.zeros((0, 0))
    begin = max(x[0] for x, *_ in curves)
    end = min((x[-1] for x, _, lost in curves if not lost), default=np.inf)
    grid = (
        max((x for x, *_ in curves), key=len) if any(lost for *_, lost in curves) else curves[0][0]
    )
    grid = grid[(grid >= begin) & (grid <= end)]
    return np.stack(
        [np.interp(grid, x, y, right=-np.inf if lost else None) for x, y, lost in curves]
    )


def _known(r: Record) -> tuple[np.ndarray, np.ndarray, bool]:
    """Steps and returns of a seed's evaluations up to the first that was not finite, and whether there is one."""
    evaluations = [e[:2] for e in r["evaluations"]]
    lost = next((i for i, (_, y) in enumerate(evaluations) if y is None), None)
    x, y = np.array(evaluations[:lost], float).reshape(-1, 2).T
    return x, y, lost is not None
