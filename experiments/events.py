"""Scalars from TensorBoard's event files."""

from __future__ import annotations

import difflib
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PREFIX = "events.out.tfevents."
Point = tuple[float, float, float]  # step, seconds, value
_FLOATS = {1: ("<f", "float_val"), 2: ("<d", "double_val")}  # TensorFlow's DataType


def read(folder: Path, tag: str) -> tuple[list[Point], int]:
    """The points of a tag in all event files of a folder, and how many were left out as no single float.

    A run that was resumed leaves several files: they come in the order in which they were begun, and seconds count
    from the first. Raises ValueError, in one line, where there is no point.
    """
    files = []
    for path in sorted(folder.glob(PREFIX + "*")):
        events = list(_events(path))
        files.append((events[0].wall_time if events else math.inf, events))
    files.sort(key=lambda file: file[0])
    points: list[Point] = []
    tags, others, begin = set(), 0, files[0][0]
    for event in (event for _, events in files for event in events):
        for value in event.summary.value:
            tags.add(value.tag)
            if value.tag != tag:
                continue
            scalar = _scalar(value)
            others += scalar is None
            if scalar is not None:
                points.append((event.step, event.wall_time - begin, scalar))
    if tag in tags and not points:
        raise ValueError(f"{folder} holds {tag}, but not as single numbers of type float or double")
    if not points:
        near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.3) or sorted(tags)[:5]
        there = f"there is {', '.join(near)}" if near else "its event files hold no metric at all"
        raise ValueError(f"{folder} has no metric {tag}; {there}")
    return points, others


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
        raise ValueError(f"{path} is damaged: what it holds are no events") from None


def framed(content: bytes) -> Iterator[bytes]:
    """TFRecord: length, its checksum, payload, its checksum; a last one may be half written."""
    at = 0
    while at + 12 <= len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        if at + 16 + size > len(content):
            return
        yield content[at + 12 : at + 12 + size]
        at += 16 + size


def _scalar(value: Any) -> float | None:
    """TensorFlow 2 writes scalars as tensors of no dimension. None for images, histograms and the like."""
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
