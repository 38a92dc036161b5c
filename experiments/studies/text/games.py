"""A game with turns: a number is guessed, and the environment answers higher, lower or right."""

from __future__ import annotations

import functools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agents.tokens.grpo import TokenGRPO, TokenGRPOConfig
from envs.tokens.env import TokenEnv
from envs.tokens.games import GuessNumber
from experiments.pages.markdown import table
from experiments.studies import figures
from experiments.studies.alignment import curves
from experiments.studies.study import Experiment, Figure, Numbers, Say
from experiments.studies.text.settings import FULL, GUESSING, Sizes
from experiments.studies.text.training import Programs, curve, programs


@functools.lru_cache(1)
def _programs(sizes: Sizes) -> Programs:
    env = TokenEnv(GuessNumber(sizes.largest), "process")
    config = TokenGRPOConfig(
        num_responses=sizes.responses,
        total_steps=sizes.guessing_iterations * sizes.responses * env.response_length,
        imitation_steps=sizes.guessing_imitation,
        learning_rate=sizes.guessing_learning_rate,
    )
    return programs(TokenGRPO(config, env), max(1, sizes.guessing_iterations // sizes.parts))


def _cell(sizes: Sizes, say: Say, seed: int) -> dict[str, Any]:
    found = curve(_programs(sizes), seed, sizes.parts, sizes.prompts, say)
    task = GuessNumber(sizes.largest)
    say(f"guesses {np.round(found['length'], 2)}, by bisection {task.optimum:.3f}")
    return {**found, "optimum": task.optimum, "limit": task.limit, "largest": task.largest}


EXPERIMENT = Experiment(
    "guess-number",
    {str(seed): partial(_cell, seed=seed) for seed in range(FULL.seeds)},
    GUESSING,
)


def draw(numbers: Numbers, path: Path) -> None:
    """Draws the mean number of guesses, and the share of games that are won, at `path`."""
    cells = numbers[EXPERIMENT.name]
    first = next(iter(cells.values()))
    figure = figures.empty(11, 4)
    left, right = figure.subplots(1, 2)
    for ax, column in ((left, "length"), (right, "pass_at_1")):
        each = [cell[column] for cell in cells.values()]
        curves.draw_seeds(ax, first["marks"], each, curves.COLOURS[0], "GRPO")
    figures.level(left, first["optimum"], "bisection")
    figures.panel(left, "Guesses of a game", "iterations", "mean")
    figures.panel(right, "Games won", "iterations", "share")
    right.set_ylim(0, 1.02)
    figures.save(figure, path)


def words(numbers: Numbers) -> list[str]:
    """Returns the lines on the game."""
    cells = numbers[EXPERIMENT.name]
    first = next(iter(cells.values()))
    sizes = first["sizes"]
    rows = []
    for name, at in (("after imitation", 0), ("after GRPO", -1)):
        guesses = [cell["length"][at] for cell in cells.values()]
        won = [cell["pass_at_1"][at] for cell in cells.values()]
        above = np.mean(guesses) / first["optimum"] - 1
        rows.append([name, curves.span(guesses), f"{above:+.0%}", curves.span(won)])
    seconds = np.mean([cell["seconds"] for cell in cells.values()])
    return [
        f"A number from 1 to {first['largest']}, at most {first['limit']} guesses; a guess is a token of the policy, "
        "the answer is inserted by the environment, attended to and never trained on. A right guess earns 1, less 1 / "
        f"{first['limit']} for each guess before it. {sizes['guessing_imitation']} gradient steps of imitation of "
        f"bisection, then {first['marks'][-1]} iterations of GRPO with {sizes['responses']} games each. Bisection "
        f"needs {first['optimum']:.3f} guesses on average, the least that is possible. Games that are "
        f"lost count with their "
        f"guesses. Held-out games, sampled at temperature 1; means over seeds (lowest to highest). {seconds:.0f} s of "
        "training for a seed.",
        "",
        *table(["", "guesses", "above bisection", "games won"], rows, str),
    ]


FIGURE = Figure("turns", "guess-number", "Turns: guess the number", (EXPERIMENT,), draw, words)
