"""The parts of the study: an experiment has cells, each computed and kept apart, and a figure shows experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.studies.alignment.settings import Sizes

Say = Callable[[str], None]
Cell = Callable[[Sizes, Say], dict[str, Any]]  # computes the cell's numbers
Numbers = Mapping[str, Mapping[str, Any]]  # experiment, cell: its numbers, as read back from JSON


class Experiment(NamedTuple):
    """Cells by name, in the order in which they are computed."""

    name: str
    cells: Mapping[str, Cell]
    sizes: tuple[str, ...]
    """fields of `Sizes`, beside the common ones, whose change makes the numbers obsolete"""


class Figure(NamedTuple):
    """A section of the page."""

    name: str
    """on the command line: a number, or a word"""
    file: str
    """of the picture, without suffix"""
    title: str
    experiments: tuple[Experiment, ...]
    """those whose numbers it shows"""
    draw: Callable[[dict[str, dict[str, Any]], Path], None] | None
    """draws the picture; None: there is none"""
    words: Callable[[dict[str, dict[str, Any]]], list[str]]
    """the lines below the picture"""
