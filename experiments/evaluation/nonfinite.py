"""Reports on non-finite steps of training, and the rule when training stops because of them.

A non-finite step terminates its episode with reward 0 (see `envs.base.advance`), so a few of them are harmless. Plain
NumPy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs import base
from envs.base import Bad, Env
from experiments.evaluation import metrics

ENOUGH = 1000  # steps in a row that are not finite: there is nothing to learn from
PREFIX = "nonfinite/"

# Of each iteration what `agents.rollout.nonfinite` measured, [iterations, seeds]: "steps" that were not finite, of how
# many "taken", the names of `Bad`, "first" and "env". Empty for learners that do not measure it.
Counts = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of some iterations in a run."""

    begin: int  # environment steps before the first of them
    iteration_steps: int
    seed: int  # the run's first
    on_host: bool  # the environment lives outside the program: its state is what it shows


@dataclasses.dataclass
class Tally:
    """Steps of a run so far, of each seed. Plain JSON; kept with each checkpoint."""

    taken: list[int] = dataclasses.field(default_factory=list)
    nonfinite: list[int] = dataclasses.field(default_factory=list)
    streak: list[int] = dataclasses.field(
        default_factory=list
    )  # the last ones, none of them finite


def split(buffers: dict[str, np.ndarray], iteration_steps: int) -> tuple[Counts, dict[str, Any]]:
    """Separates the counts of non-finite steps of each iteration from the other metrics."""
    rest = {k: x for k, x in buffers.items() if not k.startswith(PREFIX)}
    if len(rest) == len(buffers):
        return {}, rest
    counts = {k.removeprefix(PREFIX): x for k, x in buffers.items() if k.startswith(PREFIX)}
    counts["steps"] = rest["train/nonfinite"]
    counts["taken"] = rest.get(
        "train/env_steps_taken", np.full_like(counts["steps"], iteration_steps)
    )
    return counts, rest


def counted(tally: Tally, counts: Counts) -> Tally:
    """Returns the tally after further iterations."""
    if not counts:
        return tally
    taken, steps = (counts[name].astype(np.int64) for name in ("taken", "steps"))
    streak = np.asarray(tally.streak or np.zeros_like(taken[0]))
    for now, bad in zip(taken, steps, strict=True):
        streak = np.where(bad >= now, streak + now, 0)
    before = (np.asarray(x or np.zeros_like(taken[0])) for x in (tally.taken, tally.nonfinite))
    sums = [old + new.sum(axis=0) for old, new in zip(before, (taken, steps), strict=True)]
    return Tally(sums[0].tolist(), sums[1].tolist(), streak.tolist())


def shares(tally: Tally) -> list[float]:
    """Returns the share of a run's steps that were not finite, for each seed."""
    pairs = zip(tally.nonfinite, tally.taken, strict=True)
    return [bad / max(taken, 1) for bad, taken in pairs]


def warning(counts: Counts, place: Place) -> str | None:
    """Returns a line about steps that were not finite; None where all were."""
    worst = _earliest(counts, "steps")
    if worst is None:
        return None
    i, seed = worst
    step = place.begin + i * place.iteration_steps + int(counts["first"][i, seed])
    bad, taken = int(counts["steps"].sum()), int(counts["taken"].sum())
    env = f"environment {int(counts['env'][i, seed])}, seed {place.seed + seed}"
    return (
        f"{_parts(counts, place)} not finite in {bad} of {taken} steps ({percent(bad / taken)}), first at env step "
        f"{step} ({env}); such a step ends its episode with reward 0"
    )


def spoiled_start(counts: Counts, place: Place) -> str | None:
    """Returns a line about an episode whose first observation is not finite, for which nothing can be substituted; None
    where there is none."""
    bad = _earliest(counts, "start")
    if bad is None:
        return None
    i, seed = bad
    step = place.begin + (i + 1) * place.iteration_steps
    return (
        f"the first observation of an episode, after a reset, is not finite by env step {step} (seed "
        f"{place.seed + seed})"
    )


