"""An episode as mp4 (where imageio's ffmpeg is installed) and GIF, in real time."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import mujoco
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from envs.base import Env
from envs.mujoco_env import MujocoEnv
from envs.physics.drawing import draw
from experiments.evaluation.frame_rate import frame_rate, shown_steps

WIDTH, HEIGHT = 960, 540  # pixels
MAX_FPS = 50  # faster episodes lose frames, those longer than SECONDS are cut
GIF_SHRINK, GIF_FPS, GIF_FRAMES, GIF_COLOURS = 2, 25, 240, 64
GL_SECONDS = 30.0  # after which a GL driver is given up
GL_SECONDS_PER_FRAME = (
    0.03  # a software driver takes ten times longer, and the drawn figure shows as much
)
_INK = (52, 58, 70)


def write(
    env: Env, states: Any, rewards: np.ndarray, stem: Path, say: Callable[[str], None]
) -> list[Path]:
    """Writes `stem`.mp4 and `stem`.gif of an episode and returns their paths.

    Args:
      env: an environment that can be rendered: its `frame_rate` is not None.
      states: states of the episode, leaves [T, ...], one per step.
      rewards: [T], of these steps.
      say: called with a line that names the renderer, if there is a choice of renderers.
    """
    fps, most, steps = frame_rate(env), shown_steps(env), len(rewards)
    assert fps is not None
    assert most is not None
    if not steps:
        say("no video: the episode has no step")
        return []
    every = math.ceil(fps / MAX_FPS - 1e-6)  # 1 / 0.02 may come out above 50
    shown = range(0, min(steps, most), every)
    frames = _pictures(env, states, shown, say)
    returns = np.cumsum(rewards)
    for t, frame in zip(shown, frames, strict=True):
        texts = env.caption(states, rewards, t)
        if texts:
            _write_beside(frame, texts)
        else:
            _write_progress(frame, (t + 1) / fps, returns[t])
        done = frame.width * (t + every) / (shown.stop - 1 + every)
        ImageDraw.Draw(frame).rectangle([0, frame.height - 4, done, frame.height], fill=_INK)
    mp4, gif = files(stem)
    return [*_write_mp4(frames, fps / every, mp4, say), _write_gif(frames, fps / every, gif)]


def files(stem: Path) -> tuple[Path, Path]:
    """Returns the paths of the mp4 and the GIF that `write` writes."""
    return stem.with_name(f"{stem.name}.mp4"), stem.with_name(f"{stem.name}.gif")


def coordinates(env: Env, states: Any) -> tuple[mujoco.MjModel, np.ndarray] | None:
    """Returns the model of an environment with physics, and the qpos [T, nq] of its states; None without physics."""
    if not isinstance(env, MujocoEnv):
        return None
    return env.model, np.asarray(env.physics(states).qpos)


def _pictures(env: Env, states: Any, shown: range, say: Callable[[str], None]) -> list[Image.Image]:
    """Returns a picture of each of the states `shown`."""
    bodies = coordinates(env, states)
    if bodies is None or type(env).render is not MujocoEnv.render:
        return [
            Image.fromarray(np.asarray(env.render(_pick(states, t), WIDTH, HEIGHT))) for t in shown
        ]
    model, qpos = bodies[0], bodies[1][shown.start : shown.stop : shown.step]
    frames, how = _gl_frames(model, qpos)
    say(how)
    return frames or _drawn(model, qpos)


def _pick(states: Any, t: int) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[t], states)


def _drawn(model: mujoco.MjModel, qpos: np.ndarray) -> list[Image.Image]:
    data, frames = mujoco.MjData(model), []
    for q in qpos:
        data.qpos[:] = q
        mujoco.mj_kinematics(model, data)
        frames.append(
            draw(model, data, WIDTH, HEIGHT)
        )  # `render` would use GL, if MUJOCO_GL is set
    return frames


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


def _write_beside(frame: Image.Image, texts: tuple[str, ...]) -> None:
    """Writes texts side by side in the upper left corner."""
    for column, text in enumerate(texts):
        place = (frame.height // 18 + column * frame.height // 5, frame.height // 22)
        ImageDraw.Draw(frame).text(place, text, fill=_INK, font=_font(frame.height))


def _write_progress(frame: Image.Image, seconds: float, episode_return: float) -> None:
    """Writes time and return in the upper right corner: some pictures have captions of their own on the left."""
    text = f"{seconds:.1f} s   return {episode_return:.1f}"
    margin = frame.height // 22
    look = {
        "font": _font(frame.height),
        "stroke_width": 2,
        "stroke_fill": "white",
        "anchor": "ra",
    }
    ImageDraw.Draw(frame).text((frame.width - margin, margin), text, fill=_INK, **look)


@functools.lru_cache(maxsize=4)
def _font(height: int):
    return ImageFont.load_default(height // 20)


def _write_mp4(
    frames: list[Image.Image], fps: float, path: Path, say: Callable[[str], None]
) -> list[Path]:
    try:
        import imageio
        import imageio_ffmpeg  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        say("no mp4: imageio's ffmpeg is not installed (the extra stride-rl[video])")
        return []
    try:
        with (
            warnings.catch_warnings(),
            imageio.v2.get_writer(path, fps=fps, macro_block_size=2, quality=7) as writer,
        ):
            warnings.simplefilter("ignore")
            for frame in frames:
                writer.append_data(np.asarray(frame))
    except OSError as error:
        say(f"no mp4: {error}".split("\n")[0])
        return []
    return [path]


def _write_gif(frames: list[Image.Image], fps: float, path: Path) -> Path:
    """Writes smaller and fewer frames, all with one palette."""
    every = max(math.ceil(fps / GIF_FPS), math.ceil(len(frames) / GIF_FRAMES))
    small = [frame.reduce(GIF_SHRINK) for frame in frames[::every]]
    # Colours of the first frame, and of what may appear later.
    samples = [small[i] for i in (0, len(small) // 2, -1)]
    sheet = Image.fromarray(np.concatenate([np.asarray(x) for x in samples]))
    palette = sheet.quantize(GIF_COLOURS)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in small]
    duration = round(1000 * every / fps)
    small[0].save(
        path, save_all=True, append_images=small[1:], duration=duration, loop=0, optimize=True
    )
    return path
