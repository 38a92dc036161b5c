"""Pairs of one's own, from a file."""

import json

import jax
import numpy as np
import pytest

from envs.tokens import make_tokens
from experiments.evaluation import tokens as token_evaluation
from experiments.run import command as cli
from experiments.run.pair_files import read_pairs

GOOD = {"prompt": "3 1 2 =", "chosen": "1 2 3 <eos>", "rejected": "1 3 2"}
SMALL = [
    *("--algo", "dpo", "--task", "sort-3", "--num-responses", "4", "--imitation-steps", "1"),
    *("--layers", "1", "--width", "16", "--heads", "2", "--kv-heads", "2", "--mlp-width", "16"),
]


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def written(tmp_path, *lines):
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return file


def test_a_file_is_read_in_the_tasks_notation(tmp_path):
    env = make_tokens("sort-3")
    file = written(tmp_path, GOOD, "", {**GOOD, "rejected": "1 <eos>", "weight": 0.5, "margin": 2})
    pairs = read_pairs(file, env)
    assert env.decode(pairs.prompts[0]) == "3 1 2 ="
    assert env.decode(pairs.chosen[0]) == "1 2 3 <eos>"
    assert env.decode(pairs.rejected[0]) == "1 3 2 <eos>"  # the stop token is added
    assert pairs.rejected_length.tolist() == [4, 2]
    assert pairs.weight.tolist() == [1.0, 0.5]
    assert pairs.margin.tolist() == [0.0, 2.0]
    assert env.score(pairs.prompts, pairs.chosen, pairs.chosen_length)[1].all()


@pytest.mark.slow
def test_what_decode_writes_is_read_back():
    for name in ("sort-3", "add-2", "countdown", "graph-path", "bandit-3"):
        env = make_tokens(name)
        prompts = env.prompts(jax.random.key(0), 4)
        for prompt, solution in zip(prompts, env.solutions(prompts), strict=True):
            np.testing.assert_array_equal(env.encode_prompt(env.decode(prompt)), prompt)
            response, length = env.encode_response(env.decode(solution))
            np.testing.assert_array_equal(response, solution)
            assert length == np.sum(np.asarray(solution) != env.pad)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no JSON: "),
        ("[]", "must be a table"),
        ({"prompt": "3 1 2 =", "chosen": "1 2 3"}, "lacks rejected"),
        ({**GOOD, "chosen": 3}, "chosen must be a name, got 3"),
        ({**GOOD, "chosen": "1 2 12"}, "chosen: '12' is no token of the task"),
        ({**GOOD, "prompt": "1 2 3 4 ="}, "prompt: a prompt has 1 to 4 tokens"),
        ({**GOOD, "rejected": "1 2 3 4 5"}, "rejected: a response has 1 to 4 tokens"),
        ({**GOOD, "rejected": "1 <eos> 2"}, "nothing follows the stop token"),
        ({**GOOD, "rejected": "1 2 3"}, "the same response"),
        ({**GOOD, "weight": -1}, "weight must be a finite number of at least 0"),
    ],
)
def test_a_bad_line_is_named(line, message, tmp_path):
    file = written(tmp_path, GOOD, line, GOOD, line)
    with pytest.raises(ValueError, match="line 2") as error:
        read_pairs(file, make_tokens("sort-3"))
    assert message in str(error.value)
    assert str(error.value).startswith(f"{file}, line 2: ")
    assert str(error.value).endswith("; 1 more bad lines: 4")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pairs", "nowhere.jsonl"], "nowhere.jsonl: No such file"),
        (["--pairs", "mine.csv"], "pairs must be samples, expert or a file FILE.jsonl"),
        (["--pairs", "empty.jsonl"], "has no pairs in it"),
        (["--pairs", "one.jsonl"], "there are 1 pairs, and num_responses = 4 takes 2"),
    ],
)
def test_bad_input_is_one_line(flags, message, tmp_path, capsys):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "one.jsonl").write_text(json.dumps(GOOD))
    assert cli.main([*SMALL, *flags], domain="tokens") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_resumed_run_refuses_another_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(token_evaluation, "PROMPTS", 4)
    file = written(tmp_path, *[GOOD] * 4)
    flags = [*SMALL, "--pairs", "mine.jsonl", "--total-steps", "32", "--out", "run"]
    assert cli.main(flags, domain="tokens") == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["config"]["pairs"] == str(file)
    assert list(config["inputs"]) == [str(file)]
    assert cli.main(["--resume", "run"], domain="tokens") == 0
    capsys.readouterr()
    written(tmp_path, *[GOOD] * 5)
    assert cli.main(["--resume", "run"], domain="tokens") == 2
    assert "mine.jsonl, which has changed since the run began" in capsys.readouterr().err
    file.unlink()
    assert cli.main(["--resume", "run"], domain="tokens") == 2
    assert "which is not there any more" in capsys.readouterr().err
