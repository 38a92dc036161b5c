"""Data sets of reasoning-gym, learned from the base model: GRPO on each, and other learners on one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pages.markdown import table
from experiments.studies import figures
from experiments.studies.alignment import curves
from experiments.studies.study import Experiment, Figure, Numbers, Say
from experiments.studies.text import base
from experiments.studies.text.settings import COMPARED, FULL, LEARNED, LEARNERS, LEARNT, Sizes
from experiments.studies.text.training import curve, from_base


def _cell(sizes: Sizes, say: Say, algo: str, dataset: str, seed: int) -> dict[str, Any]:
    found = from_base(sizes, algo, dataset, say)
    return curve(found, seed, sizes.parts, sizes.prompts, say)


def _experiment(algo: str, dataset: str) -> Experiment:
    """One learner on one data set; a cell is a seed."""
    cells = {
        str(seed): partial(_cell, algo=algo, dataset=dataset, seed=seed)
        for seed in range(FULL.seeds)
    }
    return Experiment(f"{algo}-{dataset}", cells, LEARNT)


OF_DATASETS = {name: _experiment("grpo", name) for name in LEARNED}
OF_LEARNERS = {
    algo: OF_DATASETS[COMPARED] if algo == "grpo" else _experiment(algo, COMPARED)
    for algo in LEARNERS
}


def over_seeds(cells: dict[str, Any], name: str) -> list[list[float]]:
    """Returns a curve of each seed, [seeds][marks]."""
    return [cell[name] for cell in cells.values()]


def row(name: str, cells: dict[str, Any]) -> list[str]:
    """Returns a line of a table: from where to where, and in how long."""
    first, last = (
        [[c[k][at] for c in cells.values()] for k in ("pass_at_1", "pass_at_8")] for at in (0, -1)
    )
    kl = [c["kl_to_reference"][-1] for c in cells.values()]
    seconds = np.mean([c["seconds"] for c in cells.values()])
    return [
        name,
        curves.span(first[0]),
        curves.span(last[0]),
        f"{np.mean(first[1]):.2f}",
        f"{np.mean(last[1]):.2f}",
        f"{np.mean(kl):.1f}",
        f"{seconds:.0f} s",
    ]


_CLEAR = 0.05  # a rise of pass@1
HEAD = ["", "pass@1 at first", "pass@1", "pass@8 at first", "pass@8", "KL", "time"]


def _draw(numbers: Numbers, path: Path, names: dict[str, str], title: str) -> None:
    figure = figures.empty(8, 4.5)
    ax = figure.subplots()
    for (key, name), colour in zip(names.items(), curves.COLOURS, strict=False):
        cells = numbers[key]
        marks = next(iter(cells.values()))["marks"]
        share = np.asarray(marks) / marks[-1]
        curves.draw_seeds(ax, share, over_seeds(cells, "pass_at_1"), colour, name)
    figures.panel(ax, title, "share of the training", "pass@1, held-out questions")
    ax.set_ylim(0, 1)
    ax.legend(frameon=False, fontsize=8.5)
    figures.save(figure, path)


def draw_datasets(numbers: Numbers, path: Path) -> None:
    """Draws pass@1 of GRPO on each data set at `path`."""
    names = {experiment.name: name for name, experiment in OF_DATASETS.items()}
    _draw(numbers, path, names, "GRPO from the base model")


def draw_learners(numbers: Numbers, path: Path) -> None:
    """Draws pass@1 of several learners on one data set at `path`."""
    names = {experiment.name: algo for algo, experiment in OF_LEARNERS.items()}
    _draw(numbers, path, names, COMPARED)


def words_datasets(numbers: Numbers) -> list[str]:
    """Returns the table of data sets."""
    rows = [row(name, numbers[x.name]) for name, x in OF_DATASETS.items()]
    cell = next(iter(numbers[next(iter(OF_DATASETS.values())).name].values()))
    sizes = cell["sizes"]
    return [
        f"{cell['marks'][-1]} iterations of {sizes['responses']} responses, in groups of eight, at a learning rate of "
        f"{sizes['learning_rate']:g}, without a KL penalty. Means over seeds (lowest to highest); eight samples at "
        f"temperature 1 to each of {sizes['prompts']} held-out questions, which neither the base "
        f"model nor its learners "
        "are trained on. Time: one seed's training, without compilation and measurements.",
        "",
        *table(HEAD, rows, str),
        *_flat(numbers),
    ]


def _flat(numbers: Numbers) -> list[str]:
    """Returns a line on data sets that are not learned."""
    flat = [name for name, x in OF_DATASETS.items() if _rise(numbers[x.name]) < _CLEAR]
    if not flat:
        return []
    return [
        "",
        f"On {' and '.join(flat)} it does not rise clearly. GRPO chooses among answers that the model gives anyway; so "
        "many responses are too few to teach it a skill that it lacks, and gradient steps of little signal cost some "
        "of what it had: curves fall at first, while the learning rate is high.",
    ]


def _rise(cells: dict[str, Any]) -> float:
    curve = over_seeds(cells, "pass_at_1")
    return float(np.mean([x[-1] - x[0] for x in curve]))


def words_learners(numbers: Numbers) -> list[str]:
    """Returns the table of learners."""
    rows = [row(algo, numbers[x.name]) for algo, x in OF_LEARNERS.items()]
    return [
        f"Each learner on {COMPARED}, with the settings of the section above. PPO's critic begins with the model's "
        "layers; DPO's pairs are two samples of the base model to each question, one right and one wrong.",
        "",
        *table(HEAD, rows, str),
    ]


def words_base(numbers: Numbers) -> list[str]:
    """Returns the lines on the base model."""
    cell = numbers["base"]["model"]
    rows = [
        [name, f"{x['pass_at_1']:.2f}", f"{x['pass_at_8']:.2f}"]
        for name, x in cell["passes"].items()
    ]
    sizes = cell["sizes"]
    wrong = (
        f" Of the answers that it is trained on {sizes['wrong']:.0%} are those of other questions, as in a text that "
        "nobody has verified: it imitates right and wrong ones alike."
        if sizes.get("wrong")
        else ""
    )
    losses = ", ".join(f"{name} {x[-1]:.2f}" for name, x in cell["losses"].items())
    return [
        f"A transformer of {cell['parameters'] / 1e6:.2f} million parameters and {cell['vocabulary']} tokens (bytes, "
        "and a token for the words that all questions of a data set share), in the form of a Llama model. "
        f"{sizes['pretraining_steps']} gradient steps on questions and answers of all data sets together, then "
        f"{sizes['tuning_steps']} on the answers alone, of {sizes['base_responses']} texts each; last "
        f"losses in nats a token: "
        f"{losses}. {cell['seconds'] / 60:.0f} minutes.{wrong}",
        "",
        *table(["data set", "pass@1", "pass@8"], rows, str),
    ]


FIGURES = (
    Figure("base", "base", "The base model", (base.EXPERIMENT,), None, words_base),
    Figure(
        "datasets",
        "datasets",
        "GRPO on data sets of reasoning-gym",
        tuple(OF_DATASETS.values()),
        draw_datasets,
        words_datasets,
    ),
    Figure(
        "learners",
        "learners",
        "GRPO, PPO and DPO",
        tuple(OF_LEARNERS.values()),
        draw_learners,
        words_learners,
    ),
)
