"""Low-rank adapters in PEFT's format, and the flags `--adapter` and `--lora`."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.tokens.lora_config import Lora
from agents.tokens.pretrained import pretrained_model
from agents.tokens.transformer import TransformerConfig, parameter_paths, policy_model
from envs.tokens import make_tokens
from experiments.evaluation import tokens as token_evaluation
from experiments.run import command as cli
from experiments.run import export, records
from experiments.run.spec import Spec
from experiments.weights import adapter, tokenizer_files
from experiments.weights import folder as weights

pytest.importorskip("safetensors")
FIXTURES = Path(__file__).parent / "fixtures"
BASE, ADAPTER = FIXTURES / "weights" / "llama", FIXTURES / "adapter"
ENV = make_tokens("sort-3")
SIZES = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "mlp_width": 24}
RUN = [
    *("--task", "sort-3", "--algo", "grpo", "--imitation-steps", "0", "--num-responses", "16"),
    *("--group-size", "4", "--learning-rate", "1e-2", "--total-steps", "64"),
]


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(token_evaluation, "PROMPTS", 4)


@pytest.fixture(scope="module")
def given():
    return weights.load(BASE)


def adapted(given, lora, leaves):
    """Returns a model's configuration with adapters, and its parameters."""
    config = replace(given.published.transformer, lora=lora)
    network = pretrained_model(config, given.params, adapter=leaves)
    return config, jax.jit(network.init)(jax.random.key(0))["policy"]


def logits(config, params, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)

    def found(params):
        model = policy_model(config).module(params)
        return model.logits(model.hidden(tokens, positions))

    return np.asarray(jax.jit(found)(params))


def test_logits_are_pefts(given, tmp_path):
    """An adapter by PEFT is read, and written again with the same tensors."""
    found = adapter.read(ADAPTER, given.published.transformer)
    assert found.lora == Lora(3, 6.0, ("q_proj", "o_proj", "down_proj"))
    config, params = adapted(given, *found)
    expected = np.load(ADAPTER / "expected.npz")
    tokens = jnp.asarray(expected["tokens"], jnp.int32)
    np.testing.assert_allclose(logits(config, params, tokens), expected["logits"], atol=1e-4)
    adapter.write(tmp_path / "new", config, params, "base", "float32")
    again = adapter.read(tmp_path / "new", config)
    assert again.lora == found.lora
    for path, x in found.leaves.items():
        np.testing.assert_array_equal(again.leaves[path], x)


@pytest.mark.skipif("STRIDE_ADAPTER" not in os.environ, reason="writes a folder for PEFT")
def test_written_for_peft(given):
    """Writes an adapter and its logits to $STRIDE_ADAPTER, for `fixtures/make_adapter.py check`."""
    lora, rng = Lora(4, 8.0, ("k_proj", "v_proj", "gate_proj", "up_proj")), np.random.default_rng(1)
    config = replace(given.published.transformer, lora=lora)
    shapes = jax.eval_shape(policy_model(config).init, jax.random.key(0))
    leaves = {
        path: rng.normal(0, 0.2, x.shape).astype(np.float32)
        for path, x in zip(parameter_paths(shapes), jax.tree.leaves(shapes), strict=True)
        if "lora" in path
    }
    config, params = adapted(given, lora, leaves)
    folder = Path(os.environ["STRIDE_ADAPTER"])
    adapter.write(folder, config, params, str(BASE), "float32")
    tokens = jnp.asarray(rng.integers(3, 97, (2, 9)), jnp.int32)
    np.savez(folder / "expected.npz", tokens=tokens, logits=logits(config, params, tokens))


