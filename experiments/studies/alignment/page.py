"""The page made of the numbers: a section for each figure, with commands, commits and machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.pages import markdown
from experiments.run.provenance import short_commit
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
from experiments.studies.alignment.cells import Figure
from experiments.studies.alignment.record import COMMAND, Records, numbers_of, origins

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
# In this order they are computed: what shows most comes first.
ORDER = ("1", "5", "6", "9", "8", "7", "3", "4", "2")
_TITLE = "# Alignment\n"


def is_page(text: str) -> bool:
    """Tells that `page` wrote a text."""
    return text.startswith(_TITLE) and COMMAND in text


def ready(figure: Figure, records: Records) -> dict[str, dict[str, Any]] | None:
    """Returns the numbers that a figure shows; None where some are missing."""
    found = {x.name: numbers_of(records, x) for x in figure.experiments}
    return None if None in found.values() else found  # type: ignore[return-value]


def page(records: Records) -> str:
    """Returns the page with every figure whose numbers are there."""
    lines = [_TITLE.rstrip(), "", *_introduction(records)]
    for figure in FIGURES:
        numbers = ready(figure, records)
        if numbers is None:
            continue
        lines += ["", f"## {figure.title}", ""]
        if figure.draw is not None:
            lines += [f"![{figure.title}]({figure.file}.png)", ""]
        lines += figure.words(numbers)
        lines += ["", *_origin(figure, records)]
    return "\n".join(lines) + "\n"


def _introduction(records: Records) -> list[str]:
    sizes = [record["sizes"] for record in records.values()]
    if not sizes:
        return []
    first = sizes[0]
    return [
        f"Sorting {first['digits']} digits: the true reward (gold, the share of positions that are right) is known, "
        f"so what a learned one is worth can be measured. Policies begin with {first['imitation_steps']} gradient "
        f"steps of imitation; {first['seeds']} seeds, each with pairs and reward models of its own. Means over seeds.",
        "",
        *markdown.code([COMMAND, f"{COMMAND} --figures 1 6"]),
        "",
        "The numbers of every figure: numbers.json",
    ]


def _origin(figure: Figure, records: Records) -> list[str]:
    found: list[Mapping[str, Any]] = [r for x in figure.experiments for r in origins(records, x)]
    commits = list(dict.fromkeys(short_commit(r["commit"]) for r in found))
    machines = list(dict.fromkeys(_machine(r["machine"]) for r in found))
    commands = list(dict.fromkeys(f"{COMMAND} --figures {figure.name}" for _ in found))
    minutes = sum(r["seconds"] for r in found) / 60
    return [
        *markdown.code(commands),
        "",
        f"Commit {', '.join(commits)}; {'; '.join(machines)}; {minutes:.0f} minutes in all.",
    ]


def _machine(machine: Mapping[str, Any]) -> str:
    cores = f"{machine['cores']} core" + ("s" if machine["cores"] > 1 else "")
    return f"{machine['cpu']}, {cores}, device {machine['device']}"
