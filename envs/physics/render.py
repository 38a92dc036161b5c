"""Pictures of a MuJoCo state, with or without a GL driver.

MuJoCo's own renderer is used where `MUJOCO_GL` asks for it or there is a screen that it can use; everywhere else the
same state is drawn (drawing.py), which needs no driver and cannot hang.
"""

from __future__ import annotations

import functools
import os
import warnings

import mujoco
import numpy as np
from jaxtyping import Float, UInt8

from envs.physics.drawing import draw

FRAME_SIZE = (640, 360)  # pixels: width, height


def render(
    model: mujoco.MjModel,
    qpos: Float[np.ndarray, " nq"],
    width: int,
    height: int,
) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB image of the model at `qpos`, by its first camera. Raises what MuJoCo does if `MUJOCO_GL` asks for a
    renderer that does not work."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    if uses_gl():
        renderer = _renderer(model, width, height)
        renderer.update_scene(data, camera=0 if model.ncam else -1)
        return renderer.render()
    return np.asarray(draw(model, data, width, height))


def uses_gl() -> bool:
    """True if pictures come from MuJoCo's renderer, False if they are drawn."""
    if os.environ.get("MUJOCO_GL"):
        return True
    display = os.environ.get("DISPLAY")
    return bool(display) and _works_on(display)


@functools.cache
def _works_on(display: str) -> bool:
    """True if MuJoCo's renderer works on this screen; warns if not. Tried once, with an empty world: a second failure
    ends the process."""
    nothing = mujoco.MjModel.from_xml_string("<mujoco/>")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of GLFW, for each thing it cannot do
            mujoco.Renderer(nothing, 16, 16).close()
    except Exception:
        warnings.warn(
            f"MuJoCo's renderer does not work on DISPLAY={display}: pictures are drawn instead",
            stacklevel=4,
        )
        return False
    return True


@functools.lru_cache(maxsize=4)
def _renderer(model: mujoco.MjModel, width: int, height: int) -> mujoco.Renderer:
    return mujoco.Renderer(model, height, width)
