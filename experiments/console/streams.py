"""Standard output and error that never end a run: closed, full, or of an encoding that lacks a character."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import TextIO

_PLAINLY = {"±": "+-", "…": "..."}  # where the encoding lacks them
_ERRORS = "stride.plainly"


class _Lasting(io.FileIO):
    """A file descriptor that accepts everything; data that cannot be written (a reader that went away, a full disk) is
    dropped."""

    def write(self, data, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def make_lasting() -> None:
    """Replaces the process's own stdout and stderr by lasting streams; streams that a caller replaced stay.

    A descriptor that was closed at the start is redirected to the null device. Otherwise the next file that is opened
    would get its number, and with it the output of libraries.
    """
    _reopen_closed()
    codecs.register_error(_ERRORS, _plainly)
    if sys.stdout in (None, sys.__stdout__):
        sys.stdout = _lasting(sys.stdout, 1)
    if sys.stderr in (None, sys.__stderr__):
        sys.stderr = _lasting(sys.stderr, 2)


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    encoding, by_line, unbuffered = "utf-8", False, False
    if isinstance(stream, io.TextIOWrapper):
        encoding, by_line = stream.encoding, stream.line_buffering
        unbuffered = stream.write_through
        with contextlib.suppress(OSError):
            stream.flush()
    raw = _Lasting(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw, 1) if unbuffered else io.BufferedWriter(raw),
        encoding=encoding,
        errors=_ERRORS,
        line_buffering=by_line,
        write_through=unbuffered,
    )


def _reopen_closed() -> None:
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is given: this one.
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Characters that the encoding lacks, in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = (_PLAINLY.get(x) or x.encode("ascii", "backslashreplace").decode() for x in text)
    return "".join(plain), error.end
