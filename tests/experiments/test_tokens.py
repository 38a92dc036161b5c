import itertools
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments
from envs.tokens import make_tokens
from envs.tokens.digits import EQUALS
from envs.tokens.task import EOS, PAD
from experiments import play
from experiments.evaluation import evaluator, tokens
from experiments.evaluation.tokens import Samples, pass_at
from experiments.grids import grid
from experiments.run import arguments, checkpoints, command, folders, loop, spec

SMALL = [
    *("--task", "sort-3", "--num-responses", "16", "--imitation-responses", "16"),
    *("--layers", "1", "--width", "16", "--heads", "2", "--kv-heads", "2", "--mlp-width", "16"),
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setattr(tokens, "PROMPTS", 16)
    monkeypatch.chdir(tmp_path)


def train(*flags):
    return command.main([*SMALL, *map(str, flags)], domain="tokens")


def rows(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def timeless(found):
    return [{k: v for k, v in r.items() if "time/" not in k and k != "wall_clock_s"} for r in found]


def test_one_command_from_imitation_to_summary(tmp_path, capsys):
    flags = ["--algo", "ppo", "--seeds", 2, "--total-steps", 16 * 4 * 3, "--out", "run"]
    assert train(*flags) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    wanted = (
        "task algo seeds per_seed parameters wall_clock_s tokens_generated tokens_per_second "
        "pass_at_1_start pass_at_8_start pass_at_1 pass_at_8 kl_to_reference"
    )
    assert not set(wanted.split()) - set(summary)
    assert summary["task"] == "sort-3"
    assert summary["eval_prompts"] == 16 * evaluator.FINAL_BATCHES
    assert 0 < summary["tokens_generated"] <= 2 * 16 * 4 * 3
    assert (tmp_path / "run/curve.png").stat().st_size > 1000
    found = rows(tmp_path / "run/seed_1")
    assert found[0]["env_steps"] == 0
    assert found[0]["eval/pass_at_1"] == summary["per_seed"][1]["pass_at_1_start"]
    shown = rows(tmp_path / "run/seed_1", "samples.jsonl")
    assert {"env_steps", "prompt", "response", "correct"} == set(shown[0])
    assert len(shown[0]["prompt"].split()) == 4  # three digits and the mark
    assert "pass@1" in capsys.readouterr().out
    for use in (lambda: play.play(["run"]), lambda: experiments.load("run")):
        with pytest.raises(ValueError, match="is a run on tokens"):
            use()


def prepared(*flags, domain="tokens"):
    return command.prepare(list(map(str, flags)), None, domain)[1]


@pytest.mark.parametrize(
    ("size", "plain"), [("sort-6", "sort"), ("add-2", "add"), ("countdown-3", "countdown")]
)
def test_presets_belong_to_the_task_and_not_to_its_spelling(size, plain):
    assert prepared("--task", size) == prepared("--task", plain)
    assert prepared("--task", size).env == f"tokens-{plain}"


def test_presets_are_those_of_every_size():
    other = prepared("--task", "sort-4")
    assert other.config == prepared("--task", "sort").config
    by_flag = prepared("--task", "sort", "--digits", 4)
    assert (by_flag.config, by_flag.env_kwargs) == (other.config, other.env_kwargs)
    assert prepared("--task", "countdown-4").config.imitation_steps == 60


def test_options_of_a_task_are_flags_of_its_runs(tmp_path, capsys):
    chosen = prepared("--task", "countdown", "--largest", 9, "--reward", "rule")
    assert chosen.env_kwargs == {"numbers": 3, "largest": 9, "reward": "rule", "split": "train"}
    assert chosen.build().env.task.largest == 9
    folders.create(tmp_path / "run", chosen.to_json())
    resumed = ["--resume", str(tmp_path / "run")]
    assert prepared(*resumed) == prepared(*resumed, "--task", "countdown-3") == chosen
    assert prepared(*resumed, "--largest", 9) == chosen
    for flags, message in [
        (("--largest", 8), "--largest 8 contradicts the run"),
        (("--task", "countdown-4"), "is a run of env tokens-countdown, not tokens-countdown-4"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepared(*resumed, *flags)
    small = prepared("--task", "sort", "--digits", 4)
    folders.create(tmp_path / "small", small.to_json())
    resumed = ["--resume", str(tmp_path / "small")]
    assert prepared(*resumed, "--task", "sort-4") == small
    with pytest.raises(ValueError, match="not tokens-sort"):
        prepared(*resumed, "--task", "sort-6")


def test_samples_are_drawn_at_temperature_1_however_training_samples(monkeypatch):
    """So pass@k of runs with other temperatures can be compared."""
    changes = {"imitation_steps": 0, "layers": 1, "width": 16, "heads": 2, "kv_heads": 2}
    plain, bold = (
        prepared("--task", "sort-3", *arguments.as_flags({**changes, **more})).build()
        for more in ({}, {"temperature": 0.3, "top_k": 2})
    )
    state = jax.jit(plain.init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 16)
    found = [jax.jit(lambda s, k, a=a: tokens.sample(a, s, k))(state, keys) for a in (plain, bold)]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_what_is_shown_of_samples_is_one_prompts(tmp_path):
    """Also where several batches are put together, with padding inside of an answer."""
    env = make_tokens("sort-2")
    n = 2 * tokens.PROMPTS
    asked = env.held_out(jax.random.key(0), n)
    prompts, responses = np.asarray(asked), np.array(env.solutions(asked))
    responses[0] = [PAD, PAD, EOS]
    correct = np.arange(n)[:, None] % 2 == np.ones((1, 8))
    zeros, lengths = np.zeros((n, 8)), np.full((n, 8), 3)
    whole = Samples(correct, zeros, lengths, zeros, zeros > 0, prompts, responses)
    halves = [Samples(*(np.split(x, 2)[i] for x in whole if x is not None)) for i in (0, 1)]
    algo = types.SimpleNamespace(env=env, config=types.SimpleNamespace(eval_prompts=None))
    shown = tokens.transcripts(algo, tokens.concatenate(halves))
    assert len(shown) == 2 * tokens.SHOWN
    assert shown[0]["response"] == "<pad> <pad> <eos>"
    for i, row in enumerate(shown):
        assert row["prompt"] == env.decode(prompts[i])
        assert row["correct"] == (i % 2 == 1)
    report = tokens.final_figures(algo, whole)
    assert report["eval_prompts"] == n
    assert report["eval_prompts_distinct"] == len({tuple(p) for p in prompts.tolist()}) < n


def test_training_step_by_step_points_to_the_command_for_tokens(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from envs.tokens.digits import Sort\n\n\nclass Mine(Sort):\n    pass\n\n\ndef make():\n    return Mine()\n"
    )
    for flags, hint in [
        (["--env", "tokens-sort", "--algo", "ppo"], "--task sort --algo ppo"),
        (["--env", "tokens-sort", "--algo", "ppo", "--help"], "--task sort --algo ppo"),
        (["--env", "tokens-sort-4", "--algo", "sac"], "--task sort-4"),
        (["--env", "tokens-add"], "--task add"),
        (["--env", "mine.py:Mine"], "mine.py:Mine"),
        (["--env", "mine.py:make", "--algo", "grpo"], "mine.py:make --algo grpo"),
    ]:
        assert command.main(flags) == 2
        error = capsys.readouterr().err
        assert "is a token task: train on it with python -m experiments.tokens --task" in error
        assert error.strip().endswith(hint)
        assert error.count("\n") == 1


def test_a_file_with_a_task_belongs_to_tokens_in_a_grid(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from envs.tokens.digits import Sort\n\n\nclass Mine(Sort):\n    pass\n"
    )
    (cell,) = grid.product([str(tmp_path / "mine.py:Mine")], ["rloo"], flags={"digits": 3})
    grid.check([cell])
    assert cell.argv()[:2] == ["--task", cell.env]


def test_a_task_from_a_file_of_ones_own(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "from envs.tokens.digits import Sort\n\n\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Descending(Sort):\n"
        "    digits: int = 2\n\n"
        "    def solution(self, prompt):\n"
        "        right = super().solution(prompt)\n"
        "        return right.at[:-1].set(right[:-1][::-1])\n"
    )
    flags = ["--task", "mine.py:Descending", *SMALL[2:], "--total-steps", "48", "--out", "run"]
    assert command.main([*flags, "--algo", "sft", "--reward", "process"], domain="tokens") == 0
    env = spec.open_run(tmp_path / "run")[1].env
    assert env.reward_kind == "process"
    assert env.decode(env.solutions(jnp.array([[3, 5, EQUALS]]))[0]) == "3 1 <eos>"


@pytest.mark.slow
def test_stopped_and_resumed_is_never_stopped(tmp_path, monkeypatch):
    """Bit for bit: no prompt is repeated, none is left out."""
    flags = ["--algo", "grpo", "--total-steps", 16 * 4 * 6]
    assert train(*flags, "--out", "whole") == 0
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    real, saved = checkpoints.save, []

    def interrupt(folder, steps, states, progress):
        real(folder, steps, states, progress)
        saved.append(steps)
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", interrupt)
    assert train(*flags, "--out", "broken") == 130
    monkeypatch.setattr(checkpoints, "save", real)
    assert 0 < saved[-1] < 16 * 4 * 6
    assert command.main(["--resume", "broken"], domain="tokens") == 0
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert timeless(rows(whole)) == timeless(rows(broken))
    assert rows(whole, "samples.jsonl") == rows(broken, "samples.jsonl")


def test_pass_at_k_is_the_share_of_choices_with_a_right_one():
    correct = np.random.default_rng(0).random((50, 6)) < 0.3
    for k in (1, 2, 5, 6):
        choices = list(itertools.combinations(range(6), k))
        expected = np.mean([[row[list(c)].any() for c in choices] for row in correct])
        assert pass_at(correct, k) == pytest.approx(expected)
    assert pass_at(correct, 1) == pytest.approx(correct.mean())
    with pytest.raises(ValueError, match="cannot be estimated from 6"):
        pass_at(correct, 7)


def test_batches_of_samples_are_put_together():
    def samples(n, value):
        return Samples(*(np.full((n, 2), value) for _ in Samples._fields))

    found = tokens.concatenate([samples(2, 1.0), samples(3, 0.0)])
    assert found.correct.shape == (5, 2)
    assert math.isclose(found.returns.mean(), 0.4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--algo", "grop"], "unknown algorithm 'grop': did you mean grpo?"),
        (["--task", "srot"], "unknown task 'srot': did you mean sort?"),
        (["--algo", "sac"], "unknown algorithm 'sac'"),
        (["--algo", "grpo", "--group-size", "1"], "group_size must be at least 2"),
        (["--algo", "grpo", "--kl-estimator", "k1"], "expected gradient of zero"),
        (["--task", "sort-99"], "digits must be between 1 and 64"),
        (["--temprature", "2"], "unknown flag --temprature: did you mean --temperature?"),
        (["--resume", "nowhere"], "nowhere is not a run"),
        (["--split", "held-out"], "would train on the very prompts that evaluation asks"),
        (["--task", "sort-4", "--digits", "5"], "sort-4 has digits 4, not 5"),
        (["--task", "countdown", "--largest", "99"], "largest must be between 2 and 33"),
        (["--task", "bandit", "--cut-responses", "mask"], "no token ends a response"),
        (["--algo", "rejection", "--cut-responses", "penalise"], "take keep or mask"),
    ],
)
def test_bad_input(flags, message, capsys):
    assert command.main(flags, domain="tokens") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_run_of_control_is_none_of_tokens(tmp_path, capsys):
    folders.create(
        tmp_path / "run",
        {
            "env": "CartPole-v1",
            "env_kwargs": {},
            "algo": "ppo",
            "config": {"total_steps": 1000},
            "seed": 0,
            "seeds": 1,
            "domain": "control",
        },
    )
    assert command.main(["--resume", "run"], domain="tokens") == 2
    assert "is a run of control, not of tokens" in capsys.readouterr().err
