import json
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from envs.tabular.toy_text import make_cliff_walking
from experiments.studies import __main__ as command
from experiments.studies import bandit, cliff, kl, variance
from experiments.studies.gradient_noise import VARIANTS, GradientNoise

UP, RIGHT, DOWN, LEFT = range(4)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """(name) to the folder in which that study has been run; each is run once, and only if asked for."""
    out = tmp_path_factory.mktemp("studies") / "new"

    def run(name):
        if not (out / f"{name}.json").exists():
            assert command.studies([name, "--quick", "--out", str(out)]) == 0
        return out

    return run


@pytest.fixture
def numbers(quick):
    return lambda name: json.loads((quick(name) / f"{name}.json").read_text())["numbers"]


# What `run` might give, after a round trip through JSON.
INVENTED = {
    "cliff": {
        "seeds": 2,
        "steps": 300,
        "long_steps": 500,
        "greedy_optimum": -13.0,
        "epsilon_greedy_optimum": -20.7,
        "learning": {
            name: {"env_steps": [100, 200, 300], "return": [None, -90.0, y], "last_quarter": y}
            for name, y in (("Q-learning", -50.0), ("SARSA", -27.0), ("expected SARSA", -21.0))
        },
        "tables": {
            name: {
                "policy": [RIGHT] * 48,
                "values": list(range(48)),
                "path_lengths": [steps, steps, None],
                "exploring_return": -47.0,
            }
            for name, steps in (("Q-learning", 13), ("SARSA", 15))
        },
    },
    "variance": {
        "seeds": 2,
        "episodes": 64,
        "stages": [
            {
                "env_steps": steps,
                "seeds": [
                    {"length": 20.0, "explained": 0.5, "ratios": dict.fromkeys(VARIANTS, ratio)}
                    for ratio in ratios
                ],
            }
            for steps, ratios in ((512, (3.0, 5.0)), (1024, (7.0, None)))
        ],
    },
}


