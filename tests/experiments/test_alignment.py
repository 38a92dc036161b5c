import json
import re

import numpy as np
import pytest
from PIL import Image

from experiments.studies import __main__ as command
from experiments.studies import study as record
from experiments.studies.alignment import curves, pair_losses
from experiments.studies.alignment.page import FIGURES, STUDY

SEEDS, N = 2, [1, 2, 4]
OUT = command.LONG_OUT["alignment"]


def curve(*values):
    """The same curve of both seeds, a little apart."""
    return [[x - 0.01 * seed for x in values] for seed in range(SEEDS)]


def learnt(**more):
    """A rise and fall of gold while proxy and KL rise."""
    return {
        "marks": [0, 10, 20],
        "seconds": [0.0, 1.0, 2.0],
        "gold": curve(0.5, 0.7, 0.6),
        "exact": curve(0.1, 0.3, 0.2),
        "kl": curve(0.02, 1.0, 4.0),
        "proxy": curve(0.0, 1.0, 2.0),
        **more,
    }


def model():
    best = {"n": N, "kl": [0.0, 0.2, 0.6], "gold": curve(0.5, 0.6, 0.55), "proxy": curve(0, 1, 2)}
    return {"agreement": [0.8, 0.9], "model_seconds": 3.0, "best_of_n": best, "learnt": learnt()}


def invented(experiment, cell):
    """Returns what a cell might compute."""
    if experiment == "overoptimisation":
        given = {
            str(mark): {"answer": "1 1 2 <eos>", "gold": 0.5, "proxy": float(mark)}
            for mark in (0, 10, 20)
        }
        answer = {"seed": 0, "prompt": "2 1 3 =", "right": "1 2 3 <eos>", "right_proxy": 1.0}
        return {**model(), "pairs": 32, "answers": [{**answer, "given": given}]}
    if experiment == "scaling":
        share = int(re.match(r"1/(\d+) of the pairs", cell)[1])
        return {**model(), "pairs": 64 // share, "width": 16, "epochs": 12}
    if experiment == "pair-losses":
        found = learnt(
            chosen=curve(-5, -6, -10),
            rejected=curve(-10, -20, -30),
            right=curve(-4, -5, -6),
            margin=curve(0, 5, 10),
            accuracy=curve(0, 0.9, 1),
        )
        of_source = {k: v for k, v in found.items() if k not in ("marks", "seconds")}
        common = {"marks": found["marks"], "seconds": found["seconds"]}
        return common | {
            source: {"share": [0.8, 0.8], **of_source} for source in pair_losses.SOURCES
        }
    if experiment == "family":
        settings = {"num_responses": 16, "clip_low": 0.1, "clip_high": 0.2}
        passes = {"pass_at_1": [0.8, 0.9], "pass_at_8": [0.9, 1.0], "kl_to_reference": [2.0, 3.0]}
        return {
            "learnt": learnt(),
            "tokens": [99, 99],
            "iterations": [2, 2],
            "settings": settings,
        } | passes
    agreement = [[0.8, 0.9]] * 4 if experiment == "ensembles" else [0.8, 0.9]
    return {**model(), "agreement": agreement}


@pytest.fixture
def stubs(monkeypatch):
    """Every cell gives invented numbers at once; a list of those that were computed."""
    computed = []
    for experiment in {x.name: x for figure in FIGURES for x in figure.experiments}.values():
        for name in experiment.cells:

            def cell(sizes, say, at=(experiment.name, name)):
                computed.append("/".join(at))
                return invented(*at)

            monkeypatch.setitem(experiment.cells, name, cell)
    monkeypatch.setattr("experiments.studies.figures.DPI", 40)  # a tenth of the time
    return computed


def study(out, *argv):
    return command.studies(["alignment", "--quick", "--out", str(out), *argv])


class TestCommand:
    @pytest.mark.slow
    def test_computes_once_draws_and_writes_the_page(self, stubs, tmp_path, capsys):
        assert study(tmp_path, "--figures", "5", "6") == 0
        assert stubs == [
            "overoptimisation/many",
            "overoptimisation/few",
            *(f"pair-losses/{name}" for name in pair_losses.LEARNERS),
        ]
        text = (tmp_path / "README.md").read_text()
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            f"## {figure.title}" for figure in FIGURES if figure.name in "156"
        ]
        cell = record.stored(tmp_path)["pair-losses/DPO"]
        assert cell["command"] == f"{STUDY.command} --figures 6 --quick"
        assert {"commit", "machine", "versions", "seconds", "sizes"} <= set(cell)

        # All figures: only what is missing is computed, and pictures stand on the page.
        stubs.clear()
        assert study(tmp_path) == 0
        assert len(stubs) == len(set(stubs)) > 15
        assert not any(name.startswith(("overoptimisation", "pair-losses")) for name in stubs)
        assert "overoptimisation/many: kept" in capsys.readouterr().out
        text = (tmp_path / "README.md").read_text()
        for figure in FIGURES:
            assert f"## {figure.title}\n" in text
            if figure.draw is not None:
                assert f"]({figure.file}.png)" in text
                with Image.open(tmp_path / f"{figure.file}.png") as image:
                    assert image.width > 300
                    assert image.convert("L").getextrema()[0] < 90
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

        stubs.clear()
        study(tmp_path, "--figures", "6", "--fresh")
        assert stubs == [f"pair-losses/{name}" for name in pair_losses.LEARNERS]

    def test_a_cell_that_fails_loses_nothing(self, stubs, tmp_path, monkeypatch):
        def fails(sizes, say):
            raise ValueError("no memory")

        monkeypatch.setitem(pair_losses.EXPERIMENT.cells, "IPO", fails)
        with pytest.raises(ValueError, match="no memory"):
            study(tmp_path, "--figures", "6")
        assert list(record.stored(tmp_path)) == ["pair-losses/DPO"]

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["alignment", "--figures", "11"], "--figures 11 is none"),
            (["kl", "--figures", "1"], "belong to alignment"),
            (["alignement"], "did you mean alignment?"),
        ],
    )
    def test_bad_input_is_one_line(self, argv, said, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=re.escape(said)):
            command.studies(argv)
        assert not any(tmp_path.iterdir())

    def test_damaged_numbers_are_named(self, tmp_path):
        (tmp_path / record.FILE).write_text('{\n "study": "alignment", "cells": {"a/b": {}}}')
        with pytest.raises(ValueError, match=r"numbers\.json: cells"):
            study(tmp_path)

    def test_what_others_wrote_is_not_overwritten(self, stubs, tmp_path):
        (tmp_path / "README.md").write_text("# Mine\n")
        with pytest.raises(ValueError, match="not overwritten"):
            study(tmp_path)
        assert stubs == []

    def test_order_is_by_what_shows_most(self):
        assert {figure.name for figure in record.chosen(STUDY, [])} == {
            figure.name for figure in FIGURES
        }
        assert [figure.name for figure in record.chosen(STUDY, ["6", "1"])] == ["1", "6"]


