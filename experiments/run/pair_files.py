"""Pairs of one's own, a JSON object a line: {"prompt": "3 1 2 =", "chosen": "1 2 3", "rejected": "1 3 2"}

Prompts and responses are in the task's notation, token names with blanks between; a stop token that is left out is
added. Optional numbers: `weight` (of the pair in the loss; 1) and `margin` (by which a reward model's score of the
chosen response should lead; 0).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents.tokens.pairs import Pairs
from envs.tokens import TokenEnv
from experiments.run import schema

_LINE = schema.Table(
    {name: schema.Text(1) for name in ("prompt", "chosen", "rejected")},
    {"weight": schema.Number(0.0), "margin": schema.Number()},
)
_LISTED = 5  # further bad lines that the message names


def read_pairs(file: Path, env: TokenEnv) -> Pairs:
    """Returns the pairs of a file, every line of which has been checked.

    Raises OSError where it cannot be read, and ValueError with one line: the first bad line's number and fault, and the
    numbers of others.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{file} cannot be read: it is not text in UTF-8") from None
    rows, faults = [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_row(line, env))
        except ValueError as error:
            faults[number] = str(error)
    if faults:
        (first, fault), *others = faults.items()
        numbers = [str(number) for number, _ in others]
        more = ", ".join(numbers[:_LISTED]) + (", ..." if len(numbers) > _LISTED else "")
        rest = f"; {len(numbers)} more bad lines: {more}" if numbers else ""
        raise ValueError(f"{file}, line {first}: {fault}{rest}")
    if not rows:
        raise ValueError(f"{file} has no pairs in it")
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    return Pairs(*jax.tree.map(jnp.asarray, columns))


def _row(line: str, env: TokenEnv) -> tuple[Any, ...]:
    """The fields of one pair, in the order of `Pairs`."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    fault = _LINE.fault(value, "")
    if fault:
        raise ValueError(fault)
    prompt = _named("prompt", env.encode_prompt, value)
    chosen, chosen_length = _named("chosen", env.encode_response, value)
    rejected, rejected_length = _named("rejected", env.encode_response, value)
    if chosen_length == rejected_length and np.array_equal(chosen, rejected):
        raise ValueError("chosen and rejected are the same response")
    lengths = np.int32(chosen_length), np.int32(rejected_length)
    numbers = np.float32(value.get("weight", 1.0)), np.float32(value.get("margin", 0.0))
    return prompt, chosen, rejected, *lengths, *numbers


def _named(field: str, encode: Any, value: dict[str, Any]) -> Any:
    try:
        return encode(value[field])
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None
