"""The study as a value: its figures, and the first lines of its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.pages import markdown
from experiments.studies.alignment import (
    ensembles,
    family,
    offline,
    overoptimisation,
    pair_losses,
    penalties,
    scaling,
    step_rewards,
)
from experiments.studies.alignment.settings import COMMON, FULL, QUICK
from experiments.studies.study import FILE, Figure, Study

FIGURES: tuple[Figure, ...] = (
    overoptimisation.FIGURE_1,
    scaling.FIGURE,
    penalties.FIGURE,
    ensembles.FIGURE,
    overoptimisation.FIGURE_5,
    pair_losses.FIGURE,
    offline.FIGURE,
    step_rewards.FIGURE,
    family.FIGURE,
)


def _introduction(sizes: Mapping[str, Any]) -> list[str]:
    return [
        f"Sorting {sizes['digits']} digits: the true reward (gold, the share of positions that are right) is known, "
        f"so what a learned one is worth can be measured. Policies begin with {sizes['imitation_steps']} gradient "
        f"steps of imitation; {sizes['seeds']} seeds, each with pairs and reward models of its own. Means over seeds.",
        "",
        *markdown.code([STUDY.command, f"{STUDY.command} --figures 1 6"]),
        "",
        f"The numbers of every figure: {FILE}",
    ]


STUDY = Study(
    name="alignment",
    title="Alignment",
    figures=FIGURES,
    order=("1", "5", "6", "9", "8", "7", "3", "4", "2"),
    full=FULL,
    quick=QUICK,
    common=COMMON,
    introduction=_introduction,
)