class TestCommand:
    def test_writes_figure_numbers_and_page(self, quick):
        folder = quick("bandit")
        page = (folder / "README.md").read_text()
        assert f"## {bandit.TITLE}\n" in page
        assert "](bandit.png)" in page
        assert "python -m experiments.studies bandit --quick\n" in page
        record = json.loads((folder / "bandit.json").read_text())
        assert {"command", "commit", "versions", "machine"} <= set(record)

    @pytest.mark.slow
    def test_same_numbers_every_time(self, quick, tmp_path):
        command.studies(["bandit", "--quick", "--out", str(tmp_path)])
        old, new = ((f / "bandit.json").read_bytes() for f in (quick("bandit"), tmp_path))
        assert old == new
        old, new = ((f / "bandit.png").read_bytes() for f in (quick("bandit"), tmp_path))
        assert old == new

    def test_page_shows_what_is_there(self, tmp_path):
        for name, found in INVENTED.items():
            (tmp_path / f"{name}.json").write_text(json.dumps({"command": name, "numbers": found}))
        page = command.page(command.stored(tmp_path))
        assert page.index(cliff.TITLE) < page.index(variance.TITLE)
        assert bandit.TITLE not in page

    @pytest.mark.parametrize("name", INVENTED)
    def test_figures(self, name, tmp_path):
        picture = tmp_path / "new.png"
        command.STUDIES[name].draw(INVENTED[name], picture)
        assert picture.stat().st_size < 200_000
        with Image.open(picture) as image:
            assert image.width > 900
            assert image.convert("L").getextrema() == (0, 255)

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["clif"], "did you mean cliff?"),
            (["x"], "choose from alignment, bandit, cliff, faults, kl, text, variance"),
            ([], "which study?"),
            (["cliff", "--fast"], "unknown flag --fast"),
        ],
    )
    def test_bad_input_is_one_line(self, argv, said, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=said.replace("?", r"\?")):
            command.studies(argv)
        assert not any(tmp_path.iterdir())

    def test_exit_code_of_bad_input(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["studies", "none-such"])
        with pytest.raises(SystemExit) as stopped:
            command.main()
        assert stopped.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_a_broken_record_is_named(self, tmp_path):
        (tmp_path / "cliff.json").write_text("{")
        with pytest.raises(ValueError, match=r"cliff.json cannot be read"):
            command.stored(tmp_path)
        for numbers in ({}, {"stages": 3}, []):
            content = json.dumps({"command": "c", "numbers": numbers})
            (tmp_path / "cliff.json").write_text(content)
            with pytest.raises(ValueError, match=r"cliff\.json"):
                command.stored(tmp_path)

    @pytest.mark.parametrize("name", ["README.md", "bandit.json", "bandit.png"])
    def test_what_others_wrote_is_not_overwritten(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mine").mkdir()
        for path in (tmp_path / name, tmp_path / "mine" / name):
            path.write_text("# Studies\n\nOf mine.\n")
        for out in (".", "mine"):
            with pytest.raises(ValueError, match="--out is empty" if out == "." else name):
                command.studies(["bandit", "--quick", "--out", out])
        assert sorted(p.name for p in tmp_path.rglob("*")) == sorted(["mine", name, name])
        assert (tmp_path / name).read_text() == "# Studies\n\nOf mine.\n"

    def test_pages_of_ours_are_known_as_such(self):
        assert command.is_page((command.OUT / "README.md").read_text())
        for name in command.STUDIES:
            assert command._is_numbers((command.OUT / f"{name}.json").read_text())
        records = command.stored(command.OUT)
        assert command.page(records) == (command.OUT / "README.md").read_text()

    def test_rounded(self):
        x = {"b": np.array([1.23456789, np.inf]), "a": [1, np.float32(2.5), "as it is", True]}
        found = command.rounded(x)
        assert list(found) == ["b", "a"]
        assert found == {"b": [1.235, np.inf], "a": [1, 2.5, "as it is", True]}

    def test_compact_json_reads_back(self):
        x = {"a": {"b": [1, 2, None], "c": {}}, "d": "ε"}
        assert json.loads(command.compact(x)) == x


class TestCliff:
    def test_words(self):
        text = " ".join(cliff.words(INVENTED["cliff"]))
        assert "-50.0 (Q-learning), -27.0 (SARSA), -21.0 (expected SARSA)" in text
        assert "13 steps with Q-learning" in text
        assert "15 steps with SARSA" in text

    @pytest.mark.slow
    def test_optima(self, numbers):
        found = numbers("cliff")
        assert found["greedy_optimum"] == -13
        assert found["epsilon_greedy_optimum"] == pytest.approx(-20.7, abs=0.1)

    @pytest.mark.slow
    def test_nobody_learns_more_than_the_optimum(self, numbers):
        for curve in numbers("cliff")["learning"].values():
            assert len(curve["return"]) == len(curve["env_steps"])
            assert -2000 < curve["last_quarter"] < -13

    def test_episode_mean_weighs_by_episodes(self):
        returns = np.array([[-10.0, -40.0], [np.nan, -7.0], [np.nan, np.nan]])
        episodes = np.array([[3.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
        found = cliff.episode_mean(returns, episodes, 1)
        np.testing.assert_allclose(found, [-17.5, -7.0, np.nan])
        assert cliff.episode_mean(returns, episodes, (0, 1)) == pytest.approx(-84 / 6)

    def test_path_length(self):
        env = make_cliff_walking()
        along_the_edge = np.full(48, RIGHT)
        along_the_edge[cliff.START], along_the_edge[35] = UP, DOWN
        assert cliff.path_length(env, along_the_edge) == 13
        assert cliff.path_length(env, np.full(48, UP)) == np.inf


class TestBandit:
    def test_numbers(self, numbers):
        found = numbers("bandit")
        assert list(found["ways"]) == list(bandit._WAYS)
        assert 1.2 < found["oracle"] < 1.9  # 1.54 expected of ten normal means
        for curve in found["ways"].values():
            assert len(curve["reward"]) == len(curve["optimal"]) == found["pulls"]
            assert 0 <= min(curve["optimal"]) <= max(curve["optimal"]) <= 1

    def test_ucb_tries_every_arm_first(self, numbers):
        """So it finds the best one exactly once in the first ten pulls."""
        first = numbers("bandit")["ways"]["UCB, c = 2"]["optimal"][:10]
        assert sum(first) == pytest.approx(1)


class TestVariance:
    def test_words(self):
        table = variance.words(INVENTED["variance"])
        assert "| 512 | 20 | 50% | 4.0 (3.0 to 5.0) |" in table[4]
        assert "| inf (7.0 to inf) |" in table[5]  # a signal that was lost in the noise

    @pytest.mark.slow
    def test_numbers(self, numbers):
        found = numbers("variance")
        for stage in found["stages"]:
            assert len(stage["seeds"]) == found["seeds"]
            for seed in stage["seeds"]:
                assert list(seed["ratios"]) == list(VARIANTS)
                assert 8 < seed["length"] <= 40

    def test_ratio_of_means_over_batches(self):
        def batch(variance_, signal):
            noise = {name: GradientNoise(variance_, signal) for name in VARIANTS}
            return {"length": 3.0, "explained": 0.5, "noise": noise}

        found = variance._ratios([batch(3.0, 1.0), batch(5.0, -0.5)])
        assert found["ratios"]["trajectory"] == pytest.approx(16.0)
        lost = variance._ratios([batch(3.0, -1.0)])
        assert lost["ratios"]["+ value"] == np.inf


@pytest.fixture(scope="module")
def kl_numbers():
    return jax.tree.map(np.asarray, kl.run(True, lambda text: None))


class TestKL:
    def test_what_theory_says(self, kl_numbers):
        found = kl_numbers["estimates"]
        for name in ("k1", "k3"):
            np.testing.assert_allclose(found[name]["bias"], 0, atol=2e-6)
        assert (np.abs(found["k2"]["bias"]) > 0).all()
        # Through the log-probability, k1 has no gradient on average, and k2 has the KL's own.
        np.testing.assert_allclose(found["k1"]["gradient"], 1, rtol=1e-3)
        np.testing.assert_allclose(found["k2"]["gradient"], 0, atol=1e-3)
        assert (np.diff(found["k3"]["gradient"]) > 0).all()
        assert (found["k3"]["std"][0], found["k2"]["std"][0]) < (found["k1"]["std"][0],) * 2

    def test_importance_sampling(self, kl_numbers):
        found = kl_numbers["importance"]
        np.testing.assert_allclose(found["ratio"]["bias"], 0, atol=1e-5)
        assert found["clipped"]["bias"][-1] > 0.05
        assert found["clipped"]["std"][-1] < found["ratio"]["std"][-1]

    def test_figure_and_words(self, kl_numbers, tmp_path):
        kl.draw(kl_numbers, tmp_path / "kl.png")
        assert (tmp_path / "kl.png").stat().st_size < 200_000
        assert "16 tokens" in " ".join(kl.words(kl_numbers))
