"""A run that is asked to stop, stops, whatever it is about."""

import signal
import threading
import time

import pytest

from experiments.console import signals
from experiments.console.signals import RunInterruptedError, Stop, Worker


def never():
    return False


def test_a_program_that_ends_is_waited_for():
    stop = Stop()
    with Worker(stop) as worker:
        assert worker.run(lambda: 3, at_once=never) == 3
        stop.received = signal.SIGTERM
        assert worker.run(lambda: time.sleep(0.5) or 4, at_once=never) == 4


def test_the_programs_errors_are_raised():
    with Worker(Stop()) as worker, pytest.raises(KeyError):
        worker.run(lambda: {}["x"], at_once=never)


@pytest.mark.parametrize("at_once", [True, False])
def test_one_that_does_not_end_is_given_up(monkeypatch, at_once):
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.3)
    stop, end = Stop(), threading.Event()
    start = time.monotonic()

    def work():
        with Worker(stop) as worker:
            stop.received = signal.SIGTERM
            worker.run(end.wait, at_once=lambda: at_once)

    try:
        with pytest.raises(RunInterruptedError) as stopped:
            work()
        assert stopped.value.at_work
        assert stopped.value.signum == signal.SIGTERM
        assert time.monotonic() - start < 5
    finally:
        end.set()
