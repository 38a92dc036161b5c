"""Ctrl-C and SIGTERM: the first asks the run to stop at the next chance, the second ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

_SIGNALS: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
if sys.platform == "win32":
    _SIGNALS += (signal.SIGBREAK,)  # as which a suite there passes on what it got
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


class Stop:
    """Within `with Stop() as stop`, `stop.received` is the number of the signal that arrived, or None."""

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
    """To stderr, past Python's buffers, which a handler may find half written. Whoever read it may be gone."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
