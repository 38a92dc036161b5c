"""The address of a Ray cluster that exists: `--address`."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_CONNECT_SECONDS = 5.0


def require_answer(address: str) -> None:
    """Raises ValueError, in one line, for an address that is none, or where nobody answers."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(
            f"--address {address} is none: HOST:PORT is wanted, as `ray start` prints it"
        )
    try:
        with socket.create_connection((host, int(port)), _CONNECT_SECONDS) as there:
            if os.environ.get("RAY_USE_TLS", "0") == "0" and not _speaks_http2(there):
                raise ValueError(
                    f"--address {address}: what answers there is no Ray cluster; give the address that `ray start` "
                    "prints"
                )
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"--address {address}: nobody answers there ({reason}); start a cluster with "
            f"`ray start --head --port {port}`, or leave --address out"
        ) from None


def _speaks_http2(there: socket.socket) -> bool:
    """Tells that a server speaks HTTP/2, as Ray's do, which to others would try to connect for minutes."""
    # RFC 9113, sec. 3.4: a client begins with these words and a frame of settings, and a server with such a frame.
    there.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    try:
        head = there.recv(9)
    except (TimeoutError, ConnectionError):
        return False
    return len(head) == 9 and head[3] == 4


def use_token() -> None:
    """Makes Ray show the token that it finds, before its import, as `ray start` asks for the token that it finds. A
    driver with an address would not look for one."""
    given = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if any(map(os.environ.get, given)) or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
