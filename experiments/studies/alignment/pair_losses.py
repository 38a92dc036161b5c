"""Log-probabilities of chosen and rejected responses under DPO, IPO, and DPO with an imitation term.

Razin et al. 2024, "Unintentional unalignment: likelihood displacement in direct preference optimization",
https://arxiv.org/abs/2410.08847; Pal et al. 2024, https://arxiv.org/abs/2402.13228
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from agents.core.preference_losses import preference_metrics
from agents.tokens.dpo import DPO, DPOConfig
from agents.tokens.generation import Generated
from agents.tokens.ipo import IPO, IPOConfig
from agents.tokens.pairs import Pairs, corrupted, map_parts, ranked_pairs
from agents.tokens.preference import PreferencePolicy
from agents.tokens.rollout import solution_lengths
from experiments.pages.markdown import table
from experiments.studies import figures
from experiments.studies.alignment import curves
from experiments.studies.alignment.models import pairs_of, writer
from experiments.studies.alignment.policies import (
    alone,
    begin,
    config_of,
    gold_of,
    measure,
    over_seeds,
    policies,
    seed_keys,
)
from experiments.studies.alignment.settings import Sizes
from experiments.studies.alignment.training import train
from experiments.studies.study import Experiment, Figure, Say

FILE = "study.jsonl"  # a name of pairs that are given
_MEASURED = 512  # pairs

Make = Callable[[Sizes, Pairs, int], PreferencePolicy]


def dpo(sizes: Sizes, pairs: Pairs, steps: int, **settings: Any) -> DPO:
    """Returns DPO on given pairs for so many gradient steps."""
    return DPO(_config(DPOConfig, sizes, steps, settings), sizes.env(), None, pairs)


def ipo(sizes: Sizes, pairs: Pairs, steps: int) -> IPO:
    """Returns IPO on given pairs for so many gradient steps."""
    return IPO(_config(IPOConfig, sizes, steps, {}), sizes.env(), None, pairs)


def _config(kind: Any, sizes: Sizes, steps: int, settings: dict[str, Any]) -> Any:
    responses = 2 * sizes.step_pairs
    tokens = steps * responses * (sizes.digits + 1)
    return config_of(
        kind, sizes, num_responses=responses, total_steps=tokens, pairs=FILE, **settings
    )


LEARNERS: dict[str, Make] = {"DPO": dpo, "IPO": ipo, "DPO + SFT": partial(dpo, sft_weight=1.0)}


def one_digit(sizes: Sizes) -> Pairs:
    """Returns samples against themselves with one digit changed, the better one by gold chosen, [seeds, pairs, ...]."""
    learner = writer(sizes)
    env = learner.env

    def make(policy: Any, key: PRNGKeyArray) -> Pairs:
        prompt_key, sample_key, change_key, label_key = jax.random.split(key, 4)
        prompts = env.prompts(prompt_key, sizes.offline_pairs)
        found = learner.respond(alone(policy), prompts, sample_key)
        tokens, _ = corrupted(change_key, found.tokens, found.length, env.vocabulary_size, env.stop)
        changed = Generated(tokens, found.logp, found.length)
        scores = jnp.stack([gold_of(sizes, prompts, x)[0] for x in (found, changed)])
        return ranked_pairs(prompts, found, changed, scores, label_key)

    return over_seeds(make)(policies(sizes), seed_keys(sizes, 8))


def expert(sizes: Sizes) -> Pairs:
    """Returns the expert's response against a sample; samples that are right train nothing. [seeds, pairs, ...]"""
    learner = writer(sizes)

    def make(policy: Any, key: PRNGKeyArray) -> Pairs:
        prompt_key, sample_key = jax.random.split(key)
        prompts = learner.env.prompts(prompt_key, sizes.offline_pairs)
        found = learner.respond(alone(policy), prompts, sample_key)
        right = learner.env.solutions(prompts)
        length = solution_lengths(right, learner.env.stop)
        _, correct = gold_of(sizes, prompts, found)
        weight = 1.0 - correct.astype(jnp.float32)
        return Pairs(prompts, right, found.tokens, length, found.length, weight)

    return over_seeds(make)(policies(sizes), seed_keys(sizes, 9))


SOURCES: dict[str, Callable[[Sizes], Pairs]] = {
    "on-policy": lambda sizes: pairs_of(sizes, sizes.offline_pairs),
    "one digit": one_digit,
    "expert": expert,
}


@functools.lru_cache(1)
def _all_pairs(sizes: Sizes) -> Pairs:
    """The sets of all sources, one after another: leaves [sources x seeds, pairs, ...]."""
    sets = [source(sizes)._replace(margin=None) for source in SOURCES.values()]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *sets)


def begin_pairs(learner: PreferencePolicy, policy: Any, key: PRNGKeyArray) -> Any:
    """Returns the first state of a learner from given pairs, with an imitated policy as reference."""
    state = begin(learner, policy, key)
    logps = map_parts(
        lambda part: jnp.stack(learner.sequence_logps(state.reference, part), axis=1),
        state.pairs,
        learner.step_pairs,
    )
    return state.replace(reference_logp=logps.T)


