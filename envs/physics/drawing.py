"""A MuJoCo state drawn without a GL driver: geom by geom, far ones first.

An oblique view from the robot's right; of mechanisms that move in a horizontal plane, the view from above. A robot that
can leave the place is kept in the middle, and the floor moves. Takes some milliseconds.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import mujoco
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_OBLIQUE = np.array([0.30, 0.22])  # screen metres right and up per metre away from the viewer
_SKY, _GROUND, _GRID = (238, 242, 247), (214, 217, 216), (190, 195, 196)
_INK = (52, 58, 70)

Geom = mujoco.mjtGeom


@functools.lru_cache(maxsize=4)
def _font(size: int):
    return ImageFont.load_default(size)


class _View(NamedTuple):
    """The frame in which a model is drawn, the same for all its states."""

    above: bool  # from above, or else from the right
    low: np.ndarray  # [3] m, corner of the drawn geoms' bounding box, in the model's reference pose
    high: np.ndarray  # [3] m, the opposite corner
    follows: int  # the body that is kept in the middle; 0, the world: none
    floor: float | None  # m, its height; None: no floor
    geoms: tuple[int, ...]  # those drawn


class _Camera(NamedTuple):
    """A view of one state, in a picture of one size."""

    above: bool
    focus: np.ndarray  # [3] m, the point at `center`
    center: np.ndarray  # [2] pixels
    scale: float  # pixels per metre
    span: float  # m from the bottom of the picture to its top

    @property
    def away(self) -> np.ndarray:
        """The direction [3] that the projection maps to a point."""
        return np.array([0, 0, -1.0] if self.above else [-_OBLIQUE[0], 1.0, -_OBLIQUE[1]])

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """[..., 3] metres to [..., 2] pixels."""
        return self.center + _flat(points - self.focus, self.above) * [self.scale, -self.scale]

    def depth(self, position: np.ndarray) -> float:
        """The distance of a point [3] along the view, in heights of the picture."""
        return (position - self.focus) @ ([0, 0, -1] if self.above else [0, 1, 0]) / self.span


def draw(model: mujoco.MjModel, data: mujoco.MjData, width: int, height: int) -> Image.Image:
    """The picture without GL. `data` has been through `mj_forward` (or `mj_kinematics`)."""
    factor = _supersampling(height)
    width, height = width * factor, height * factor
    image = Image.new("RGB", (width, height), _SKY)
    canvas = ImageDraw.Draw(image)
    view = _view(model)
    camera = _camera(view, data, width, height)
    if view.above:
        canvas.rectangle([0, 0, width, height], fill=_GROUND)
    if view.floor is not None or view.above:
        _draw_floor(canvas, camera, view, width, height)
    if view.floor is not None and not view.above:
        for i in view.geoms:
            _draw_shadow(canvas, camera, model, data, i, view.floor)
    for i in sorted(view.geoms, key=lambda i: -camera.depth(data.geom_xpos[i])):
        _draw_geom(canvas, camera, model, data, i)
    return image.reduce(factor)


def _supersampling(height: int) -> int:
    """Factor by which a picture is drawn larger and then averaged down, for smooth edges: small pictures need more, and
    large ones take longer."""
    return 3 if height < 400 else 2


@functools.lru_cache(maxsize=4)
def _view(model: mujoco.MjModel) -> _View:
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    planes = [i for i in range(model.ngeom) if model.geom_type[i] == Geom.mjGEOM_PLANE]
    # MuJoCo's viewer hides groups from 3 on, and transparent geoms are invisible.
    drawn = tuple(
        i
        for i in range(model.ngeom)
        if i not in planes and model.geom_group[i] < 3 and _color(model, i)[3] > 0.05
    )
    ends = [(points - r, points + r) for points, r in (_outline(model, data, i) for i in drawn)]
    if not ends:  # nothing but a floor
        ends = [(np.zeros((1, 3)), np.ones((1, 3)))]
    low = np.min(np.concatenate([low for low, _ in ends]), axis=0)
    high = np.max(np.concatenate([high for _, high in ends]), axis=0)
    follows = _roaming_body(model)
    if not follows:
        low, high = _swept(model, data, low, high)
    floor = float(data.geom_xpos[planes[0], 2]) if planes else None
    if floor is not None and low[2] - floor > 0.5 * (high[2] - low[2]):
        floor = None  # so far below that the rest would be tiny
    return _View(_lies_flat(model, data), low, high, follows, floor, drawn)


def _lies_flat(model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    """True if all joints turn about the vertical, or slide horizontally."""
    upright = np.abs(data.xaxis[:, 2])
    wanted = {mujoco.mjtJoint.mjJNT_HINGE: 1.0, mujoco.mjtJoint.mjJNT_SLIDE: 0.0}
    kinds = [wanted.get(mujoco.mjtJoint(kind)) for kind in model.jnt_type]
    return bool(kinds) and all(
        want is not None and abs(axis - want) < 1e-3
        for want, axis in zip(kinds, upright, strict=True)
    )


def _roaming_body(model: mujoco.MjModel) -> int:
    """The body of the first joint, if that joint lets it leave the place: floating, or sliding without a stop. 0:
    none."""
    if not model.njnt:
        return 0
    slides = model.jnt_type[0] == mujoco.mjtJoint.mjJNT_SLIDE and not model.jnt_limited[0]
    floats = model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE
    return int(model.jnt_bodyid[0]) if floats or slides else 0


def _swept(model, data, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The box [low, high], enlarged by everything that the first hinge without a stop can move."""
    free = (model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) & (model.jnt_limited == 0)
    if not free.any():
        return low, high
    joint = int(np.argmax(free))
    anchor, axis = data.xanchor[joint], data.xaxis[joint]
    bodies = [b for b in range(model.nbody) if _descends(model, b, int(model.jnt_bodyid[joint]))]
    moving = [i for i in range(model.ngeom) if model.geom_bodyid[i] in bodies]
    far = [np.linalg.norm(data.geom_xpos[i] - anchor) + model.geom_rbound[i] for i in moving]
    reach = max(far, default=0.0) * np.sqrt(np.clip(1 - axis**2, 0, 1))  # none along the axis
    return np.minimum(low, anchor - reach), np.maximum(high, anchor + reach)


