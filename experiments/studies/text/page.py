"""The study as a value: its sections, and the first lines of its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.pages import markdown
from experiments.studies.study import FILE, Study
from experiments.studies.text import datasets, games
from experiments.studies.text.settings import COMMON, FULL, QUICK

FIGURES = (*datasets.FIGURES, games.FIGURE)


def _introduction(sizes: Mapping[str, Any]) -> list[str]:
    return [
        "A base model is made here, from the first random weight to a folder that `--model` and `transformers` read, "
        "and reinforcement learning goes on from it, on questions that the package reasoning-gym generates and "
        "verifies.",
        "",
        *markdown.code([STUDY.command, f"{STUDY.command} --figures datasets"]),
        "",
        f"All numbers: {FILE}",
    ]


STUDY = Study(
    name="text",
    title="Text tasks",
    figures=FIGURES,
    order=("base", "datasets", "turns", "learners"),
    full=FULL,
    quick=QUICK,
    common=COMMON,
    introduction=_introduction,
)
