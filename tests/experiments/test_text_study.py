"""The study of text tasks: its parts, its page; and a text task that GRPO learns from next to nothing."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from agents.tokens.grpo import TokenGRPO, TokenGRPOConfig
from docs.examples.own_text_task import Backwards
from envs.tokens.env import TokenEnv
from experiments.evaluation import tokens as evaluation
from experiments.studies import __main__ as command
from experiments.studies import study
from experiments.studies.text.page import FIGURES, STUDY
from experiments.studies.text.settings import LEARNED, OPTIONS

OUT = command.LONG_OUT["text"]


def invented(experiment):
    """Returns what a cell might compute."""
    if experiment == "base":
        passes = {name: {"pass_at_1": 0.3, "pass_at_8": 0.6, "prompts": 9} for name in OPTIONS}
        losses = {"texts": [2.0, 1.2], "answers": [0.9, 0.5]}
        sizes = {"parameters": 630_000, "vocabulary": 267, "sha256": "0"}
        return {"passes": passes, "losses": losses, "seconds": 90.0, **sizes}
    game = {"optimum": 3.375, "limit": 8, "largest": 16}
    return {
        "marks": [0, 20, 40],
        "seconds": 50.0,
        "pass_at_1": [0.3, 0.5, 0.7],
        "pass_at_8": [0.6, 0.8, 0.9],
        "kl_to_reference": [0.0, 1.0, 2.0],
        "length": [5.0, 4.5, 3.6],
        **(game if experiment == "guess-number" else {}),
    }


def test_page_of_all_sections(monkeypatch, tmp_path):
    monkeypatch.setattr("experiments.studies.figures.DPI", 40)
    for experiment in {x.name: x for figure in FIGURES for x in figure.experiments}.values():
        for name in experiment.cells:
            monkeypatch.setitem(
                experiment.cells, name, lambda sizes, say, at=experiment.name: invented(at)
            )
    assert command.studies(["text", "--quick", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    for figure in FIGURES:
        assert f"## {figure.title}\n" in text
        if figure.draw is not None:
            with Image.open(tmp_path / f"{figure.file}.png") as image:
                assert image.convert("L").getextrema()[0] < 90
    assert "| spell_backward | 0.30 (0.30 to 0.30) | 0.70 (0.70 to 0.70) |" in text
    assert "| after GRPO | 3.60 (3.60 to 3.60) | +7% |" in text
    with pytest.raises(ValueError, match="--figures 1 is none"):
        command.studies(["text", "--figures", "1", "--quick", "--out", str(tmp_path)])


@pytest.mark.skipif(not Path(OUT / study.FILE).exists(), reason="not published yet")
class TestPublished:
    def test_page_and_numbers_agree(self):
        records = study.stored(OUT)
        assert study.page(STUDY, records) == (OUT / "README.md").read_text()

    def test_clean_commits(self):
        for name, cell in study.stored(OUT).items():
            assert re.fullmatch("[0-9a-f]{40}", cell["commit"]), name

    def test_what_is_claimed(self):
        """GRPO learns each data set in every seed, and guesses nearly as well as bisection in the mean."""
        cells = {name: cell["numbers"] for name, cell in study.stored(OUT).items()}
        for name in LEARNED:
            for seed in range(3):
                first, *_, last = cells[f"grpo-{name}/{seed}"]["pass_at_1"]
                assert last > first + (0.05 if name == "chain_sum" else 0.1)
        games = [cells[f"guess-number/{seed}"] for seed in range(3)]
        assert np.mean([x["length"][-1] for x in games]) < 1.2 * games[0]["optimum"]


@pytest.mark.slow
def test_grpo_learns_to_spell_backwards():
    """Three letters, from a model that is right in half of its answers after some imitation."""
    env = TokenEnv(Backwards(), "exact")
    config = TokenGRPOConfig(
        imitation_steps=40, num_responses=256, total_steps=50 * 256 * env.response_length
    )
    learner = TokenGRPO(config, env)
    look = jax.jit(lambda s: evaluation.sample(learner, s, jax.random.split(jax.random.key(1), 64)))
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: (learner.step(s)[0], None), s, None, 50)[0])
    state = jax.jit(learner.init)(jax.random.key(0))
    before, after = (
        evaluation.pass_at(np.asarray(look(s).correct), 1) for s in (state, run(state))
    )
    assert before < 0.7
    assert after > before + 0.2
