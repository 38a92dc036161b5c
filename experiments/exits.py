"""How every command ends: with an exit code, and with one line on stderr where something was wrong."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable

import jax

from envs.callback import HostError, host_failure
from experiments import streams
from experiments.checkpoints import DamagedCheckpointError

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT
OF_HOST = (HostError, jax.errors.JaxRuntimeError, ValueError)  # as which its failures arrive


def run_main(body: Callable[[], int | None]) -> None:
    """Runs a command and exits with its code; wrong input is one line on stderr and exit code 2."""
    streams.make_lasting()
    try:
        code = body() or 0
    except (OSError, DamagedCheckpointError) as error:
        code = fail(error)
    except OF_HOST as error:
        is_input = isinstance(error, ValueError) and host_failure(error) is None
        code = fail(error) if is_input else fail_host(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def fail_host(error: Exception) -> int:
    """One line where it was the environment, stepped on the host, that failed; else `error` is raised again."""
    said = host_failure(error)
    if said is None:
        raise error
    return fail(HostError(said), code=FAILED)


def fail(error: Exception, code: int = BAD_INPUT) -> int:
    """One line on stderr. Returns `code`."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # Blanks inside a line stay: a command to be copied may hold a name with two of them.
    print("error: " + re.sub(r"\s*[\n\r]\s*", " ", text.strip()), file=sys.stderr)
    return code
