"""The number of cores that this process may use."""

import os


def usable_cores() -> int:
    """Cores that the process is allowed to run on; where the system does not tell (macOS, Windows), all there are."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
