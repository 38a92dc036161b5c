"""An episode as mp4 (where imageio's ffmpeg is installed) and GIF, in real time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from envs.biped.walker import CONTROL_PERIOD
from envs.physics.render import draw

WIDTH, HEIGHT = 960, 540  # pixels
GIF_SHRINK, GIF_EVERY, GIF_COLOURS = 2, 2, 64
GL_SECONDS = 30.0  # after which a GL driver is given up
GL_SECONDS_PER_FRAME = (
    0.03  # a software driver takes ten times longer, and the drawn figure shows as much
)
_INK = (52, 58, 70)


def write(env: Any, states: Any, stem: Path, say: Callable[[str], None]) -> list[Path]:
    """Writes `stem`.mp4 and `stem`.gif of an episode and returns their paths.

    Args:
      env: one with physics and a free-floating body.
      states: its states, leaves [T, ...], one per control step.
      say: told in one line how the pictures were made.
    """
    qpos = np.asarray(states.physics.qpos)
    frames, how = _gl_frames(env.engine.model, qpos)
    frames = frames or [_drawn(env.engine.model, q) for q in qpos]
    say(how)
    for t, frame in enumerate(frames):
        _caption(frame, t, qpos)
    return [
        *_write_mp4(frames, stem.with_suffix(".mp4"), say),
        _write_gif(frames, stem.with_suffix(".gif")),
    ]


def _drawn(model: mujoco.MjModel, qpos: np.ndarray) -> Image.Image:
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    return draw(model, data, WIDTH, HEIGHT)  # `render` itself would use GL, if MUJOCO_GL is set


def _gl_frames(model: mujoco.MjModel, qpos: np.ndarray) -> tuple[list[Image.Image], str]:
    """Frames from MuJoCo's renderer, or none; and the line for the log."""
    script = Path(__file__).with_name("gl_frames.py")
    environment = dict(os.environ)
    if not environment.get("DISPLAY"):
        environment.setdefault("MUJOCO_GL", "egl")
    with tempfile.TemporaryDirectory() as folder:
        names = [str(Path(folder) / name) for name in ("model.mjb", "qpos.npy", "frames.npy")]
        mujoco.mj_saveModel(model, names[0])
        np.save(names[1], qpos)
        size = [str(WIDTH), str(HEIGHT), str(GL_SECONDS_PER_FRAME)]
        try:
            done = subprocess.run(
                [sys.executable, str(script), *names, *size],
                env=environment,
                capture_output=True,
                text=True,
                timeout=GL_SECONDS,
            )
            if done.returncode == 0:
                frames: UInt8[np.ndarray, "T height width 3"] = np.load(names[2])
                return [Image.fromarray(f) for f in frames], "video: MuJoCo's renderer"
            why = "too slow here" if done.returncode == 3 else "without a GL driver here"
        except (OSError, ValueError, subprocess.TimeoutExpired):
            why = "not to be had here"
    return [], f"video: MuJoCo's renderer is {why}, the same motion is drawn instead"


def _caption(frame: Image.Image, t: int, qpos: np.ndarray) -> None:
    """Time, distance, and speed over the last second, in the upper left corner; a bar of time at the bottom."""
    now = (t + 1) * CONTROL_PERIOD
    before = max(0, t - round(1 / CONTROL_PERIOD))
    speed = (qpos[t, 0] - qpos[before, 0]) / max((t - before) * CONTROL_PERIOD, CONTROL_PERIOD)
    draw, height = ImageDraw.Draw(frame), frame.height
    font = ImageFont.load_default(height // 20)
    for column, text in enumerate((f"{now:4.1f} s", f"{qpos[t, 0]:5.2f} m", f"{speed:5.2f} m/s")):
        draw.text((height // 18 + column * height // 5, height // 22), text, fill=_INK, font=font)
    done = frame.width * (t + 1) / len(qpos)
    draw.rectangle([0, height - 4, done, height], fill=_INK)


def _write_mp4(frames: list[Image.Image], path: Path, say: Callable[[str], None]) -> list[Path]:
    try:
        import imageio
        import imageio_ffmpeg  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        say("no mp4: imageio's ffmpeg is not installed (the extra stride-rl[video])")
        return []
    try:
        with (
            warnings.catch_warnings(),
            imageio.v2.get_writer(
                path, fps=round(1 / CONTROL_PERIOD), macro_block_size=2, quality=7
            ) as writer,
        ):
            warnings.simplefilter("ignore")
            for frame in frames:
                writer.append_data(np.asarray(frame))
    except OSError as error:
        say(f"no mp4: {error}".split("\n")[0])
        return []
    return [path]


def _write_gif(frames: list[Image.Image], path: Path) -> Path:
    """Smaller, at half the rate, all frames with the first one's palette."""
    small = [frame.reduce(GIF_SHRINK) for frame in frames[::GIF_EVERY]]
    palette = small[0].quantize(GIF_COLOURS)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in small]
    duration = round(1000 * CONTROL_PERIOD * GIF_EVERY)
    small[0].save(
        path, save_all=True, append_images=small[1:], duration=duration, loop=0, optimize=True
    )
    return path
