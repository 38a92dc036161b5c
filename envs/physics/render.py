"""Pictures of a MuJoCo state, with or without a GL driver.

MuJoCo's own renderer is used where it is asked for (`MUJOCO_GL` set) or a screen is there; everywhere else the same
state is drawn: an oblique view from the robot's right, geom by geom, far ones first. Drawing needs no driver, cannot
hang, and takes a few milliseconds.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

FRAME_SIZE = (640, 360)  # pixels: width, height
_SUPERSAMPLING = 3  # drawn larger, then averaged down: smooth edges
_OBLIQUE = np.array([0.30, 0.22])  # screen metres right and up per metre away from the viewer
_SKY, _GROUND, _GRID = (238, 242, 247), (214, 217, 216), (190, 195, 196)
_INK = (52, 58, 70)

Geom = mujoco.mjtGeom


def render_state(env: Any, state: Any, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB image of `state`. Raises NotImplementedError for an environment without physics to show."""
    if not hasattr(env, "engine"):
        raise NotImplementedError(f"{type(env).__name__} has nothing to draw")
    return render(env.engine.model, np.asarray(state.physics.qpos), width, height)


def render(
    model: mujoco.MjModel,
    qpos: Float[np.ndarray, " nq"],
    width: int,
    height: int,
) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB image of the model at `qpos`, by its first camera."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    if uses_gl():
        renderer = _renderer(model, width, height)
        renderer.update_scene(data, camera=0 if model.ncam else -1)
        return renderer.render()
    return np.asarray(draw(model, data, width, height))


