"""Where the credit comes from: a model of outcomes, a model of steps, the verifier's exact steps, a rule.

Lightman et al. 2023, "Let's verify step by step". https://arxiv.org/abs/2305.20050
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agents.tokens.reward import Reward
from envs.tokens.task import RewardKind
from experiments.pages.markdown import table
from experiments.studies import figures
from experiments.studies.alignment import curves
from experiments.studies.alignment.models import Kind, trained
from experiments.studies.alignment.overoptimisation import model_numbers
from experiments.studies.alignment.settings import BEST, MODELS, Sizes
from experiments.studies.alignment.training import learn_from
from experiments.studies.study import Experiment, Figure, Say

EPOCHS = 4  # of the models over half of the pairs


def _learned(sizes: Sizes, say: Say, kind: Kind) -> dict[str, Any]:
    found = trained(sizes, sizes.pairs // 2, kind=kind, epochs=EPOCHS)
    numbers = model_numbers(found, sizes)
    say(f"agreement {np.mean(found.agreement):.3f}")
    learnt = _learnt(sizes, say, Reward(found.model.score, found.params))
    return numbers | {"learnt": learnt}


def _own(sizes: Sizes, say: Say, kind: RewardKind) -> dict[str, Any]:
    return {"learnt": _learnt(sizes, say, None, kind)}


def _learnt(
    sizes: Sizes, say: Say, reward: Reward | None, kind: RewardKind = "share"
) -> dict[str, Any]:
    score, params = (None, None) if reward is None else reward
    rate, marks = sizes.step_learning_rate, sizes.step_marks
    return learn_from(score, params, sizes, say, learning_rate=rate, marks=marks, reward_kind=kind)[
        1
    ]


NAMES = {
    "outcome model": "ORM, learned",
    "process model": "PRM, learned",
    "exact steps": "exact credit of steps",
    "rule": "rule: form and outcome",
}
EXPERIMENT = Experiment(
    "step-rewards",
    {
        "outcome model": partial(_learned, kind="outcome"),
        "process model": partial(_learned, kind="process"),
        "exact steps": partial(_own, kind="process"),
        "rule": partial(_own, kind="rule"),
    },
    (*MODELS, *BEST, "responses", "step_learning_rate", "step_marks"),
)


def draw(numbers: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws figure 8 at `path`."""
    figure = figures.empty(13.5, 4.2)
    gold, exact, best = figure.subplots(1, 3)
    for (name, cell), colour in zip(numbers["step-rewards"].items(), curves.COLOURS, strict=False):
        learnt = cell["learnt"]
        curves.draw_seeds(gold, learnt["marks"], learnt["gold"], colour, NAMES[name])
        curves.draw_seeds(exact, learnt["marks"], learnt["exact"], colour, NAMES[name])
        if "best_of_n" in cell:
            n = cell["best_of_n"]["n"]
            curves.draw_seeds(best, n, cell["best_of_n"]["gold"], colour, NAMES[name])
    figures.panel(gold, "Gold", "iterations of GRPO", "share of positions right")
    figures.panel(exact, "All right", "iterations of GRPO", "share of responses")
    figures.panel(best, "Gold, best of n", "n", "share of positions right")
    best.set_xscale("log", base=2)
    best.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    gold.legend(frameon=False, fontsize=8.5)
    figures.save(figure, path)


def words(numbers: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the lines below figure 8."""
    rows = []
    for name, cell in numbers["step-rewards"].items():
        learnt = cell["learnt"]
        at, _, highest, _ = curves.peak(learnt["gold"])
        ends = [curves.span(np.asarray(learnt[key])[:, -1]) for key in ("gold", "exact")]
        agreement, best_of_n = "-", "-"
        if "best_of_n" in cell:
            agreement, best = curves.span(cell["agreement"]), cell["best_of_n"]
            best_at, _, most, _ = curves.peak(best["gold"])
            best_of_n = f"{most:.2f} (n = {best['n'][best_at]})"
        kl = f"{curves.mean(learnt['kl'])[-1]:.1f}"
        highest_at = f"{highest:.2f} (iteration {learnt['marks'][at]})"
        rows.append([NAMES[name], agreement, best_of_n, highest_at, *ends, kl])
    gold = (
        "best of n: highest gold",
        "GRPO: highest gold",
        "gold in the end",
        "all right in the end",
    )
    head = ["reward", "agrees with gold", *gold, "KL"]
    return [
        "GRPO on four rewards. ORM: a model of whether a whole response is right. PRM: a model of whether each token "
        "is right so far, a response's score the least of its probabilities. Both are trained on the same samples, "
        "the verifier's judgement as labels. Exact credit: that judgement itself, the share of tokens before the "
        "first wrong one. Rule: -1 for a wrong form, 0.2 for a wrong answer, 1 for a right one. No KL penalty.",
        "",
        *table(head, rows, str),
    ]


FIGURE = Figure("8", "step-rewards", "8. Outcomes, steps, rules", (EXPERIMENT,), draw, words)
