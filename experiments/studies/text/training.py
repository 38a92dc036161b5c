"""A learner of one seed from the base model, measured on the way."""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from agents import TOKEN_ALGORITHMS
from experiments.studies.study import Say
from experiments.studies.text.base import base, env, measured, model_settings, run_steps
from experiments.studies.text.settings import Sizes
from experiments.weights import folder as weights

COLUMNS = ("pass_at_1", "pass_at_8", "kl_to_reference", "length")


class Programs(NamedTuple):
    """A learner, and its compiled programs, which its seeds share."""

    learner: Any
    init: Any
    steps: Any


def programs(learner: Any, steps: int) -> Programs:
    """Returns the programs of a learner; one call of `steps` makes so many steps."""
    return Programs(learner, jax.jit(learner.init), run_steps(learner, steps))


@functools.lru_cache(2)
def from_base(sizes: Sizes, algo: str, dataset: str, say: Say) -> Programs:
    """Returns the programs of a learner of a data set that starts from the base model."""
    kind: Any = TOKEN_ALGORITHMS[algo]
    given = weights.load(base(sizes, say))
    task = env(sizes, [dataset])
    config = kind.Config(
        num_responses=sizes.responses,
        total_steps=sizes.iterations * sizes.responses * task.response_length,
        imitation_steps=0,
        learning_rate=sizes.learning_rate,
        **model_settings(sizes),
    )
    learner = kind(config, task).starting_from(given.published.transformer, given.params)
    return programs(learner, max(1, sizes.iterations // sizes.parts))


def curve(found: Programs, seed: int, parts: int, prompts: int, say: Say) -> dict[str, Any]:
    """Returns what a seed of a learner measures at first and after each part of its training.

    Seconds are those of training alone; compilation is left out where the first part is not the only one: it counts as
    long as the others.
    """
    state = found.init(jax.random.key(seed))
    rows, marks, times = [], [0], []
    metrics: dict[str, Any] = {}
    for part in range(parts + 1):
        if part:
            begun = time.monotonic()
            state, metrics = jax.block_until_ready(found.steps(state))
            times.append(time.monotonic() - begun)
            marks.append(int(state.env_steps) // found.learner.iteration_steps)
        rows.append(measured(found.learner, state, seed, prompts))
        say(f"{marks[-1]}: pass@1 {rows[-1]['eval/pass_at_1']:.3f}" + _shown(metrics))
    kept = {k: float(v) for k, v in metrics.items() if np.ndim(v) == 0}
    return {
        "marks": marks,
        "seconds": float(np.median(times)) * parts,
        **{name: [row[f"eval/{name}"] for row in rows] for name in COLUMNS},
        "last": kept,
    }


def _shown(metrics: dict[str, Any]) -> str:
    names = ("train/correct", "frac_zero_std", "entropy", "clip_fraction", "rewards/accuracy")
    return "".join(f", {name} {float(metrics[name]):.3f}" for name in names if name in metrics)
