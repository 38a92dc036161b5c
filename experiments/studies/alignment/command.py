"""The study as a command: computes what is missing, draws, and writes the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.console import outputs
from experiments.console.suggest import suggestion
from experiments.studies.alignment.cells import Figure
from experiments.studies.alignment.page import FIGURES, ORDER, is_page, page, ready
from experiments.studies.alignment.record import COMMAND, FILE, compute, is_numbers, stored
from experiments.studies.alignment.settings import FULL, QUICK


def chosen(names: Sequence[str]) -> list[Figure]:
    """Returns the figures of these names, or all, in the order in which they are computed.

    Raises ValueError with one line for a name that is none.
    """
    known = {figure.name: figure for figure in FIGURES}
    for name in names:
        if name not in known:
            raise ValueError(f"--figures {name} is none: {suggestion(name, known)}")
    return [known[name] for name in ORDER if not names or name in names]


def run(
    names: Sequence[str], out: Path, *, quick: bool, fresh: bool, say: Callable[[str], None]
) -> None:
    """Computes the cells that some figures need and `out` lacks, then draws all figures and writes the page.

    After each figure everything that is there is written, so a run that was stopped goes on where it was. Raises
    ValueError in one line for bad input, and where `out` has files of somebody else.
    """
    wanted = chosen(names)
    sizes = QUICK if quick else FULL
    ours = {outputs.PAGE: is_page, FILE: is_numbers}
    pictures = [f"{figure.file}.png" for figure in FIGURES if figure.draw is not None]
    outputs.check(out, {**ours, **outputs.figures(out, pictures)})
    stored(out)
    done: set[str] = set()
    for figure in wanted:
        changed: set[str] = set()
        for experiment in figure.experiments:
            if experiment.name in done:
                continue
            done.add(experiment.name)
            command = f"{COMMAND} --figures {figure.name}" + (" --quick" if quick else "")
            if compute(experiment, sizes, out, say, command=command, fresh=fresh):
                changed.add(experiment.name)
        publish(
            out, [x for x in FIGURES if x is figure or changed & {e.name for e in x.experiments}]
        )
        say(f"figure {figure.name} is in {out}")


def publish(out: Path, drawn: Sequence[Figure] = FIGURES) -> None:
    """Writes the page of all numbers in `out`, and draws figures: those of `drawn`, and those without a picture."""
    records = stored(out)
    ours = {outputs.PAGE: is_page, FILE: is_numbers}
    with outputs.staged(out, ours) as fresh:
        outputs.write(fresh / outputs.PAGE, page(records))
        for figure in FIGURES:
            numbers = ready(figure, records)
            if numbers is None or figure.draw is None:
                continue
            picture = f"{figure.file}.png"
            if figure in drawn or not (out / picture).exists():
                figure.draw(numbers, fresh / picture)