class TestPublished:
    def test_page_and_numbers_agree(self):
        records = record.stored(OUT)
        assert record.page(STUDY, records) == (OUT / "README.md").read_text()

    def test_every_figure_has_its_picture(self):
        records = record.stored(OUT)
        shown = [figure for figure in FIGURES if record.ready(figure, records) is not None]
        assert {"1", "5", "6"} <= {figure.name for figure in shown}
        for figure in shown:
            if figure.draw is not None:
                assert (OUT / f"{figure.file}.png").stat().st_size < 300_000

    def test_three_seeds_of_clean_commits(self):
        for name, cell in record.stored(OUT).items():
            assert cell["sizes"]["seeds"] == 3, name
            assert re.fullmatch("[0-9a-f]{40}", cell["commit"]), name


class TestFits:
    D = np.linspace(0.0, 3.0, 20)

    def test_best_of_n(self):
        gain = curves.best_of_n_curve(self.D, 0.4, 0.1)
        np.testing.assert_allclose(curves.fit_best_of_n(self.D**2, gain), (0.4, 0.1), rtol=1e-6)

    def test_reinforcement(self):
        gain = curves.reinforcement_curve(self.D, 0.4, 0.1)
        assert gain[0] == 0
        np.testing.assert_allclose(curves.fit_reinforcement(self.D**2, gain), (0.4, 0.1), rtol=1e-6)

    def test_peak_is_of_the_mean(self):
        at, first, highest, last = curves.peak([[0.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
        assert (at, first, highest, last) == (1, 0.0, 2.0, 1.0)

    def test_span(self):
        assert curves.span([0.1, 0.2, 0.6]) == "0.30 (0.10 to 0.60)"


@pytest.mark.slow
def test_the_whole_study_at_tiny_size(tmp_path):
    assert study(tmp_path) == 0
    records = record.stored(tmp_path)
    for figure in FIGURES:
        assert record.ready(figure, records) is not None
    # Nothing is left to compute.
    before = (tmp_path / record.FILE).read_bytes()
    assert study(tmp_path) == 0
    assert (tmp_path / record.FILE).read_bytes() == before
    json.loads(before)
