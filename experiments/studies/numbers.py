"""Numbers on disk: rounded, in JSON with a line for each list."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

_DIGITS = 4  # of the numbers on disk: more than a picture shows


def compact(record: dict[str, Any]) -> str:
    """Returns JSON with a line for each list of numbers."""
    return _json(record, 0) + "\n"


def rounded(x: Any) -> Any:
    """Arrays as lists, and floats to a few significant digits."""
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    x = x if isinstance(x, list) else np.asarray(x).tolist()
    if isinstance(x, list):
        return [rounded(v) for v in x]
    return float(f"{x:.{_DIGITS}g}") if isinstance(x, float) else x


def _json(x: Any, depth: int) -> str:
    if not isinstance(x, dict):
        return json.dumps(x)
    margin = " " * depth
    lines = [f"{margin} {json.dumps(k)}: {_json(v, depth + 1)}" for k, v in x.items()]
    return "{\n" + ",\n".join(lines) + f"\n{margin}}}"
