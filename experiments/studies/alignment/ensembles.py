"""One reward model against an ensemble of four: the least score, and the mean less the variance.

Coste et al. 2023, "Reward model ensembles help mitigate overoptimization". https://arxiv.org/abs/2310.02743
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agents.tokens.reward import Reward
from agents.tokens.reward_sets import Agreement, ensemble
from experiments.pages.markdown import table
from experiments.studies import figures
from experiments.studies.alignment import curves, overoptimisation
from experiments.studies.alignment.models import best_by, trained
from experiments.studies.alignment.settings import BEST, LEARNT, MODELS, Sizes
from experiments.studies.alignment.training import learn_from
from experiments.studies.study import Experiment, Figure, Say

MEMBERS = 4
_HOW: dict[str, Agreement] = {"least": "min", "mean less variance": "mean-variance"}


def _cell(sizes: Sizes, say: Say, how: Agreement) -> dict[str, Any]:
    members = [trained(sizes, sizes.few_pairs, member=i) for i in range(MEMBERS)]
    say(f"agreement of members {[round(float(np.mean(m.agreement)), 3) for m in members]}")
    reward = ensemble([Reward(member.model.score) for member in members], how)

    def score(params: Any, prompts: Any, responses: Any, lengths: Any) -> Any:
        return reward.score(params, prompts, responses, lengths)

    params = tuple(member.params for member in members)
    best = best_by(score, params, sizes)
    n = 2 ** np.arange(int(np.log2(sizes.best_of)) + 1)
    _, learnt = learn_from(score, params, sizes, say)
    return {
        "agreement": [member.agreement for member in members],
        "best_of_n": {"n": n, "gold": best.gold[:, n - 1]},
        "learnt": learnt,
    }


EXPERIMENT = Experiment(
    "ensembles",
    {name: partial(_cell, how=how) for name, how in _HOW.items()},
    MODELS + BEST + LEARNT,
)


def _cells(numbers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"one model": numbers["overoptimisation"]["few"], **numbers["ensembles"]}


def draw(numbers: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws figure 4 at `path`."""
    figure = figures.empty(13.5, 4.2)
    best, distance, time = figure.subplots(1, 3)
    for (name, cell), colour in zip(_cells(numbers).items(), curves.COLOURS, strict=False):
        learnt = cell["learnt"]
        curves.draw_seeds(best, cell["best_of_n"]["n"], cell["best_of_n"]["gold"], colour, name)
        curves.draw_seeds(distance, curves.distance(learnt["kl"]), learnt["gold"], colour, name)
        curves.draw_seeds(time, learnt["marks"], learnt["gold"], colour, name)
    gold = "share of positions right"
    figures.panel(best, "Best of n", "n", gold)
    best.set_xscale("log", base=2)
    best.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    figures.panel(distance, "Reinforcement, against distance", "√KL to the first policy", gold)
    figures.panel(time, "Reinforcement, against iterations", "iterations", gold)
    best.legend(frameon=False, fontsize=8.5)
    figures.save(figure, path)


def words(numbers: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the lines below figure 4."""
    rows = []
    for name, cell in _cells(numbers).items():
        learnt, best = cell["learnt"], cell["best_of_n"]
        (at, _, highest, _), (best_at, _, best_highest, best_last) = (
            curves.peak(x["gold"]) for x in (learnt, best)
        )
        rows.append(
            [
                name,
                f"{best_highest:.2f} (n = {best['n'][best_at]})",
                f"{best_last:.2f}",
                f"{highest:.2f} (iteration {learnt['marks'][at]})",
                curves.span(np.asarray(learnt["gold"])[:, -1]),
                f"{curves.mean(learnt['kl'])[-1]:.1f}",
            ]
        )
    pairs = numbers["overoptimisation"]["few"]["pairs"]
    head = [
        "proxy",
        "best of n: highest",
        f"n = {best['n'][-1]}",
        "GRPO: highest",
        "end",
        "KL in the end",
    ]
    return [
        f"{MEMBERS} models of the same {pairs} pairs, which all begin with the policy's layers and see the pairs in "
        "other orders: what they have in common are their pairs' mistakes. GRPO without a KL penalty; the variance "
        "has the weight 1/2. Gold, means over seeds (lowest to highest).",
        "",
        *table(head, rows, str),
    ]


FIGURE = Figure(
    "4",
    "ensembles",
    "4. One model and four",
    (overoptimisation.EXPERIMENT, EXPERIMENT),
    draw,
    words,
)