def hopeless(tally: Tally, counts: Counts, place: Place, over: bool) -> str | None:
    """Returns a line about a run with nothing to learn from: its last ENOUGH steps, or all of them where it is `over`,
    were not finite. None otherwise."""
    for seed, streak in enumerate(tally.streak):
        if streak >= ENOUGH or (over and streak == tally.taken[seed]):
            which = f"the last {streak} steps (seed {place.seed + seed})"
            return f"{_parts(counts, place)} not finite in any of {which}: there is nothing to learn from"
    return None


def broken(metrics_of: dict[str, np.ndarray], params: Any, place: Place) -> str | None:
    """Returns a line about the first result of learning that is not finite, a metric [iterations, seeds] or a parameter
    [seeds, ...] after the last iteration; None where all are."""
    first = metrics.first_nonfinite(metrics_of)
    if first is None:
        last = len(next(iter(metrics_of.values()))) - 1
        seeds = _nonfinite_seeds(params)
        first = (last, seeds[0], "a parameter") if seeds else None
    if first is None:
        return None
    i, seed, name = first
    step = place.begin + (i + 1) * place.iteration_steps
    return f"{name} is not finite at env step {step} (seed {place.seed + seed})"


def _nonfinite_seeds(params: Any) -> list[int]:
    leaves = [np.asarray(x) for x in jax.tree.leaves(params)]
    floats = [x for x in leaves if np.issubdtype(x.dtype, np.floating)]
    bad = [~np.isfinite(x).reshape(len(x), -1).all(axis=1) for x in floats]
    return np.flatnonzero(np.any(bad, axis=0)).tolist() if bad else []


def infos_warning(means: dict[str, np.ndarray], env: Env) -> str | None:
    """Returns a line about infos of the environment whose means [iterations, seeds] are not finite; None where all
    are."""
    odd = [name for name, x in means.items() if not np.isfinite(x).all()]
    odd = [name for name in odd if not name.startswith(("train/", "loss/"))]
    # Only then: tracing an environment may take seconds.
    infos = [name for name in odd if name in _infos(env)] if odd else []
    if not infos:
        return None
    verb = "is" if len(infos) == 1 else "are"
    return f"info {', '.join(infos)} {verb} not finite: no number in the rows of such steps"


def _infos(env: Env) -> set[str]:
    """Returns the names of the environment's infos."""

    def info(key):
        running, _ = base.reset(env, key)
        action = jax.tree.map(jnp.asarray, env.action_space.sample())
        return base.advance(env, key, running, action)[1].info

    return set(jax.eval_shape(info, jax.random.key(0)))


def episodes_warning(bad: np.ndarray, on_host: bool) -> str | None:
    """Returns a line about episodes of an evaluation, `bad` [N] as in `experiments.evaluation.control.Episodes`; None
    where all were finite."""
    n = int(np.count_nonzero(bad))
    if not n:
        return None
    return (
        f"evaluation: {in_words(bad, on_host)} not finite, which ended {n} of {len(bad)} episodes"
    )


def in_words(bad: np.ndarray, on_host: bool) -> str:
    """Returns the parts in a non-empty array of sums of `Bad`, with their verb: "observation is"."""
    return _named([part for part in Bad if np.any(np.asarray(bad) & part)], on_host)


def percent(share: float) -> str:
    """Returns a share as text with two digits: small ones are not rounded to nothing."""
    return f"{100 * share:.2g}%" if share < 0.995 else f"{100 * share:.0f}%"


def _earliest(counts: Counts, name: str) -> tuple[int, int] | None:
    """Returns (iteration, seed) of the first value above 0; None where there is none."""
    where: Any = np.argwhere(counts[name] > 0) if counts else []
    return (int(where[0][0]), int(where[0][1])) if len(where) else None


def _parts(counts: Counts, place: Place) -> str:
    return _named([part for part in Bad if np.any(counts[_name(part)] > 0)], place.on_host)


def _named(parts: Iterable[Bad], on_host: bool) -> str:
    """Returns "observation is", or "state, observation and reward are"."""
    names = {Bad.START: "first observation"}
    words = [names.get(part, _name(part)) for part in parts if not (on_host and part == Bad.STATE)]
    verb = "are" if len(words) > 1 else "is"
    return f"{' and '.join(filter(None, (', '.join(words[:-1]), words[-1])))} {verb}"


def _name(part: Bad) -> str:
    return str(part.name).lower()
