"""The meeting of the processes of one run, before JAX joins them: who is there, and were all started alike?

JAX's own service ends a process without a word of ours when another one does not come. So process 0 listens at the
coordinator's address first, and the others report there:

    process 1 -> 0   {"process": 1, "of": 2, "words": [...]}      its number, how many there are, its command line
    process 0 -> 1   {"line": null}                               all are there; or a line that says what is wrong

Then the address is free again, for JAX.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Sequence
from typing import Any

PATIENCE = 60.0  # seconds until all must have come
_RETRY_SECONDS = 0.2
_LONGEST = 1 << 20  # bytes of a message


def meet(address: str, process: int, of: int, words: Sequence[str], seconds: float) -> None:
    """Returns when all processes are there. Raises ValueError, in one line, where they are not within `seconds`, and
    where two have the same number, or other words.

    Args:
      address: HOST:PORT of process 0.
      words: the command line, without the process's number.
    """
    host, _, port = address.rpartition(":")
    at = (host.strip("[]"), int(port))
    if process == 0:
        _receive_all(at, address, of, list(words), time.monotonic() + seconds)
    else:
        _report(at, address, process, of, list(words), time.monotonic() + seconds)


def _receive_all(at: tuple[str, int], address: str, of: int, words: list[str], end: float) -> None:
    """Waits for the others, and answers all of them at once, so that nobody goes on alone."""
    family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
    try:
        server = socket.create_server(at, family=family)
    except OSError as error:
        raise ValueError(
            f"--coordinator {address}: process 0 cannot listen there ({error.strerror or error})"
        ) from None
    there: dict[int, socket.socket] = {}
    line = None
    with server, contextlib.ExitStack() as held:
        while len(there) < of - 1 and line is None:
            try:
                server.settimeout(max(end - time.monotonic(), 0.001))
                other = held.enter_context(server.accept()[0])
                other.settimeout(max(end - time.monotonic(), 0.001))
                said = _read(other, "process", "of", "words")
            except TimeoutError:
                missing = ", ".join(str(i) for i in range(1, of) if i not in there)
                line = f"of {of} processes these have not come to {address}: {missing}"
                break
            except (OSError, ValueError):
                continue  # somebody else
            line = _trouble(said, of, words, there)
            there[said["process"] if line is None else -1] = other
        for other in there.values():
            with contextlib.suppress(OSError):
                _write(other, {"line": line})
    if line is not None:
        raise ValueError(line)


def _trouble(said: dict[str, Any], of: int, words: list[str], there: Any) -> str | None:
    """Returns what is wrong with a process that reports; None: nothing."""
    process = said["process"]
    if said["of"] != of:
        return f"process {process} has --num-processes {said['of']}, and process 0 has {of}"
    if process in there:
        return f"two processes have --process-id {process}"
    if said["words"] != words:
        return f"process {process} was started with other flags than process 0: {' '.join(said['words'])}"
    return None


def _report(
    at: tuple[str, int], address: str, process: int, of: int, words: list[str], end: float
) -> None:
    """Reports to process 0, and waits for its answer."""
    reason = ""
    while time.monotonic() < end:
        try:
            with socket.create_connection(at, max(end - time.monotonic(), 0.001)) as there:
                # Process 0 may wait for others as long again, if it began later.
                there.settimeout(max(end - time.monotonic(), 0.001) + PATIENCE)
                _write(there, {"process": process, "of": of, "words": words})
                line = _read(there, "line")["line"]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            time.sleep(_RETRY_SECONDS)
            continue
        if line is not None:
            raise ValueError(line)
        return
    raise ValueError(
        f"--coordinator {address}: process 0 does not answer there ({reason or 'no time'}); start it with "
        f"--coordinator {address} --process-id 0 --num-processes {of}"
    )


def _write(there: socket.socket, message: dict[str, Any]) -> None:
    there.sendall(json.dumps(message).encode() + b"\n")


def _read(there: socket.socket, *names: str) -> dict[str, Any]:
    """Returns a message. Raises ValueError where what comes is none with these names."""
    with there.makefile("rb") as stream:
        message = json.loads(stream.readline(_LONGEST))
    if not isinstance(message, dict) or not set(names) <= message.keys():
        raise ValueError("no message of this program's")
    return message
