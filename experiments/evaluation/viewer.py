"""An episode in MuJoCo's viewer, on a screen."""

from __future__ import annotations

import time
from typing import Any

import numpy as np


def show(model: Any, qpos: np.ndarray, period: float) -> None:
    """Shows the states `qpos` [T, nq] of a MuJoCo model again and again, one every `period` seconds, until the window
    is closed."""
    import mujoco
    import mujoco.viewer

    data = mujoco.MjData(model)
    with mujoco.viewer.launch_passive(model, data) as viewer:
        while viewer.is_running():
            for q in qpos:
                data.qpos[:] = q
                mujoco.mj_forward(model, data)
                viewer.sync()
                time.sleep(period)
                if not viewer.is_running():
                    return
