"""`--model DIR` and `--export NEW --run DIR` of token runs."""

import json
import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from agents.tokens.ppo import TokenPPO, TokenPPOConfig
from agents.tokens.transformer import TransformerConfig, parameter_paths, policy_model
from envs.tokens import make_tokens
from experiments.evaluation import tokens as token_evaluation
from experiments.run import command as cli
from experiments.run import export, records
from experiments.run.spec import Spec
from experiments.weights import folder as weights
from experiments.weights import tokenizer_files

pytest.importorskip("safetensors")

ENV = make_tokens("sort-3")
SIZES = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "mlp_width": 24, "tied": True}
CONFIG = TransformerConfig(ENV.vocabulary_size, **SIZES, qk_norm=True, context=16)
CONFIG_READ = replace(CONFIG, scaled_embedding=False)
RUN = [
    *("--task", "sort-3", "--algo", "grpo", "--imitation-steps", "0", "--num-responses", "16"),
    *("--group-size", "4", "--learning-rate", "1e-3", "--total-steps", "64"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "model"
    params = jax.jit(policy_model(CONFIG).init)(jax.random.key(0))
    words = tokenizer_files.of_words(ENV.task.vocabulary)
    weights.export(folder, CONFIG, params, stops=(1,), pad=0, tokenizer=words)
    return folder


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(token_evaluation, "PROMPTS", 4)


def test_a_run_takes_the_models_sizes(model):
    *_, spec, algo, _, _ = cli.prepare([*RUN, "--model", str(model)], None, "tokens")
    assert spec.model == str(model)
    assert {name: getattr(spec.config, name) for name in SIZES} == SIZES
    assert algo.model_config == CONFIG_READ
    stored = json.loads(json.dumps(spec.to_json()))
    assert Spec.from_json(stored) == spec
    assert f"--model {model}" in records.command(stored)


@pytest.mark.slow
def test_from_a_folder_to_a_folder(model, tmp_path, capsys):
    """A run begins with the model's parameters, goes on from there, is resumed, and exported."""
    args = [*RUN, "--model", str(model), "--out", "run"]
    assert cli.main(args, domain="tokens") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model"] == str(model)
    assert {name: config["config"][name] for name in SIZES} == SIZES
    assert config["inputs"] == {str(model): weights.digest(model)}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["parameters"] == CONFIG.parameters
    assert 0 < summary["kl_to_reference"] < 1  # it moved, but not far

    assert export.command(["--export", "new", "--run", "run"]) == 0
    before, after = weights.load(model), weights.load(tmp_path / "new")
    assert after.published.transformer == before.published.transformer
    assert after.published.stops == (1,)
    moved = [
        np.abs(a - b).max()
        for a, b in zip(*(jax.tree.leaves(x.params) for x in (before, after)), strict=True)
    ]
    assert 0 < max(moved) < 0.05

    assert cli.main(["--resume", "run", "--model", "elsewhere"], domain="tokens") == 2
    assert "elsewhere is not a published model" in capsys.readouterr().err
    assert export.asked(["--export", "new"])
    with pytest.raises(ValueError, match="new is there already"):
        export.command(["--export", "new", "--run", "run"])


def test_a_critic_begins_with_the_policys_layers(model):
    algo = TokenPPO(TokenPPOConfig(imitation_steps=0, **SIZES), ENV)
    given = weights.load(model)
    started = algo.starting_from(given.published.transformer, given.params)
    assert started.model_config == given.published.transformer
    params = jax.jit(jax.vmap(started.network.init))(jax.random.split(jax.random.key(1), 2))
    policy, critic = (
        dict(zip(parameter_paths(params[part]), jax.tree.leaves(params[part]), strict=True))
        for part in ("policy", "critic")
    )
    for name, x in critic.items():
        assert (x == policy.get(name, 0)).all()
    assert set(critic) - set(policy) == {"head.kernel"}
    wanted = jax.tree.leaves(given.params)
    for x, y in zip(jax.tree.leaves(params["policy"]), wanted, strict=True):
        np.testing.assert_array_equal(x, np.stack([y, y]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layers", "2"], "--layers 2 contradicts the model in .*, which has 1"),
        (["--no-tied"], "--no-tied contradicts the model in .*, which has True"),
        (["--task", "sort-9"], "a prompt of 10 tokens with a response of 10 is longer than"),
        (["--task", "add-2"], "has another vocabulary than the task: token "),
    ],
)
def test_contradictions(model, flags, message, capsys, tmp_path):
    args = [*RUN, "--model", str(model), "--out", "run"]
    if flags[0] == "--task":
        args[:2] = []
    assert cli.main([*args, *flags], domain="tokens") == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model"], "--model needs the folder of a published model"),
        (["--model", "nowhere"], "nowhere is not a published model: it has no config.json"),
    ],
)
def test_no_models(flags, message, capsys):
    assert cli.main([*RUN, *flags], domain="tokens") == 2
    assert message in capsys.readouterr().err
