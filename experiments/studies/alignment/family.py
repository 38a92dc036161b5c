"""Sorting by each learner of the family, with equal numbers of tokens."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agents import TOKEN_ALGORITHMS
from agents.tokens.sft import SFTConfig
from experiments.evaluation import tokens as evaluation
from experiments.pages.markdown import table
from experiments.run.presets import preset
from experiments.studies import figures
from experiments.studies.alignment import curves
from experiments.studies.alignment.policies import config_of, over_seeds, seed_keys
from experiments.studies.alignment.settings import Sizes
from experiments.studies.alignment.training import train
from experiments.studies.study import Experiment, Figure, Say

LEARNERS = ("grpo", "dr-grpo", "rloo", "reinforce", "reinforce++", "dapo", "gspo", "cispo", "ppo")
# Further clip ranges of GSPO, below and above 1: the paper's, and GRPO's.
GSPO_CLIPS = ((3e-4, 4e-4), (0.2, 0.2))
_MARKS = 6
# Of the tokens that others learn from, DAPO's share: the rest are of groups that are drawn again.
_DAPO_SHARE = 0.6
_OF_STUDY = ("width", "mlp_width", "heads", "kv_heads", "imitation_steps")
_SHOWN = ("num_responses", "total_steps", "learning_rate", "clip_low", "clip_high")


def learner_of(name: str, sizes: Sizes, **settings: Any) -> Any:
    """Returns a learner with its command's settings for sorting, but this study's model and numbers of responses."""
    kind: Any = TOKEN_ALGORITHMS[name]
    tokens = budget(sizes)
    own = preset("tokens-sort", name, kind.Config)
    model = config_of(SFTConfig, sizes)
    config = dataclasses.replace(
        own,
        **{field: getattr(model, field) for field in _OF_STUDY},
        num_responses=sizes.family_responses,
        total_steps=round(tokens * (_DAPO_SHARE if name == "dapo" else 1.0)),
        **settings,
    )
    return kind(config, sizes.env("exact"))


def budget(sizes: Sizes) -> int:
    """Returns the tokens that each learner writes, of one seed."""
    return sizes.family_iterations * sizes.family_responses * (sizes.digits + 1)


def _cell(sizes: Sizes, say: Say, name: str, **settings: Any) -> dict[str, Any]:
    tokens = budget(sizes)
    marks = [round(tokens * i / _MARKS) for i in range(_MARKS + 1)]
    learner = learner_of(name, sizes, **settings)
    states, learnt = train(
        lambda own: learner_of(name, sizes, **settings),
        np.zeros(sizes.seeds),
        sizes,
        marks,
        say,
        progress=lambda learner, state: state.tokens,
    )
    keys = jax.vmap(lambda key: jax.random.split(key, sizes.family_prompts))(seed_keys(sizes, 10))
    final = over_seeds(lambda state, keys: evaluation.sample(learner, state, keys))(states, keys)
    rows = [
        evaluation.row(jax.tree.map(lambda x, seed=seed: np.asarray(x[seed]), final))
        for seed in range(sizes.seeds)
    ]
    finals = {
        name: [row[f"eval/{name}"] for row in rows]
        for name in ("pass_at_1", "pass_at_8", "kl_to_reference")
    }
    say(f"pass@1 {np.round(finals['pass_at_1'], 3)}")
    return {
        "learnt": learnt,
        "tokens": np.asarray(states.tokens),
        "iterations": np.asarray(states.env_steps) // learner.iteration_steps,
        "settings": {k: v for k, v in vars(learner.config).items() if k in _SHOWN},
        **finals,
    }


EXPERIMENT = Experiment(
    "family",
    {name: partial(_cell, name=name) for name in LEARNERS}
    | {
        f"gspo, clip {low:g} and {high:g}": partial(
            _cell, name="gspo", clip_low=low, clip_high=high
        )
        for low, high in GSPO_CLIPS
    },
    ("family_responses", "family_iterations", "family_prompts"),
)


def draw(numbers: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws the curves beside the table at `path`."""
    figure = figures.empty(9, 5)
    ax = figure.subplots()
    cells = numbers["family"]
    colours = (*curves.COLOURS, "#b58a2b", "#5b6470", "#9ca3af", "#d1a7b8")
    for (name, cell), colour in zip(cells.items(), colours, strict=False):
        learnt = cell["learnt"]
        curves.draw_seeds(ax, learnt["marks"], learnt["exact"], colour, name)
    figures.panel(ax, "Sorting six digits", "tokens", "share of right responses")
    ax.legend(frameon=False, fontsize=8.5)
    figures.save(figure, path)


def words(numbers: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the lines of the table of learners."""
    rows = []
    for name, cell in numbers["family"].items():
        learnt = cell["learnt"]
        drop = np.max(learnt["exact"], axis=1) - np.asarray(learnt["exact"])[:, -1]
        rows.append(
            [
                name,
                curves.span(cell["pass_at_1"]),
                curves.span(cell["pass_at_8"]),
                curves.span(cell["kl_to_reference"], 1),
                f"{np.max(drop):.2f}",
                f"{np.mean(cell['iterations']):.0f}",
                f"{learnt['seconds'][-1]:.0f} s",
            ]
        )
    first = next(iter(numbers["family"].values()))
    start = curves.mean(first["learnt"]["exact"])[0]
    tokens = f"{np.mean(first['tokens']) / 1000:.0f} k"
    head = [
        "learner",
        "pass@1",
        "pass@8",
        "KL to the first policy",
        "greatest fall",
        "iterations",
        "time",
    ]
    return [
        f"Each learner with its command's settings for `sort`, but {first['settings']['num_responses']} responses an "
        f"iteration, until it has written {tokens} tokens (DAPO counts those of groups that it draws again). All "
        f"begin with the same imitated policies, which answer {start:.0%} of prompts. Means over seeds (lowest to "
        "highest), samples at temperature 1, eight to each held-out prompt. Greatest fall: of a seed's share of "
        "right responses, from its highest measure to the last. Time: one seed's training on one core, without "
        "compilation and evaluation.",
        "",
        *table(head, rows, str),
        "",
        "GSPO's ratio is the geometric mean over a response's tokens; the paper's range (3e-4 below, 4e-4 above 1) "
        "is for responses of thousands of tokens, whose means vary far less. Pass@1 by clip range: "
        f"{_by_clip(numbers)}. The command has the first; where seeds differ by more than the means, the range hardly "
        "matters here.",
    ]


def _by_clip(numbers: dict[str, dict[str, Any]]) -> str:
    """Pass@1 of GSPO for each clip range."""
    found = [cell for name, cell in numbers["family"].items() if name.startswith("gspo")]
    ranges = [f"{x['settings']['clip_low']:g} and {x['settings']['clip_high']:g}" for x in found]
    each = zip(ranges, found, strict=True)
    return "; ".join(f"{name}: {curves.span(cell['pass_at_1'])}" for name, cell in each)


FIGURE = Figure("9", "family", "9. Learners, with equal tokens", (EXPERIMENT,), draw, words)
