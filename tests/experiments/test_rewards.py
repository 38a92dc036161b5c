"""Reward models on disk, the flag `--reward`, and the policy's answers."""

import json
import os
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.tokens.generation import Generated
from agents.tokens.reward_model import RewardModel, RewardModelConfig, RewardParams
from envs.tokens import make_tokens
from experiments import reward as command
from experiments.evaluation import best_of
from experiments.evaluation import tokens as token_evaluation
from experiments.evaluation.tokens import Samples
from experiments.run import answers, memory, records, reward_models, reward_training, rewards
from experiments.run import command as cli

MODEL = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 2, "mlp_width": 16}
SMALL = [
    *("--task", "sort-3", "--num-responses", "8", "--imitation-steps", "1"),
    *("--layers", "1", "--width", "16", "--heads", "2", "--kv-heads", "2", "--mlp-width", "16"),
]
ENV = {"env_name": "tokens-sort-3", "env_kwargs": {"digits": 3, "reward": "process"}}


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(token_evaluation, "PROMPTS", 4)
    monkeypatch.setattr(token_evaluation, "FINAL_PROMPTS", 4)


def saved(folder, task="sort-3", change=lambda x: x, name=None, seed=0, **kwargs):
    env = make_tokens(task)
    model = RewardModel(RewardModelConfig(**MODEL), env.vocabulary_size, env.pad)
    params = model.start(jax.random.key(seed)).params
    keys = jax.random.key(seed + 1)
    params = jax.tree.map(lambda x: change(x + 0.1 * jax.random.normal(keys, x.shape)), params)
    whole = RewardParams(params, jnp.float32(0.25), jnp.float32(1.5))
    given = ENV | ({"env_name": name} if name else {}) | kwargs
    reward_models.save(folder, model, whole, env=env, seed=seed, report={"agreement": 0.8}, **given)
    return model, whole, env


