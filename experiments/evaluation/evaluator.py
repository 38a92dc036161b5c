"""Interface of an evaluation, shared by control and tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from agents.algorithm import LearnsOffline
from envs.base import Env
from experiments.evaluation import control, metrics, nonfinite, tokens

Domain = Literal["control", "tokens"]  # acting step by step, or writing responses to prompts
FINAL_BATCHES = 4
OFFLINE_EPISODES = 100  # of the final evaluation, at least: scores of datasets are compared closely


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """The functions of one kind of evaluation. The argument `result` is the result of `run` for one seed, on the
    host."""

    at_start: bool  # also before training
    episodes: Callable[[int, Any], int]  # (total steps, algorithm): how many at each mark
    # (algorithm, episodes at a mark) to the factor of episodes in the final evaluation
    final_batches: Callable[[Any, int], int]
    run: Callable[[Any, Any, Any], Any]  # (algorithm, state, keys): pure, for one seed
    concatenate: Callable[[list[Any]], Any]
    row: Callable[[Any], dict[str, float]]  # columns of metrics.jsonl
    final_figures: Callable[[Any, Any], dict[str, Any]]  # (algorithm, result): for summary.json
    goals: Callable[[Any, Any], dict[str, bool]]  # (algorithm, result): which are reached
    transcripts: Callable[
        [Any, Any], list[dict[str, Any]]
    ]  # (algorithm, result): for samples.jsonl
    trouble: Callable[[Any, Any], str | None]  # (algorithm, result): a warning in one line


def evaluator(domain: Domain) -> Evaluator:
    """Returns the evaluator of a domain."""
    return _TOKENS if domain == "tokens" else _CONTROL


def evaluation_episodes(total_steps: int, max_episode_steps: int) -> int:
    """Returns the number of episodes at each mark. About an eighth of the training's steps go into all marks together,
    so that evaluation does not take longer than learning where episodes are long."""
    share = total_steps / (8 * metrics.MARKS * max_episode_steps)
    return int(np.clip(share, 16, 128))


def final_batches(env: Env, episodes: int) -> int:
    """Returns the size of the final evaluation in marks: enough episodes for the environment's report, however few a
    mark has."""
    return max(FINAL_BATCHES, -(-env.recorded_episodes // episodes))


_CONTROL = Evaluator(
    at_start=False,
    episodes=lambda total, algo: evaluation_episodes(total, algo.env.max_episode_steps),
    final_batches=lambda algo, episodes: max(
        final_batches(algo.env, episodes),
        -(-OFFLINE_EPISODES // episodes) if isinstance(algo, LearnsOffline) else 1,
    ),
    run=lambda algo, state, keys: control.run_episodes(
        algo, state, keys, control.records(algo.env)
    ),
    concatenate=control.concatenate,
    row=control.row,
    final_figures=lambda algo, result: control.final_figures(algo.env, result),
    goals=lambda algo, result: control.goals(algo.env, result),
    transcripts=lambda algo, result: [],
    trouble=lambda algo, result: nonfinite.episodes_warning(result.bad, algo.env.on_host),
)
_TOKENS = Evaluator(
    at_start=True,  # what imitation alone can do
    episodes=lambda total_steps, algo: tokens.prompts_of(algo),
    final_batches=lambda algo, episodes: FINAL_BATCHES,
    run=tokens.sample,
    concatenate=tokens.concatenate,
    row=tokens.row,
    final_figures=tokens.final_figures,
    goals=lambda algo, found: {},
    transcripts=tokens.transcripts,
    trouble=tokens.trouble,
)
