"""Scalars from TensorBoard's event files."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.console.suggest import nearest

PREFIX = "events.out.tfevents."
Point = tuple[float, float, float]  # step, seconds, value
_FLOATS = {1: ("<f", "float_val"), 2: ("<d", "double_val")}  # TensorFlow's DataType


@dataclasses.dataclass(frozen=True)
class TagSeries:
    """The points of a tag in event files."""

    tag: str
    points: list[Point]
    notes: list[str]
    others: frozenset[str]  # all tags there are


@dataclasses.dataclass
class _Tag:
    """The points of a tag read so far."""

    points: list[Point] = dataclasses.field(default_factory=list)
    others: int = 0  # points that are no single number
    expired: int = 0
    file: int = -1  # in which the last point was


def read(folder: Path, tags: Sequence[str]) -> TagSeries:
    """Reads the points of the first of `tags` that the event files of a folder hold.

    A run that was taken up again leaves several files: they come in the order in which they were begun, and seconds
    count from the first. Points at or behind the step from which it went on are expired, as TensorBoard has it: that
    step is told by the event that opens the later file (tensorboardX's and PyTorch's `purge_step`), or is the first
    step of the tag in the later file. Raises ValueError, in one line, where there is no point.
    """
    files = []
    for path in sorted(folder.glob(PREFIX + "*")):
        events = list(_events(path))
        files.append((events[0].wall_time if events else math.inf, events))
    files.sort(key=lambda file: file[0])
    points_of = {tag: _Tag() for tag in tags}
    there: set[str] = set()
    for number, (_, events) in enumerate(files):
        for event in events:
            if _restarts(event):
                for of_tag in points_of.values():
                    _expire(of_tag, event.step)
            for value in event.summary.value:
                there.add(value.tag)
                if value.tag in points_of:
                    _add(points_of[value.tag], event, value, number, files[0][0])
    for tag, of_tag in points_of.items():
        if of_tag.points:
            return TagSeries(tag, of_tag.points, _notes(folder, of_tag), frozenset(there))
    for tag in tags:
        if tag in there:
            raise ValueError(
                f"{folder} holds {tag}, but not as single numbers of type float or double"
            )
    near = nearest(tags[0], there)
    known = f"there is {near}" if near else "its event files hold no metric at all"
    raise ValueError(f"{folder} has no metric {tags[0]}; {known}")


def _restarts(event: Any) -> bool:
    return event.HasField("session_log") and event.session_log.status == 1  # SessionLog.START


def _add(of_tag: _Tag, event: Any, value: Any, file: int, begin: float) -> None:
    scalar = _scalar(value)
    if scalar is None:
        of_tag.others += 1
        return
    if file != of_tag.file:
        _expire(of_tag, event.step)
    of_tag.file = file
    of_tag.points.append((event.step, event.wall_time - begin, scalar))


def _expire(of_tag: _Tag, step: int) -> None:
    kept = [point for point in of_tag.points if point[0] < step]
    of_tag.expired += len(of_tag.points) - len(kept)
    of_tag.points = kept


def _notes(folder: Path, of_tag: _Tag) -> list[str]:
    notes = []
    if of_tag.others:
        notes.append(f"{folder}: {of_tag.others} points are no single numbers and left out")
    if of_tag.expired:
        notes.append(
            f"{folder}: {of_tag.expired} points do not count, as the run was taken up again before them"
        )
    return notes


def _events(path: Path) -> Iterator[Any]:
    try:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorboardX.proto.event_pb2 import Event
    except ImportError:
        raise ValueError(f"{path} is TensorBoard's: pip install tensorboardX to read it") from None
    try:
        for payload in framed(path.read_bytes()):
            yield Event.FromString(payload)
    except DecodeError:
        raise ValueError(f"{path} is damaged: its content is not events") from None


def framed(content: bytes) -> Iterator[bytes]:
    """Yields the payloads of TFRecords: length, its checksum, payload, its checksum; the last record may be half
    written."""
    at = 0
    while at + 12 <= len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        if at + 16 + size > len(content):
            return
        yield content[at + 12 : at + 12 + size]
        at += 16 + size


def _scalar(value: Any) -> float | None:
    """Returns a scalar, which TensorFlow 2 writes as a tensor of no dimension; None for images, histograms and the
    like."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return value.simple_value
    if kind != "tensor" or value.tensor.dtype not in _FLOATS:
        return None
    form, listed = _FLOATS[value.tensor.dtype]
    content = value.tensor.tensor_content
    if not content:
        numbers = getattr(value.tensor, listed)
        return numbers[0] if len(numbers) == 1 else None
    return struct.unpack(form, content)[0] if len(content) == struct.calcsize(form) else None
