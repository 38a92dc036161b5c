"""Ends what Ray leaves behind when a run's process is killed, and so cannot end it itself.

Ray's servers die with the process that started them. Processes that these servers started wait another minute, one
that is stopped waits forever, and temporary files stay. A guardian is a process that needs neither Ray nor JAX. It
waits for the end of its standard input, which comes when the run's process ends, in whatever way:

    python guardian.py FOLDER PID < PIPE

where PID is the run's, which has files there as well, and may only be at the end of its actors.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_PROCESSES = Path("/proc")  # not on macOS and Windows, where only the folder is removed
_SECONDS = 5.0  # until processes that were killed are gone
_AGAIN_SECONDS = 1.0  # until processes that were just being started have opened their files
_IGNORED = ("SIGINT", "SIGTERM", "SIGHUP")  # of a terminal, which are meant for the run


def begin(folder: Path) -> subprocess.Popen:
    """Starts the guardian of a folder of Ray's; it acts when its `stdin` is closed."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(folder), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def processes_of(folder: Path, title: str = "") -> list[int]:
    """Returns the ids of other processes that have a file in the folder open for writing, as all of Ray's have, and
    whose command line begins with `title`."""
    prefix = f"{folder}{os.sep}"
    found = []
    for process in _PROCESSES.glob("[0-9]*"):
        # Processes end meanwhile, and those of others cannot be read.
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes().decode(errors="replace")
            written = any(_is_written(fd, prefix) for fd in (process / "fd").iterdir())
            if written and line.startswith(title) and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


def remove(folder: Path, spared: int | None = None) -> bool:
    """Kills the processes of a folder of Ray's but one, and removes it. Returns True where there were some."""
    end, any_left = time.monotonic() + _SECONDS, False
    while left := [pid for pid in processes_of(folder) if pid != spared]:
        any_left = True
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)
    return any_left


def _is_written(fd: Path, prefix: str) -> bool:
    """Tells of a file of a process that its path begins with `prefix`, and that it is open for writing."""
    with contextlib.suppress(OSError):  # it has been closed meanwhile
        if os.readlink(fd).startswith(prefix):
            for line in (fd.parents[1] / "fdinfo" / fd.name).read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "flags":
                    return int(value, 8) & os.O_ACCMODE != os.O_RDONLY
    return False


def main(folder: Path, run: int) -> None:
    """Waits for the end of standard input, then ends what is left."""
    for name in _IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    while sys.stdin.buffer.read(4096):
        pass
    while remove(folder, spared=run):
        time.sleep(_AGAIN_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
