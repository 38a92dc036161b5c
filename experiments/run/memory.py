"""The memory that a program will take, estimated before it is compiled, and the memory that there is.

The estimate is a lower bound: the largest sum of arrays that are alive at once, of those that a compiler cannot do
without. These are the results of loops, matrix products and sorts; whatever is computed element by element may be fused
with its use. Arrays that are changed in place count once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

_STORED = {
    "scan",
    "while",
    "dot_general",
    "sort",
    "random_split",
}  # results that have to be in memory


class _GroupFiles(NamedTuple):
    limit: str
    used: str
    cache: str  # entry of memory.stat: files that can be read again


_VERSION_1 = _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _GroupFiles("memory.max", "memory.current", "inactive_file")


def nbytes(tree: Any) -> int:
    """Bytes of all arrays, or shapes of arrays, in a tree."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def peak(program: ClosedJaxpr | Jaxpr) -> int:
    """Returns a lower bound for the peak memory of a program, in bytes, without its arguments.

    Scans the equations in order and adds the results that later equations use and the peak inside the current
    equation, if it is a loop or a call.
    """
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    last_use: dict[Any, int] = {}
    for i, equation in enumerate(jaxpr.eqns):
        last_use |= {x: i for x in equation.invars if not isinstance(x, Literal)}
    last_use |= {x: len(jaxpr.eqns) for x in jaxpr.outvars if not isinstance(x, Literal)}
    dying: dict[int, list[Any]] = {}
    for variable, i in last_use.items():
        dying.setdefault(i, []).append(variable)
    alive: dict[Any, int] = {}
    most = 0
    for i, equation in enumerate(jaxpr.eqns):
        # What is used here for the last time may be where the result goes.
        for variable in dying.get(i, ()):
            alive.pop(variable, None)
        stored = equation.primitive.name in _STORED
        results = {x: _size(x.aval) if stored else 0 for x in equation.outvars}
        inside = max((peak(inner) for inner in _inner(equation.params)), default=0)
        most = max(most, sum(alive.values()) + sum(results.values()) + inside)
        alive |= {x: size for x, size in results.items() if last_use.get(x, -1) > i}
    return most


def free_on_device() -> int | None:
    """Returns the free memory, in bytes, of the device that runs programs, an accelerator or the host; None:
    unknown."""
    if jax.default_backend() == "cpu":
        return free_on_host()
    statistics = jax.local_devices()[0].memory_stats() or {}
    limit = statistics.get("bytes_limit")
    return None if limit is None else limit - statistics.get("bytes_in_use", 0)


def free_on_host() -> int | None:
    """Bytes that are free in the machine and in its container, whichever has less; None: unknown."""
    free = [_free_in_machine(), *_free_in_containers()]
    return min((x for x in free if x is not None), default=None)


def _size(aval: Any) -> int:
    return math.prod(aval.shape) * aval.dtype.itemsize


def _inner(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr | Jaxpr):
                yield one


def _free_in_machine() -> int | None:
    """Returns the memory that Linux reports as available; elsewhere all memory of the machine."""
    try:
        rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * next(int(row[1]) for row in rows if row[0] == "MemAvailable:")
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):  # Windows has no such thing
        return None


def _free_in_containers() -> Iterator[int]:
    """Yields, for each control group above this process with a limit, the limit less what is used and cannot be
    reclaimed."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        names = _VERSION_1 if controllers else _VERSION_2
        root = Path("/sys/fs/cgroup") / controllers
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            free = _free_in_group(folder, names)
            if free is not None:
                yield free
            if folder == root:
                break


def _free_in_group(folder: Path, names: _GroupFiles) -> int | None:
    try:
        limit = int((folder / names.limit).read_text())
        used = int((folder / names.used).read_text())
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cache = next((int(value) for name, value in rows if name == names.cache), 0)
    except (OSError, ValueError):  # "max": no limit
        return None
    return limit - used + cache
