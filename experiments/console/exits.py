"""Exit codes of every command, and the one line on stderr where something is wrong."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import jax

from agents.settings import shortened
from envs.callback import HostError, host_failure
from experiments.console import streams

_LONG_WORD, _LONG_LINE = 300, 1500  # characters
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT
# As which failures of the host arrive.
OF_HOST = (HostError, jax.errors.JaxRuntimeError, ValueError, MemoryError)


class InputError(Exception):
    """Wrong input to a command; the message says in one line what is wrong."""


def run_main(body: Callable[[], int | None]) -> None:
    """Runs a command and exits with its code; wrong input is one line on stderr and exit code 2."""
    streams.make_lasting()
    try:
        code = body() or 0
    except (OSError, InputError) as error:
        code = fail(error)
    except OF_HOST as error:
        is_input = isinstance(error, ValueError) and host_failure(error) is None
        code = fail(error) if is_input else fail_host(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def fail_host(error: Exception) -> int:
    """Prints one line where an environment on the host has failed, or memory has run out, and returns FAILED; raises
    `error` again otherwise."""
    reason = host_failure(error)
    if reason is None and (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
        reason = f"out of memory: {str(error).splitlines()[0]}"
    if reason is None:
        raise error
    return fail(HostError(reason), code=FAILED)


def fail(error: Exception, code: int = BAD_INPUT) -> int:
    """Prints an error in one line on stderr and returns `code`."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # Blanks inside a line stay: a command to be copied may hold a name with two of them.
    line = re.sub(r"\s*[\n\r]\s*", " ", text.strip())
    # What a user has given is not repeated in full where it is very long.
    line = re.sub(rf"\S{{{_LONG_WORD},}}", lambda word: shortened(word[0], _LONG_WORD), line)
    print("error: " + shortened(line, _LONG_LINE), file=sys.stderr)
    return code


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code, though a thread of its may be at work, for which Python would wait."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
