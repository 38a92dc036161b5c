"""Other people's environments and learners, timed beside ours.

A rival runs in a process of its own, in an interpreter of its own choice, from `rival_worker.py`, or
`rival_learner.py` where it learns; they need nothing of this project. It measures when it is told to and sleeps
otherwise, so that ours and theirs take turns in one run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import envs
from envs.mujoco_env import MujocoEnv
from envs.physics.native import NativeEngine
from experiments.benchmarks.workloads import rate, raw_physics, stepping

NUM_ENVS = 1024
WORKER = Path(__file__).parent / "workers" / "rival_worker.py"
GYMNAX = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")


class Rival:
    """A worker process that measures a rival. `setting`: the number of environments, or the JSON that `worker` reads.
    Raises ValueError, with the worker's last words, where it cannot run the task."""

    def __init__(
        self,
        python: Path | str,
        kind: str,
        task: str,
        setting: int | str,
        worker: Path = WORKER,
    ):
        # A file, not a pipe: warnings of a thousand environments fill an unread pipe, and the worker hangs.
        self._words = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the worker)
        self._process = subprocess.Popen(
            [str(python), str(worker), kind, task, str(setting)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
        )
        self._name = f"{kind} on {task}"
        self._answer()  # "ready"

    def measure(self, seconds: float) -> float:
        """Returns steps per second over `seconds`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """Ends the worker."""
        self._process.communicate()
        self._words.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            self._words.seek(0)
            last = self._words.read().strip().splitlines()[-1:]
            self._words.close()
            raise ValueError(f"{self._name}: {' '.join(last) or 'the worker died'}")
        return line


def start(
    rivals: dict[str, Rival],
    python: Path | None,
    name: str,
    task: str,
    setting: int | str,
    worker: Path,
) -> None:
    """Adds the rival of this name to `rivals`, or prints why it cannot run."""
    try:
        rivals[name] = Rival(python or sys.executable, name, task, setting, worker)
    except ValueError as error:
        print(f"left out: {error}", flush=True)


def against_rivals(
    task: str, python: Path | None, rounds: int, seconds: float, num_envs: int = NUM_ENVS
) -> dict[str, float]:
    """Returns the rates of one task in steps per second, and how many times as fast as each rival ours is (medians over
    rounds)."""
    rivals = {"sync": Rival(sys.executable, "sync", task, num_envs)}
    try:
        for name in ("envpool", "gymnax") if task in GYMNAX else ("envpool",):
            start(rivals, python, name, task, num_envs, WORKER)
        env = envs.make(task)
        measures: dict[str, Callable[[], float]] = {
            "here": partial(rate, stepping(env, num_envs), seconds)
        }
        if isinstance(env, MujocoEnv) and isinstance(env.engine, NativeEngine):
            measures["raw"] = partial(rate, raw_physics(env, num_envs), seconds)
            measures["bound"] = partial(rate, raw_physics(env, num_envs, stripped=True), seconds)
        measures |= {name: partial(rival.measure, seconds) for name, rival in rivals.items()}
        rates = take_turns(measures, rounds)
    finally:
        for rival in rivals.values():
            rival.close()
    return print_ratios(task, rates, f"{num_envs} environments")


def take_turns(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measures each in turn, `rounds` times over, and returns the rates of each."""
    rates: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            rates[name].append(measure())
    return rates


def print_ratios(
    key: str, rates: dict[str, list[float]], what: str, unit: str = "steps/s"
) -> dict[str, float]:
    """Prints and returns the median rates, and how many times as fast as each rate the one called "here" is."""
    figures = {}
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(rates["here"], values, strict=True)]
        figures[f"{key}/{name}"] = statistics.median(values)
        figures[f"{key}/of_{name}"] = statistics.median(ratios)
        print(
            f"{key:26s}{name:10s}{what:>19s}{statistics.median(values):15,.0f} {unit}"
            f"   ours is {statistics.median(ratios):7.2f} times as fast ({min(ratios):.2f}-{max(ratios):.2f})",
            flush=True,
        )
    return figures
