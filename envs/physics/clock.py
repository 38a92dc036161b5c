"""MuJoCo's clock, stopped.

MuJoCo's Python package has every step read the clock some dozens of times, for `MjData.timer`, which no environment
shows: a sixth to a fifth of the time that the physics of a small robot takes. `mujoco.set_mjcb_time` cannot stop it,
for None means the package's own clock; but in C a null `mjcb_time` does, and the library exports that variable.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

import mujoco

_LIBRARY = "mujoco.dll" if sys.platform == "win32" else "libmujoco*"


def stop_clock() -> None:
    """For the whole process, until somebody calls `mujoco.set_mjcb_time`; a clock that a user has set goes on. Does
    nothing where the library is not found: all is as before, and slower."""
    pointer = _pointer()
    if pointer is not None and mujoco.get_mjcb_time() is None:
        pointer.value = None


@functools.cache
def _pointer() -> ctypes.c_void_p | None:
    for path in sorted(Path(mujoco.__file__).parent.glob(_LIBRARY)):
        try:
            return ctypes.c_void_p.in_dll(ctypes.CDLL(str(path)), "mjcb_time")
        except (OSError, ValueError):  # no library, or one without the variable
            continue
    return None