def test_faults(given, tmp_path):
    """Each is one line that names the file."""
    good = json.loads((ADAPTER / "adapter_config.json").read_text())
    for change, message in [
        ({"peft_type": "IA3"}, "adapters of type 'IA3' are unknown: only LORA is known"),
        ({"use_dora": True}, "use_dora is set, and these adapters have no such thing"),
        ({"bias": "all"}, "bias 'all' trains biases"),
        ({"r": "3"}, "r and lora_alpha must be numbers, got '3'"),
        ({"target_modules": "q.*"}, "target_modules must be a list of names, got 'q.*'"),
        (
            {"target_modules": ["lm_head"]},
            "the matrix lm_head can have no adapter: known are q_pro",
        ),
        ({"r": 4}, "has the shape .*, and r is 4"),
        ({"target_modules": ["q_proj"]}, "has, unexpectedly, .*o_proj.*and 7 more|and . more"),
        ({"target_modules": ["q_proj", "o_proj", "down_proj", "v_proj"]}, "lacks base_model.model"),
    ]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(good | change))
        (folder / "adapter_model.safetensors").write_bytes(
            (ADAPTER / "adapter_model.safetensors").read_bytes()
        )
        with pytest.raises(ValueError, match=message) as caught:
            adapter.read(folder, given.published.transformer)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks adapter_model\.safetensors"):
        adapter.read(folder, given.published.transformer)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "model"
    config = TransformerConfig(ENV.vocabulary_size, **SIZES, context=16)
    params = jax.jit(policy_model(config).init)(jax.random.key(0))
    words = tokenizer_files.of_words(ENV.task.vocabulary)
    weights.export(folder, config, params, stops=(1,), pad=0, tokenizer=words)
    return folder


@pytest.mark.slow
def test_from_an_adapter_to_an_adapter(model, tmp_path, capsys):
    """A run trains adapters, exports them and the merged model; another goes on from them."""
    lora = ["--lora", "2", "--lora-targets", "q_proj", "up_proj"]
    assert cli.main([*RUN, "--model", str(model), *lora, "--out", "run"], domain="tokens") == 0
    assert export.command(["--export", "adapter", "--run", "run", "--adapter"]) == 0
    assert export.command(["--export", "merged", "--run", "run"]) == 0
    base, merged = weights.load(model), weights.load(tmp_path / "merged")
    config, params = adapted(base, *adapter.read(tmp_path / "adapter", base.published.transformer))
    tokens = jnp.array([[2, 3, 4, 5, 6]])
    found = logits(config, params, tokens)
    np.testing.assert_allclose(
        logits(merged.published.transformer, merged.params, tokens), found, atol=1e-5
    )
    assert np.abs(found - logits(base.published.transformer, base.params, tokens)).max() > 1e-4

    more = [*RUN, "--model", str(model), "--adapter", "adapter", "--out", "more"]
    *_, spec, algo, _, _ = cli.prepare(more, None, "tokens")
    assert (spec.config.lora, spec.config.lora_targets) == (2, ("q_proj", "up_proj"))
    stored = json.loads(json.dumps(spec.to_json()))
    assert Spec.from_json(stored) == spec
    assert f"--adapter {tmp_path / 'adapter'}" in records.command(stored)
    first = jax.jit(algo.init)(jax.random.key(0)).params["policy"]
    np.testing.assert_allclose(logits(algo.model_config, first, tokens), found, atol=1e-6)
    assert cli.main([*more, "--lora", "3"], domain="tokens") == 2
    assert "--lora 3 contradicts the adapter in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora", "2"], "--lora 2 adapts published weights: give --model DIR, too"),
        (["--adapter", "x"], "--adapter .*x changes a model: give --model DIR, too"),
        (["--adapter"], "--adapter needs the folder of a low-rank adapter"),
        (
            ["--model", "MODEL", "--adapter", "x"],
            "x holds no adapter: it has no adapter_config.json",
        ),
        (
            ["--model", "MODEL", "--lora", "2", "--lora-alpha", "-1"],
            "alpha must be positive, got -1",
        ),
    ],
)
def test_bad_flags(model, flags, message, capsys):
    flags = [str(model) if word == "MODEL" else word for word in flags]
    assert cli.main([*RUN, *flags, "--out", "run"], domain="tokens") == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