def test_saved_is_loaded_bit_for_bit(tmp_path):
    model, params, env = saved(tmp_path / "model")
    reward, config = reward_models.load(tmp_path / "model")
    for a, b in zip(*map(jax.tree.leaves, (params, reward.params)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    prompts = env.prompts(jax.random.key(2), 5)
    rows = prompts, env.solutions(prompts), jnp.full(5, 4)
    score = reward.score(reward.params, *rows)
    np.testing.assert_array_equal(score, model.score(params, *rows))
    assert np.std(score) > 0
    assert config["agreement"] == 0.8
    assert config["vocabulary"] == list(env.task.vocabulary)


def refused(text, capsys, *more):
    assert cli.main([*SMALL, "--reward", text, "--out", "run", *more], domain="tokens") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_what_is_no_reward_model_of_this_task_is_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "run-of-control").mkdir()
    (tmp_path / "run-of-control/config.json").write_text('{"algo": "ppo"}')
    (tmp_path / "empty").mkdir()
    saved(tmp_path / "other-task", name="tokens-reverse-3")
    saved(tmp_path / "other-size", env_kwargs={"digits": 4})
    saved(tmp_path / "other-vocabulary", "add-2", name="tokens-add")
    saved(tmp_path / "nan", change=lambda x: x * jnp.nan)
    saved(tmp_path / "damaged")
    content = bytearray((tmp_path / "damaged/params.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged/params.npz").write_bytes(content)
    saved(tmp_path / "good")
    for text, message in [
        ("model:nowhere", "nowhere is not a reward model: it has no config.json"),
        ("model:empty", "is not a reward model: it has no config.json"),
        ("model:run-of-control", "is a run, not a reward model"),
        ("model:other-task", "is a reward model of tokens-reverse-3"),
        ("model:other-size", "(digits 4), not of tokens-sort-3 (digits 3)"),
        ("model:other-vocabulary", "of another vocabulary: 14 tokens, and the task has 13"),
        ("model:nan", "scores NaN"),
        ("model:damaged", "is damaged"),
        ("model:good,good", "several models are ensemble:DIR,DIR"),
        ("ensemble:good", "at least two members"),
        ("sum:model:good", "wanted is sum:W*TERM"),
        ("sum:1*modle:good", "did you mean model"),
        ("modle:good", "--reward"),
    ]:
        assert message in refused(text, capsys)
    assert "which learns from no reward" in refused("model:good", capsys, "--algo", "sft")
    for n in ("0", "3000000"):
        assert f"between 1 and 1048576, got {n}" in refused("model:good", capsys, "--best-of", n)
    assert "--best-of 4 picks by a learned reward" in refused("rule", capsys, "--best-of", "4")
    monkeypatch.setattr(memory, "free_on_device", lambda: 2**30)
    line = refused("model:good", capsys, "--best-of", "1048576")
    assert "memory: the answers that the best is picked from would take" in line
    assert line.endswith("lower --best-of\n")
    expert = ("--algo", "dpo", "--pairs", "expert")
    assert "a reward ranks samples" in refused("model:good", capsys, *expert)


def test_the_flag_is_split_from_the_tasks_own_rewards(tmp_path):
    here = tmp_path.as_posix()
    assert rewards.split_flag(["--reward", "rule"]) == (["--reward", "rule"], None)
    assert rewards.split_flag(["--reward=verifier"]) == (["--reward", "exact"], None)
    assert rewards.split_flag(["--seed", "1", "--reward", "ensemble:a,b"]) == (
        ["--seed", "1"],
        f"ensemble:{here}/a,{here}/b",
    )
    text = rewards.split_flag(["--reward=sum:0.5*rule+-1e-1*model:a+b"])[1]
    assert text == f"sum:0.5*rule+-0.1*model:{here}/a+b"
    assert list(map(str, rewards.model_folders(text))) == [f"{here}/a+b"]


def test_rewards_are_what_the_flag_names(tmp_path):
    _, _, env = saved(tmp_path / "a")
    saved(tmp_path / "b", seed=5)
    prompts = env.prompts(jax.random.key(0), 4)
    rows = prompts, env.solutions(prompts), jnp.full(4, 4)

    def total(text):
        return np.sum(rewards.build(text, "tokens-sort-3", {"digits": 3}, env).of_tokens(*rows), 1)

    a, b = total("model:a"), total("model:b")
    assert not np.array_equal(a, b)
    np.testing.assert_allclose(total("ensemble:a,b"), np.minimum(a, b), rtol=1e-6)
    careful = (a + b) / 2 - 0.5 * np.var([a, b], axis=0)
    np.testing.assert_allclose(total("ensemble-variance:a,b"), careful, rtol=1e-5)
    np.testing.assert_allclose(total("process"), np.ones(4), rtol=1e-6)
    np.testing.assert_allclose(total("sum:2*rule+0.5*model:a"), 2.0 + 0.5 * a, rtol=1e-5)


@pytest.mark.slow
def test_a_run_learns_from_a_model_and_answers(tmp_path, capsys):
    """The verifier is logged beside it; a resumed run refuses another model."""
    saved(tmp_path / "model")
    flags = ["--algo", "rloo", "--total-steps", "64", "--reward", "model:model", "--out", "run"]
    flags += ["--best-of", "3"]
    assert cli.main([*SMALL, *flags], domain="tokens") == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["reward"] == f"model:{tmp_path}/model"
    assert list(config["inputs"]) == [f"{tmp_path}/model"]
    assert f"--reward model:{tmp_path}/model --best-of 3" in records.command(config)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert all(0 <= summary["per_seed"][0][f"best_of_{n}"] <= 1 for n in (1, 2, 3, 8))
    rows = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {"train/reward", "train/return", "train/correct"} <= rows[-1].keys()
    assert rows[-1]["eval/pass_at_1"] <= rows[-1]["eval/best_of_8"] + 1.0
    assert "eval/proxy" in rows[0]
    capsys.readouterr()
    ask = ["--answer", "run", "--prompt", "3 1 2 ="]
    assert answers.command(ask) == 0
    first = capsys.readouterr().out
    assert "prompt    3 1 2 =\nanswer    " in first
    assert "verifier  " in first
    assert "reward    " in first
    assert answers.command([*ask, "--seed", "7"]) == 0
    assert capsys.readouterr().out == first  # the likeliest token each time
    assert answers.command([*ask, "--best-of", "3"]) == 0
    assert "the highest of 3" in capsys.readouterr().out
    many = ["--answer", "run", "--prompts", "6", "--best-of", "3"]
    assert answers.command(many) == 0
    out = capsys.readouterr().out
    assert "6 held-out prompts" in out
    assert [n in out for n in ("best of 1", "best of 2", "best of 3", "best of 4")] == [1, 1, 1, 0]
    for more, message in [
        (["--prompts", "6"], "in place of --prompt"),
        (["--prompt", "3 1 x ="], "'x' is no token of the task"),
        (["--best-of", "0"], "--best-of must be between 1 and 1048576, got 0"),
        (["--seed-index", "3"], "there is no index 3"),
        (["--reward", "model:nowhere"], "is not a reward model"),
    ]:
        with pytest.raises(ValueError, match=message):
            answers.command([*ask, *more])
    resumed = ["--resume", "run"]
    assert cli.main([*resumed, "--best-of", "2"], domain="tokens") == 2
    assert "--best-of 2 contradicts the run" in capsys.readouterr().err
    assert cli.main([*resumed, "--reward", "model:another"], domain="tokens") == 2
    assert "contradicts the run" in capsys.readouterr().err
    (tmp_path / "model/config.json").write_text("{}")
    assert cli.main(resumed, domain="tokens") == 2
    assert "model, which has changed since the run began" in capsys.readouterr().err


def test_the_best_by_proxy_is_between_one_sample_and_eight():
    correct = np.array([[True, False, False], [False, True, True], [False, False, False]])
    proxy = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 5.0], [1.0, 1.0, 1.0]])
    found = Samples(correct, *[None] * 6, proxy)
    assert token_evaluation.best_by_proxy(found) == pytest.approx(2 / 3)
    tied = found._replace(proxy=np.zeros((3, 3)))
    assert token_evaluation.best_by_proxy(tied) == pytest.approx(correct.mean())


