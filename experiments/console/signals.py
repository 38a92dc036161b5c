"""Ctrl-C and SIGTERM: the first asks the run to stop at the next chance, the second ends the process at once."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

GRACE_SECONDS = 20.0  # what lasts longer after a signal is given up
_POLL_SECONDS = 0.2  # between two looks for signals
_SIGNALS: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
if sys.platform == "win32":
    _SIGNALS += (signal.SIGBREAK,)  # as which a suite there passes on what it got
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it

Result = TypeVar("Result")


class RunInterruptedError(Exception):
    """Raised where a signal has stopped a run, after a checkpoint has been saved.

    With `at_work` it was given up instead: another thread still builds or runs a program, and only the end of the
    process can stop that thread. Checkpoints from before are whole.
    """

    def __init__(self, signum: int, at_work: bool = False):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.at_work = at_work


class Stop:
    """Records in `received` the number of the signal that arrives within `with Stop() as stop`; None before."""

    received: int | None = None

    def __enter__(self) -> Stop:
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python forbids it
            self._before = {s: signal.signal(s, self._handle) for s in _SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame) -> None:
        if self.received is not None:
            if sys.stderr.isatty():
                _say(_SHOW_CURSOR)
            os._exit(128 + number)
        self.received = number
        _say("\nstopping after this chunk; once more to stop at once\n")


def _say(text: str) -> None:
    """Writes to stderr past Python's buffers, which a handler may find half written. The reader may be gone."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


class Worker:
    """A thread that runs programs for the main one, which signals reach only while it is in Python."""

    def __init__(self, stop: Stop):
        self._stop = stop
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        at_work = isinstance(error, RunInterruptedError) and error.at_work
        self._thread.shutdown(wait=not at_work, cancel_futures=True)

    def run(self, program: Callable[[], Result], at_once: Callable[[], bool]) -> Result:
        """Runs the program and returns its result.

        Raises RunInterruptedError where a signal arrives and `at_once` says that there is nothing to wait for, or the
        program goes on for GRACE_SECONDS.
        """
        running = self._thread.submit(program)
        give_up_at = math.inf
        while not wait([running], _POLL_SECONDS).done:
            if self._stop.received is None:
                continue
            give_up_at = min(give_up_at, time.monotonic() + GRACE_SECONDS)
            if at_once() or time.monotonic() > give_up_at:
                raise RunInterruptedError(self._stop.received, at_work=True)
        return running.result()