def uses_gl() -> bool:
    """Whether pictures come from MuJoCo's renderer; False: they are drawn."""
    return bool(os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"))


@functools.lru_cache(maxsize=4)
def _renderer(model: mujoco.MjModel, width: int, height: int) -> mujoco.Renderer:
    return mujoco.Renderer(model, height, width)


@functools.lru_cache(maxsize=4)
def _font(size: int):
    return ImageFont.load_default(size)


def draw(model: mujoco.MjModel, data: mujoco.MjData, width: int, height: int) -> Image.Image:
    """The picture without GL. `data` has been through `mj_forward` (or `mj_kinematics`)."""
    width, height = width * _SUPERSAMPLING, height * _SUPERSAMPLING
    image = Image.new("RGB", (width, height), _SKY)
    canvas = ImageDraw.Draw(image)
    scale = height / (0.75 * model.stat.extent)  # pixels per metre
    focus = data.qpos[0] if model.njnt and model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE else 0.0

    def pixels(points: np.ndarray) -> np.ndarray:
        """[..., 3] metres to [..., 2] pixels; the robot stays in the middle, the floor in the lower third."""
        screen = points[..., [0, 2]] + points[..., 1:2] * _OBLIQUE - [focus, 0.0]
        return np.array([width / 2, 0.78 * height]) + screen * [scale, -scale]

    _draw_floor(canvas, pixels, focus, scale, width, height)
    geoms = [i for i in range(model.ngeom) if model.geom_type[i] != Geom.mjGEOM_PLANE]
    for i in geoms:
        _draw_shadow(canvas, pixels, model, data, i, scale)
    for i in sorted(geoms, key=lambda i: -data.geom_xpos[i, 1]):
        _draw_geom(canvas, pixels, model, data, i, scale)
    return image.reduce(_SUPERSAMPLING)


def _draw_floor(draw, pixels, focus, scale, width, height) -> None:
    """A band of floor with a line every 0.1 m, so that motion shows, and a number every 0.5 m."""
    near, far = -0.35, 0.35
    reach = 0.6 * width / scale + 0.5
    horizon = pixels(np.array([focus, far, 0.0]))[1]
    draw.rectangle([0, horizon, width, height], fill=_GROUND)
    for tick in np.arange(np.floor((focus - reach) * 10), np.ceil((focus + reach) * 10)):
        x = tick / 10
        half_metre = round(tick) % 5 == 0
        ends = pixels(np.array([[x, near, 0.0], [x, far, 0.0]]))
        draw.line([*map(tuple, ends)], fill=_GRID, width=_SUPERSAMPLING * (2 if half_metre else 1))
        if half_metre:
            anchor = tuple(pixels(np.array([x, -0.13, 0.0])))
            draw.text(anchor, f"{x:.1f} m", fill=_INK, font=_font(height // 28), anchor="ma")
    for y in np.arange(near, far + 1e-9, 0.1):
        height_px = pixels(np.array([focus, y, 0.0]))[1]
        draw.line([(0, height_px), (width, height_px)], fill=_GRID, width=_SUPERSAMPLING)


def _draw_shadow(draw, pixels, model, data, i, scale) -> None:
    points, radius = _outline(model, data, i)
    points = points * [1.0, 1.0, 0.0]
    _fill(draw, pixels(points), 0.6 * radius * scale, (196, 200, 200))


def _draw_geom(draw, pixels, model, data, i, scale) -> None:
    # Farther parts are paler, as through air.
    haze = 0.25 * np.clip(0.5 + 4.0 * data.geom_xpos[i, 1], 0.0, 1.0)
    color = 255 * model.geom_rgba[i, :3] * (1 - haze) + haze * np.array(_SKY)
    if model.geom_type[i] == Geom.mjGEOM_BOX:
        for corners, light in _visible_faces(model, data, i):
            _fill(draw, pixels(corners), 0.0, _shade(color, light))
        return
    points, radius = _outline(model, data, i)
    _fill(draw, pixels(points), radius * scale, _shade(color, 1.0))


def _visible_faces(model, data, i) -> Iterator[tuple[np.ndarray, float]]:
    """Corners [4, 3] of each face of a box that the viewer sees, and how light it is: the more so, the more it
    faces upwards."""
    rotation, position, half = (
        data.geom_xmat[i].reshape(3, 3),
        data.geom_xpos[i],
        model.geom_size[i],
    )
    away = np.array([-_OBLIQUE[0], 1.0, -_OBLIQUE[1]])  # what the projection maps to a point
    for axis, sign in itertools.product(range(3), (-1.0, 1.0)):
        normal = sign * rotation[:, axis]
        if normal @ away >= 0:
            continue
        u, v = (k for k in range(3) if k != axis)
        square = np.zeros((4, 3))
        square[:, axis] = sign * half[axis]
        square[:, u] = half[u] * np.array([-1, 1, 1, -1])
        square[:, v] = half[v] * np.array([-1, -1, 1, 1])
        yield position + square @ rotation.T, 0.95 + 0.25 * normal[2] - 0.2 * abs(normal[0])


def _shade(color: np.ndarray, light: float) -> tuple[int, ...]:
    return tuple(int(c) for c in np.clip(color * light, 0, 255))


def _outline(model, data, i) -> tuple[np.ndarray, float]:
    """Points [n, 3] in the world and a radius: the geom is their convex hull, thickened (boxes, capsules, spheres;
    others by the box around them)."""
    kind, size = model.geom_type[i], model.geom_size[i]
    rotation, position = data.geom_xmat[i].reshape(3, 3), data.geom_xpos[i]
    if kind == Geom.mjGEOM_SPHERE:
        return position[None], size[0]
    if kind == Geom.mjGEOM_CAPSULE:
        return position + np.outer([-size[1], size[1]], rotation[:, 2]), size[0]
    half = size if kind == Geom.mjGEOM_BOX else model.geom_aabb[i, 3:]
    corners = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T * half
    return position + corners @ rotation.T, 0.0


def _fill(draw, points: np.ndarray, radius: float, color) -> None:
    if len(points) > 2:
        draw.polygon([tuple(p) for p in _convex_hull(points)], fill=color)
        return
    if len(points) == 2:
        draw.line([*map(tuple, points)], fill=color, width=max(int(2 * radius), 1))
    for x, y in points:
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)


def _convex_hull(points: np.ndarray) -> list[np.ndarray]:
    """Andrew's monotone chain."""
    order = points[np.lexsort((points[:, 1], points[:, 0]))]

    def chain(points):
        hull: list[np.ndarray] = []
        for p in points:
            while len(hull) > 1 and _cross(hull[-2], hull[-1], p) <= 0:
                hull.pop()
            hull.append(p)
        return hull[:-1]

    return chain(order) + chain(order[::-1])


def _cross(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
