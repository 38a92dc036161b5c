"""Sessions in which the learner, a training command, is killed at random moments and resumed."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.actors import cluster
from experiments.actors.meter import Counts, Meter
from experiments.run import folders
from experiments.run.spec import load_state, open_run
from experiments.studies.faults.session import (
    ACTORS,
    ALGO,
    ENV,
    PATIENCE,
    SETTINGS,
    Fault,
    Session,
    checked,
    counted,
    seconds_until_gone,
)

_MOST_SECONDS = 6.0  # of training before a fault
_AT_START = 0.25  # share of faults that strike before training goes on
_POLL_SECONDS = 0.1


@dataclasses.dataclass
class Run:
    """A run in a folder, by a training command that is started again and again."""

    folder: Path
    process: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts the command, which resumes the run where there is one."""
        flags = ["--resume", str(self.folder)]
        if not (self.folder / folders.CONFIG).exists():
            flags = ["--env", ENV, "--algo", ALGO, "--actors", str(ACTORS), "--no-video"]
            flags += ["--out", str(self.folder)]
            for name, value in SETTINGS.items():
                values = value if isinstance(value, tuple) else (value,)
                flags += [f"--{name.replace('_', '-')}", *map(str, values)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.train", *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def end(self, number: signal.Signals) -> list[Path]:
        """Sends the command a signal and waits for its end. Returns the folders that its Ray had before."""
        assert self.process is not None
        theirs = cluster.folders_of(self.process.pid)
        self.process.send_signal(number)
        self.process.wait()
        return theirs

    def steps(self) -> list[int]:
        """Returns the environment steps of all rows of metrics."""
        rows = folders.read_rows(folders.metrics_file(self.folder, 1, 0))
        return [row["env_steps"] for row in rows]

    def seconds_until_row(self, beyond: int) -> float | None:
        """Returns the seconds until a row has more environment steps than `beyond`; None: the command has ended, or
        there is none for long."""
        assert self.process is not None
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE and self.process.poll() is None:
            if max(self.steps(), default=0) > beyond:
                return time.monotonic() - began
            time.sleep(_POLL_SECONDS)
        return None


def session(faults: int, seed: int) -> Session:
    """Returns a session in which the learner is killed (SIGKILL), while it starts or trains, and resumed."""
    rng = random.Random(seed)
    at_start = [i > 0 and rng.random() < _AT_START for i in range(faults)] + [False]
    found: list[Fault] = []
    with tempfile.TemporaryDirectory() as parent:
        run = Run(Path(parent) / "run")
        run.start()
        start_s = run.seconds_until_row(0) or 1.0
        for i in range(faults):
            after = rng.uniform(0.0, start_s if at_start[i] else _MOST_SECONDS)
            time.sleep(after)
            beyond = max(run.steps(), default=0)
            clean = seconds_until_gone(run.end(signal.SIGKILL))
            run.start()
            recovery = None if at_start[i + 1] else run.seconds_until_row(beyond)
            found.append(Fault(after, recovery, clean))
        theirs = run.end(signal.SIGTERM)  # saves a checkpoint
        left = seconds_until_gone(theirs)
        return Session(_with_those_struck_again(found, at_start), *_account(run, left is not None))


def _with_those_struck_again(faults: list[Fault], at_start: list[bool]) -> list[Fault]:
    """Returns the faults, of which those that were followed by one at the start went on when that one did."""
    found = list(faults)
    for i in reversed(range(len(found) - 1)):
        then = found[i + 1]
        if at_start[i + 1] and then.recovery_s is not None:
            seconds = then.after_s + (then.clean_s or 0.0) + then.recovery_s
            found[i] = dataclasses.replace(found[i], recovery_s=seconds)
    return found


def _account(run: Run, is_clean: bool) -> tuple[dict[str, int], dict[str, bool]]:
    """Returns the counts of a run that was stopped by SIGTERM, and the checks of them."""
    spec, algo = open_run(run.folder)
    states, progress, _ = load_state(run.folder, spec, algo, lambda line: None)
    meter = Meter(algo.iteration_steps // ACTORS)
    meter.total = counts = Counts(**progress["actors"])
    steps = run.steps()
    config = json.loads((run.folder / folders.CONFIG).read_text())
    checks = checked(counts, meter, int(states.env_steps[0]), meter.steps_each) | {
        "rows of metrics follow one another, none twice": steps == sorted(set(steps)),
        "rows are whole numbers of batches": all(n % algo.iteration_steps == 0 for n in steps),
        "the run is still the one that was begun": config["actors"] == ACTORS,
        "no process and no file is left": is_clean,
    }
    return counted(counts, meter), checks