def test_one_command_trains_measures_and_saves(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "HELD_OUT", 32)
    monkeypatch.setattr(command, "PROMPTS", 4)
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in MODEL.items()]
    sizes = ["--task", "sort-3", "--num-pairs", "64", "--step-pairs", "16", "--out", "model"]
    assert command.train([*sizes, *flags, "--imitation-steps", "20"]) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "best of 64" in out
    reward, config = reward_models.load(tmp_path / "model")
    assert 0.0 <= config["agreement"] <= 1.0
    assert set(config["gold_best_of"]) == {"1", "4", "16", "64"}
    assert config["env_kwargs"] == {"digits": 3, "reward": "process", "split": "train"}
    proxies = [config["proxy_best_of"][n] for n in ("1", "4", "16", "64")]
    assert proxies == sorted(proxies)
    assert float(reward.params.std) > 0
    with pytest.raises(OSError, match="exists already"):
        command.train([*sizes, *flags])


@pytest.fixture
def small_command(monkeypatch):
    """Flags of the smallest training."""
    monkeypatch.setattr(command, "HELD_OUT", 32)
    monkeypatch.setattr(command, "PROMPTS", 4)
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in MODEL.items()]
    sizes = ["--task", "sort-3", "--num-pairs", "64", "--step-pairs", "16"]
    return [*sizes, *flags, "--imitation-steps", "20"]


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_to_the_same_model(
    tmp_path, monkeypatch, capsys, small_command
):
    assert command.train([*small_command, "--out", "whole"]) == 0
    call, calls = reward_training.Control.call, []

    def stopped(*given, **options):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return call(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(reward_training.Control, "call", stopped)
        assert command.train([*small_command, "--out", "again"]) == 128 + signal.SIGTERM
    advice = "stopped; resume with: python -m experiments.reward --resume again"
    assert advice in capsys.readouterr().out
    with pytest.raises(OSError, match="--resume again continues its training"):
        command.train([*small_command, "--out", "again"])
    assert command.train(["--resume", "again"]) == 0
    assert "resumed at step 6" in capsys.readouterr().out
    whole, again = (reward_models.read_config(tmp_path / name) for name in ("whole", "again"))
    for name in ("sha256", "agreement", "gold_best_of", "proxy_best_of"):
        assert again[name] == whole[name]
    left = {path.name for path in (tmp_path / "again").iterdir()}
    assert left - {".lock"} == {"config.json", "params.npz"}
    with pytest.raises(ValueError, match="again has no training to resume: its model is finished"):
        command.train(["--resume", "again"])


def test_what_is_no_training_to_resume_is_one_line(tmp_path, small_command):
    (tmp_path / "pairs.jsonl").write_text("")
    settings = command.read(small_command).to_json()
    reward_training.begin(tmp_path / "here", settings)
    reward_training.begin(tmp_path / "odd", settings | {"config": {"width": "wide"}})
    reward_training.begin(tmp_path / "pairs", settings | {"pairs": str(tmp_path / "pairs.jsonl")})
    (tmp_path / "pairs.jsonl").write_text("other\n")
    (tmp_path / "own.py").write_text("raise SystemExit('executed')")
    reward_training.begin(tmp_path / "code", settings | {"imports": [str(tmp_path / "own.py")]})
    (tmp_path / "own.py").write_text("raise SystemExit('another')")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text('{"algo": "ppo"}')
    for more, message in [
        (["--resume", "here", "--seed", "3"], "--seed 3 contradicts the run in here"),
        (["--resume", "here", "--task", "reverse-3"], "is a training for tokens-sort"),
        (["--resume", "here", "--width", "32"], "--width 32 contradicts the run in here"),
        (["--resume", "here", "--out", "there"], "leave out --out"),
        (["--out", "here"], "--resume here continues its training"),
        (["--resume", "odd"], "odd/training.json"),
        (["--resume", "pairs"], "pairs.jsonl, which has changed since"),
        (["--resume", "code"], "the file is another one than when the run began"),
        (["--resume", "nowhere"], "nowhere has no training to resume: it has no training.json"),
        (["--resume", "empty"], "empty has no training to resume: it has no training.json"),
        (["--resume", "run"], "run has no training to resume: it is a run"),
        (["--trust"], "--trust goes with --resume"),
    ]:
        with pytest.raises((ValueError, OSError), match=message) as error:
            command.train(more)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "srot"], "did you mean sort"),
        (["--kind", "prm"], "kind"),
        (["--num-pairs", "8"], "there are 8 pairs, and step_pairs = 64"),
        (["--pairs", "nowhere.jsonl", "--kind", "process"], "leave out --pairs"),
        (["--label-flips", "0.7"], "below 0.5"),
    ],
)
def test_bad_input(flags, message):
    with pytest.raises(ValueError, match=message) as error:
        command.train(flags)
    assert "\n" not in str(error.value)