def measure_pairs(
    learner: PreferencePolicy, state: Any, key: PRNGKeyArray, sizes: Sizes
) -> dict[str, Array]:
    """Returns what `measure` does, and means over training pairs; `right` is the log-probability of the right answer to
    held-out prompts."""
    few = jax.tree.map(lambda x: x[:_MEASURED], state.pairs)
    chosen, rejected = learner.sequence_logps(state.params, few)
    reference = state.reference_logp[:, :_MEASURED]
    beta, trains = learner.config.beta, few.weight > 0
    found = preference_metrics(chosen, rejected, reference[0], reference[1], beta, trains)
    env = learner.env
    prompts = env.held_out(key, sizes.prompts)
    right = env.solutions(prompts)
    length = solution_lengths(right, learner.env.stop)
    both = Pairs(prompts, right, right, length, length, jnp.ones(sizes.prompts))
    return measure(learner, state, key, sizes) | {
        "chosen": found.logp_chosen,
        "rejected": found.logp_rejected,
        "margin": found.margin,
        "accuracy": found.accuracy,
        "right": jnp.mean(learner.sequence_logps(state.params, both)[0]),
    }


def _cell(sizes: Sizes, say: Say, make: Make) -> dict[str, Any]:
    marks = sizes.offline_marks
    pairs = _all_pairs(sizes)
    _, found = train(
        lambda own: make(sizes, own, marks[-1]),
        pairs,
        sizes,
        marks,
        say,
        start=begin_pairs,
        measured=measure_pairs,
    )
    rows = len(SOURCES), sizes.seeds
    share = np.mean(np.asarray(pairs.weight) > 0, axis=1).reshape(rows)
    common = {"marks": found.pop("marks"), "seconds": found.pop("seconds")}
    curves_of = {name: x.reshape(*rows, -1) for name, x in found.items()}
    return common | {
        source: {"share": share[i]} | {name: x[i] for name, x in curves_of.items()}
        for i, source in enumerate(SOURCES)
    }


EXPERIMENT = Experiment(
    "pair-losses",
    {name: partial(_cell, make=make) for name, make in LEARNERS.items()},
    ("offline_pairs", "offline_marks"),
)


def draw(numbers: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws figure 6 at `path`."""
    figure = figures.empty(12, 9)
    cells = numbers["pair-losses"]
    axes = figure.subplots(len(cells), len(SOURCES), sharex=True, sharey="col")
    for row, (name, cell) in zip(axes, cells.items(), strict=True):
        for ax, source in zip(row, SOURCES, strict=True):
            found = cell[source]
            for line, colour in (("chosen", curves.COLOURS[0]), ("rejected", curves.COLOURS[1])):
                curves.draw_seeds(ax, cell["marks"], found[line], colour, line)
            curves.draw_seeds(
                ax, cell["marks"], found["right"], curves.COLOURS[2], "right answer, new prompts"
            )
            steps = "gradient steps" if ax in axes[-1] else ""
            label = "log-probability, nats" if ax is row[0] else ""
            figures.panel(ax, f"{name}, {source} pairs", steps, label)
    axes[0, 0].legend(frameon=False, fontsize=8.5)
    figures.save(figure, path)


def words(numbers: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the lines below figure 6."""
    rows = []
    for name, cell in numbers["pair-losses"].items():
        for source in SOURCES:
            found = {key: curves.mean(x) for key, x in cell[source].items() if key != "share"}
            cells = [
                f"{found[key][0]:.1f} to {found[key][-1]:.1f}" for key in ("chosen", "rejected")
            ]
            shares = [
                f"{found[key][0]:.2f} to {found[key][-1]:.2f}"
                for key in ("accuracy", "exact", "gold")
            ]
            falls = all(found[key][-1] < found[key][0] for key in ("chosen", "rejected"))
            rows.append([name, source, *cells, f"{found['margin'][-1]:.2f}", *shares, falls])
    head = [
        "loss",
        "pairs",
        "log p chosen",
        "log p rejected",
        "margin",
        "accuracy",
        "exact",
        "gold",
    ]
    both = [row for row in rows if row[-1]]
    rows = [row[:-1] for row in rows]
    return [
        f"In {len(both)} of {len(rows)} cases the chosen and the rejected response both lose probability. Why: the "
        "loss is a function of the difference of two log-ratios alone, so a step that lowers the rejected response "
        "by more than the chosen one is progress. Where the two share most of their tokens, the gradient that pushes "
        "one down takes the other with it, and what both lose goes to responses that no pair mentions. Margin and "
        "accuracy rise all the while.",
        "",
        "On-policy: two samples of the imitated policy, the better one by gold chosen. One digit: a sample against "
        "itself with one digit changed, the better one chosen. Expert: the right answer against a sample. Sums over "
        "a response's tokens, means over training pairs and seeds; accuracy is the share of pairs with a positive "
        "margin, exact and gold are of samples for held-out prompts.",
        "",
        *table(head, rows, str),
    ]


FIGURE = Figure(
    "6", "pair-losses", "6. Chosen and rejected log-probabilities", (EXPERIMENT,), draw, words
)
