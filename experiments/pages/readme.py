"""The table of algorithms and environments in README.md, and the list of results below their targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents import ALGORITHMS
from experiments.analysis import literature
from experiments.figures.canvas import CONTROL
from experiments.pages.markdown import table
from experiments.run import records
from experiments.run.presets import preset
from experiments.run.spec import make_env

_ENVS = (
    "walker",
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Walker2d-v5",
)

# What the project asks of final returns (for HalfCheetah, Hopper, Walker2d: of the highest point of the mean curve of
# evaluations), with default settings. MuJoCo: Tianshou's "max" at 1M steps, ten seeds; v3 of the tasks. Walker: 25 is
# the return of standing still.
GOALS: dict[str, dict[str, float]] = {
    "walker": dict.fromkeys(("ppo", "trpo"), 216.0)
    | dict.fromkeys(("sac", "td3"), 180.0)
    | dict.fromkeys(("a2c", "reinforce", "grpo"), 25.0),
    "CartPole-v1": dict.fromkeys(("dqn", "ppo", "a2c", "trpo", "reinforce", "pqn"), 490.0),
    "Acrobot-v1": dict.fromkeys(("dqn", "ppo"), -80.0),
    "MountainCar-v0": {"dqn": -110.0},
    "Pendulum-v1": {"sac": -160.0, "td3": -160.0, "ppo": -170.0, "trpo": -170.0},
    "InvertedPendulum-v5": dict.fromkeys(("ppo", "trpo", "sac", "td3"), 1000.0),
    "InvertedDoublePendulum-v5": dict.fromkeys(("ppo", "trpo", "sac", "td3"), 9300.0),
}
_BY_BEST = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
GOALS |= {
    env: {
        row.algo: row.value
        for row in literature.TABLE
        if row.metric == "max" and row.task == literature.task(env)[0] and row.algo != "ddpg"
    }
    for env in _BY_BEST
}
_TO_WALK = ("ppo", "trpo", "sac", "td3", "dqn")
# Minutes for a seed on the walker, with two cores.
_MINUTES = dict.fromkeys(("ppo", "trpo", "a2c", "reinforce", "grpo", "pqn"), 10) | dict.fromkeys(
    ("dqn", "sac", "td3", "ddpg"), 20
)


def text(kept: list[dict[str, Any]]) -> str:
    """Returns the table (environments in rows, medians over seeds), and lines on what is below its goal or has not
    been run. `kept`: records."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in kept:
        cells.setdefault((r["env"], r["algo"]), []).append(r)
    rows = [
        [_short(env), *(_cell(env, algo, cells.get((env, algo))) for algo in CONTROL)]
        for env in _ENVS
    ]
    lines = table(["", *(f"`{algo}`" for algo in CONTROL)], rows, str)
    below = [
        f"{algo} on {_short(env)} {_number(value)}{' at best' * (env in _BY_BEST)} (target {_number(goal)})"
        for env, algo, goal, value in _judged(cells)
        if value is not None and value < goal
    ]
    below += _beside_returns(kept, cells)
    missing = [
        f"{algo} on {_short(env)}" for env, algo, _, value in _judged(cells) if value is None
    ]
    lines += ["", f"Below the target: {'; '.join(below) or 'none'}."]
    lines += [f"With a target, but not run yet: {'; '.join(missing) or 'none'}."]
    if slow := _slow(cells):
        lines += [
            "Slower on the walker than the target (10 minutes a seed, with replay 20), "
            "wall clock of a run by its seeds: "
            f"{'; '.join(slow)}."
        ]
    return "\n".join(lines)


def _beside_returns(kept, cells) -> list[str]:
    """Returns the goals besides final returns that are not met: that the robot walks, and PPO's return in training."""
    unmet = [
        f"{algo} on walker does not walk"
        for algo in _TO_WALK
        if not all(_walks(r) for r in cells.get(("walker", algo), ()))
    ]
    ppo = (r for r in kept if r["algo"] == "ppo" and r["env"] in _BY_BEST)
    compared, *_ = literature.against(ppo)
    training = [c for c in compared if c.best.metric == "final" and c.value < c.best.value]
    return unmet + [
        f"ppo on {_short(c.env)} {_number(c.value)} over the last 100 training episodes "
        f"(target {_number(c.best.value)})"
        for c in training
    ]


def _walks(r: dict[str, Any]) -> bool:
    gait = (r["report"] or {}).get("gait")
    return bool(gait and gait["walks"])


def _slow(cells) -> list[str]:
    """Returns the algorithms whose median run on the walker took longer than asked; its seeds share that time."""
    slow = []
    for algo, minutes in _MINUTES.items():
        runs = records.wall_clocks(cells.get(("walker", algo), ()))
        shares = [seconds / seeds for (_, seeds), seconds in runs.items()]
        took = float(np.median(shares)) / 60 if shares else 0.0
        if took > minutes:
            slow.append(f"{algo} {took:.0f}")
    return slow


def _judged(cells):
    """Yields (environment, algorithm, goal, our figure or None)."""
    for env, goals in GOALS.items():
        for algo, goal in goals.items():
            seeds = cells.get((env, algo))
            figure = literature.best_of if env in _BY_BEST else _median
            yield env, algo, goal, figure(seeds) if seeds else None


def _median(seeds: list[dict[str, Any]]) -> float:
    """Returns the median of final returns; a seed that diverged is worse than any."""
    return float(
        np.median([-np.inf if literature.diverged(r) else r["final"]["mean"] for r in seeds])
    )


def _cell(env: str, algo: str, seeds: list[dict[str, Any]] | None) -> str:
    if seeds:
        return f"{_number(_median(seeds))} ({len(seeds)})"
    return "·" if fits(env, algo) else "-"


def fits(env: str, algo: str) -> bool:
    """Tells that the algorithm can be built for the environment."""
    learner: Any = ALGORITHMS[algo]
    try:
        learner(preset(env, algo, learner.Config), make_env(env, {}))
    except ValueError:
        return False
    return True


def _short(env: str) -> str:
    return env.rpartition("-v")[0] or env


def _number(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.1f}"