def test_the_best_of_many_by_the_verifier_itself_is_pass_at_n():
    """A reward that knows the answer: 1 - (1 - p)^n for independent samples of probability p."""
    env = make_tokens("bandit-3")
    algo = types.SimpleNamespace(env=env)

    def respond(params, prompts, key, sampling):
        tokens = jax.random.randint(key, (len(prompts), 1), 5, 8)
        return Generated(tokens, jnp.zeros(tokens.shape), jnp.ones(len(prompts), jnp.int32))

    algo.respond = respond
    algo.verify = lambda prompts, found: env.score(prompts, found.tokens, found.length)
    gold = answers.Reward(lambda params, p, r, n: env.score(p, r, n)[1].astype(jnp.float32))
    shares = best_of.measured(algo, None, jax.random.key(0), 2000, 4, gold)
    expected = {n: 1 - (2 / 3) ** n for n in (1, 2, 4)}
    assert shares == pytest.approx(expected, abs=0.03)
    blind = best_of.measured(algo, None, jax.random.key(0), 2000, 3, None)
    assert blind == pytest.approx(dict.fromkeys((1, 2, 3), 1 / 3), abs=0.03)


def test_an_answer_is_the_draw_of_the_highest_reward():
    env = make_tokens("bandit-3")
    draws = jnp.array([[5], [6], [7]])
    algo = types.SimpleNamespace(env=env)
    found = Generated(draws, jnp.zeros(draws.shape), jnp.ones(3, jnp.int32))
    algo.respond = lambda params, prompts, key, sampling: found
    algo.verify = lambda prompts, found: (
        *env.score(prompts, found.tokens, found.length),
        jnp.zeros(3, bool),
    )
    reward = answers.Reward(lambda params, p, r, n: -jnp.abs(r[:, 0] - 6.0))
    prompt = env.encode_prompt("context0")
    text, lines = answers.answer(algo, None, prompt, jax.random.key(0), None, 3, reward)
    assert text == "arm1"
    assert lines[0] == "verifier  1, right"
    assert "the highest of 3" in lines[1]
