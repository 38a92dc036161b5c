"""Other people's environments, timed beside ours.

A rival runs in a process of its own, in an interpreter of its own choice, from `rival_worker.py`, which needs nothing
of this project. It measures when it is told to and sleeps otherwise, so that ours and theirs take turns in one run.
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
from experiments.workloads import rate, stepping

NUM_ENVS = 1024
WORKER = Path(__file__).with_name("rival_worker.py")
GYMNAX = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")


class Rival:
    """A worker process. Raises ValueError, with its last words, where it cannot run the task."""

    def __init__(self, python: Path | str, kind: str, task: str, num_envs: int):
        # A file, not a pipe: a thousand environments' warnings fill a pipe that nobody reads, and the worker hangs.
        self._words = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the worker)
        self._process = subprocess.Popen(
            [str(python), str(WORKER), kind, task, str(num_envs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
        )
        self._name = f"{kind} on {task}"
        self._answer()  # "ready"

    def measure(self, seconds: float) -> float:
        """Steps per second."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
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


def against_rivals(
    task: str, python: Path | None, rounds: int, seconds: float, num_envs: int = NUM_ENVS
) -> dict[str, float]:
    """Rates of one task, and how many times faster than each rival ours is (median over rounds)."""
    rivals = {"sync": Rival(sys.executable, "sync", task, num_envs)}
    try:
        if python is not None:
            rivals["envpool"] = Rival(python, "envpool", task, num_envs)
        if python is not None and task in GYMNAX:
            rivals["gymnax"] = Rival(python, "gymnax", task, num_envs)
        here = stepping(envs.make(task), num_envs)
        measures: dict[str, Callable[[], float]] = {"here": partial(rate, here, seconds)}
        measures |= {name: partial(rival.measure, seconds) for name, rival in rivals.items()}
        rates = {name: [measure()] for name, measure in measures.items()}
        for _ in range(rounds - 1):
            for name, measure in measures.items():
                rates[name].append(measure())
    finally:
        for rival in rivals.values():
            rival.close()
    figures = {}
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(rates["here"], values, strict=True)]
        figures[f"{task}/{name}"] = statistics.median(values)
        figures[f"{task}/of_{name}"] = statistics.median(ratios)
        print(
            f"{task:26s}{name:10s}{num_envs:6d} environments{statistics.median(values):15,.0f} steps/s"
            f"   ours is {statistics.median(ratios):7.2f} times as fast ({min(ratios):.2f}-{max(ratios):.2f})",
            flush=True,
        )
    return figures