def _descends(model, body: int, ancestor: int) -> bool:
    while body not in (0, ancestor):
        body = int(model.body_parentid[body])
    return body == ancestor


def _camera(view: _View, data: mujoco.MjData, width: int, height: int) -> _Camera:
    corners = np.array(list(itertools.product(*zip(view.low, view.high, strict=True))))
    wide, high = np.ptp(_flat(corners, view.above), axis=0)
    if not view.above:
        high = view.high[2] - (view.low[2] if view.floor is None else view.floor)
    room = 1.15 if view.above and not view.follows else 1.7  # a robot jumps, a mechanism stays
    scale = min(height / (room * max(high, 1e-3)), width / (1.4 * max(wide, 1e-3)))
    focus = (view.low + view.high) / 2
    if view.follows:
        focus[:2] = data.xpos[view.follows, :2]
    center = np.array([width / 2, height / 2])
    if view.floor is not None and not view.above:  # the floor in the lower third
        focus[2], center[1] = view.floor, 0.78 * height
    return _Camera(view.above, focus, center, scale, height / scale)


def _flat(points: np.ndarray, above: bool) -> np.ndarray:
    """[..., 3] metres to [..., 2] metres, right and up in the picture."""
    if above:
        return points[..., :2]
    return points[..., [0, 2]] + points[..., 1:2] * _OBLIQUE


def _draw_floor(draw, camera: _Camera, view: _View, width: int, height: int) -> None:
    """Lines along both axes, so that motion shows, and numbers at every fifth."""
    x, y, _ = camera.focus
    z = camera.focus[2] if view.floor is None else view.floor
    depth = (0.6 if view.above else 0.93) * camera.span
    if not view.above:
        horizon = camera.pixels(np.array([x, y + depth, z]))[1]
        draw.rectangle([0, horizon, width, height], fill=_GROUND)
    thin = max(1, height // 360)
    step = _round_number(0.27 * camera.span)
    reach = 0.6 * width / camera.scale + (0.0 if view.above else depth)
    for tick in _ticks(x - reach, x + reach, step):
        across = tick * step
        ends = camera.pixels(np.array([[across, y - depth, z], [across, y + depth, z]]))
        draw.line([*map(tuple, ends)], fill=_GRID, width=thin * (2 if tick % 5 == 0 else 1))
        if tick % 5 == 0:
            text = f"{across:.{0 if 5 * step >= 1 else 1}f} m"
            anchor = camera.pixels(np.array([across, y - 0.35 * camera.span, z]))
            draw.text(tuple(anchor), text, fill=_INK, font=_font(height // 28), anchor="ma")
    for tick in _ticks(y - depth, y + depth, step):
        height_px = camera.pixels(np.array([x, tick * step, z]))[1]
        draw.line([(0, height_px), (width, height_px)], fill=_GRID, width=thin)


def _ticks(low: float, high: float, step: float) -> range:
    return range(int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9)) + 1)


def _round_number(x: float) -> float:
    """The largest of 1, 2, 5, 10 and so on that is not above x."""
    power = 10.0 ** np.floor(np.log10(x))
    return float(max(m * power for m in (1, 2, 5) if m * power <= x * (1 + 1e-9)))


def _draw_shadow(draw, camera: _Camera, model, data, i: int, floor: float) -> None:
    points, radius = _outline(model, data, i)
    points = points * [1.0, 1.0, 0.0] + [0.0, 0.0, floor]
    _fill(draw, camera.pixels(points), 0.6 * radius * camera.scale, (196, 200, 200))


def _draw_geom(draw, camera: _Camera, model, data, i: int) -> None:
    # Farther parts are paler, as through air.
    haze = (
        0.0 if camera.above else 0.25 * np.clip(0.5 + 1.5 * camera.depth(data.geom_xpos[i]), 0, 1)
    )
    color = 255 * _color(model, i)[:3] * (1 - haze) + haze * np.array(_SKY)
    if model.geom_type[i] == Geom.mjGEOM_BOX:
        for corners, light in _visible_faces(model, data, i, camera.away):
            _fill(draw, camera.pixels(corners), 0.0, _shade(color, light))
        return
    points, radius = _outline(model, data, i)
    _fill(draw, camera.pixels(points), radius * camera.scale, _shade(color, 1.0))


def _color(model: mujoco.MjModel, i: int) -> np.ndarray:
    """Red, green, blue, opacity of a geom, each in [0, 1]."""
    material = model.geom_matid[i]
    # As in MuJoCo: a geom's own colour goes before its material's, unless it is the default grey.
    own = model.geom_rgba[i]
    return own if material < 0 or np.any(own != [0.5, 0.5, 0.5, 1]) else model.mat_rgba[material]


def _visible_faces(model, data, i: int, away) -> Iterator[tuple[np.ndarray, float]]:
    """Corners [4, 3] of each face of a box that a viewer who looks `away` sees, and how light it is: the more so, the
    more it faces upwards."""
    rotation, position, half = (
        data.geom_xmat[i].reshape(3, 3),
        data.geom_xpos[i],
        model.geom_size[i],
    )
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
