"""Published weights against the logits and answers of their own library.

`fixtures/make_weights.py` made them, and says how; nothing here needs torch or a network.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.tokens.generation import Sampling, generate, token_positions
from agents.tokens.published_config import family_of, read_config, write_config
from agents.tokens.rollout import ends_with_stop
from agents.tokens.rotary import slower_frequencies
from agents.tokens.transformer import TransformerConfig, num_parameters, policy_model
from agents.tokens.transformer_config import RopeScaling
from experiments.weights import folder as weights
from experiments.weights import tokenizer_files
from experiments.weights.tensors import INDEX, read_tensor, stored_tensors

pytest.importorskip("safetensors")

FOLDERS = Path(__file__).parent / "fixtures" / "weights"
FAMILIES = ("llama", "qwen2", "qwen3", "gpt2")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    folder = FOLDERS / request.param
    expected = dict(np.load(folder / "expected.npz"))
    return request.param, weights.load(folder), expected


def logits(config, params, tokens, positions):
    @jax.jit
    def run(params, tokens, positions):
        transformer = policy_model(config).module(params)
        return transformer.logits(transformer.hidden(tokens, positions))

    return np.asarray(run(params, tokens, positions))


def places(tokens):
    return jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)


def test_logits_are_those_of_the_library(model):
    """Of whole sequences and, in the same call, of prompts with padding on the left."""
    _, given, expected = model
    tokens, prompts = jnp.asarray(expected["tokens"]), jnp.asarray(expected["prompts"])
    room = tokens.shape[1] - prompts.shape[1]
    padded = jnp.pad(prompts, ((0, 0), (room, 0)))
    positions = jnp.concatenate([places(tokens), token_positions(padded, 0)])
    found = logits(
        given.published.transformer, given.params, jnp.concatenate([tokens, padded]), positions
    )
    np.testing.assert_allclose(found[:3], expected["logits"], atol=1e-4)
    np.testing.assert_allclose(found[3:, -1], expected["last_logits"], atol=1e-4)


def test_greedy_answers_are_those_of_the_library(model):
    """Token for token, with a cache, of prompts padded on the left; up to any of two tokens that end a response."""
    name, given, expected = model
    answers = expected["answers"]
    stops = (int(answers[0, 7]), int(answers[1, 10])) if name == "llama" else None

    @jax.jit
    def answer(params, prompts):
        transformer = policy_model(given.published.transformer).module(params)
        key, size = jax.random.key(0), answers.shape[1]
        return generate(transformer, prompts, key, size, Sampling(top_k=1), pad=0, stop=stops)

    found = answer(given.params, jnp.asarray(expected["prompts"]))
    ends = np.isin(answers, stops) if stops else np.zeros(answers.shape, bool)
    after_end = np.cumsum(ends, axis=1) - ends > 0
    np.testing.assert_array_equal(found.tokens, np.where(after_end, 0, answers))
    np.testing.assert_array_equal(found.length, (~after_end).sum(axis=1))
    np.testing.assert_array_equal(ends_with_stop(found, stops), ends.any(axis=1) | (stops is None))
    assert stops is None or ends.any(axis=0).sum() > 1


def test_configurations(model):
    name, given, _ = model
    assert given.published.family == name == family_of(given.published.transformer)
    assert given.published.stops == ((2, 3) if name == "llama" else (2,))
    assert given.published.pad == 0
    assert given.published.transformer.parameters == num_parameters(given.params)


@pytest.mark.parametrize("version", [4, 5])
def test_both_versions_of_a_configuration_are_read(model, version):
    name, given, _ = model
    fields = json.loads((FOLDERS / name / "config.json").read_text())
    written = write_config(given.published.transformer, (2,), 0, "float32")
    for table in (fields, written):
        rotations = table.pop("rope_parameters", None)
        if version == 5 and rotations:
            table["rope_parameters"] = rotations
            table.pop("rope_theta", None)
            table.pop("rope_scaling", None)
        elif rotations:
            base = rotations["rope_theta"]
            kept = {k: v for k, v in rotations.items() if k != "rope_theta"}
            scaling = kept if kept["rope_type"] != "default" else None
            table |= {"rope_theta": base, "rope_scaling": scaling}
        assert read_config(table).transformer == given.published.transformer


def test_what_is_exported_is_read_again(model, tmp_path):
    """Bit for bit; of a model in bfloat16 the file has the same tensors as the library's."""
    name, given, _ = model
    config, storage = given.published.transformer, "bfloat16" if name == "qwen2" else "float32"
    weights.export(tmp_path / "new", config, given.params, stops=(2, 3), pad=0, storage=storage)
    again = weights.load(tmp_path / "new")
    assert again.published == given.published._replace(stops=(2, 3))
    for one, other in zip(
        jax.tree.leaves(again.params), jax.tree.leaves(given.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    theirs, ours = (stored_tensors(x) for x in (FOLDERS / name, tmp_path / "new"))
    assert {k: x.shape for k, x in ours.items()} == {k: x.shape for k, x in theirs.items()}
    for key, x in ours.items():
        np.testing.assert_array_equal(read_tensor(x, key), read_tensor(theirs[key], key))


@pytest.mark.parametrize("tied", [False, True])
def test_our_own_model_is_a_llama(tmp_path, tied):
    """Its scaled embeddings go into the table, the words of its task into a tokenizer, the rest is in several files."""
    config = TransformerConfig(7, layers=1, width=8, heads=2, kv_heads=1, mlp_width=12, tied=tied)
    params = jax.jit(policy_model(config).init)(jax.random.key(0))
    words = ["<pad>", "<eos>", *"01234"]
    tokenizer = tokenizer_files.of_words(words)
    weights.export(
        tmp_path / "new", config, params, stops=(1,), pad=0, tokenizer=tokenizer, shard_bytes=400
    )
    assert (tmp_path / "new" / INDEX).is_file()
    again = weights.load(tmp_path / "new")
    assert again.published.family == "llama"
    assert weights.tokenizer_names(tmp_path / "new") == dict(enumerate(words))
    tokens = jnp.array([[2, 3, 4, 6]])
    expected = logits(config, params, tokens, places(tokens))
    found = logits(again.published.transformer, again.params, tokens, places(tokens))
    np.testing.assert_allclose(found, expected, atol=2e-6)


class TestRefusals:
    @pytest.fixture
    def copy(self, tmp_path):
        shutil.copytree(FOLDERS / "qwen3", tmp_path / "copy")
        return tmp_path / "copy"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"model_type": "mamba"},
                "the architecture 'mamba' is unknown: known are llama, qwen2",
            ),
            ({"model_type": "qwen4"}, "the architecture 'qwen4' is unknown: did you mean qwen"),
            ({"layer_types": ["sliding_attention"] * 2}, "sliding windows is on"),
            ({"use_sliding_window": True}, "sliding windows is on"),
            ({"hidden_act": "relu"}, "hidden_act 'relu' is unknown: only silu is known"),
            ({"hidden_size": None}, "hidden_size is missing"),
            ({"hidden_size": "x"}, "hidden_size must be a whole number of at least 1, got 'x'"),
            ({"rms_norm_eps": 0}, "rms_norm_eps must be a number above 0, got 0"),
            ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, got 1"),
            ({"rope_parameters": {"rope_type": "yarn"}}, "rotations of type 'yarn' are unknown"),
            ({"quantization_config": {}}, "the weights are quantised"),
            ({"num_key_value_heads": 3}, "heads 4 must be a multiple of kv_heads 3"),
            ({"eos_token_id": "x"}, "eos_token_id must be a token or a list of them, got 'x'"),
        ],
    )
    def test_configurations(self, copy, changes, message):
        fields = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(fields | changes))
        (copy / "generation_config.json").unlink()
        with pytest.raises(ValueError, match=message) as error:
            weights.load_config(copy)
        assert str(error.value).startswith(str(copy))
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"num_hidden_layers": 3},
                "tensors are missing: model.layers.2.input_layernorm.weight",
            ),
            ({"num_hidden_layers": 1}, "tensors are unexpected: model.layers.1.* and 10 more"),
            ({"vocab_size": 98}, r"model.embed_tokens.weight has the shape \[97, 48\], and .*98"),
            ({"tie_word_embeddings": True}, "lm_head.weight is not the embedding"),
        ],
    )
    def test_tensors(self, copy, changes, message):
        fields = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(fields | changes))
        with pytest.raises(ValueError, match=message):
            weights.load(copy)

    def test_tokenizers_of_other_models(self, copy):
        words = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 97, "content": "<end>"}]}
        (copy / "tokenizer.json").write_text(json.dumps(words))
        with pytest.raises(ValueError, match="another model's: it has 98 tokens, and the model 97"):
            weights.load(copy)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_damaged_and_missing_files(self, copy, name):
        (copy / name).write_bytes((copy / name).read_bytes()[:100])
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            weights.load(copy)
        (copy / name).unlink()
        with pytest.raises(ValueError, match=f"no {name}"):
            weights.load(copy)

    def test_a_missing_shard(self, tmp_path):
        shutil.copytree(FOLDERS / "llama", tmp_path / "copy")
        (tmp_path / "copy" / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(ValueError, match="lacks model-00002-of-00002"):
            weights.load(tmp_path / "copy")

    def test_prompts_longer_than_the_context(self):
        config = TransformerConfig(7, context=64)
        with pytest.raises(ValueError, match="longer than the model's context of 64"):
            config.require_context(60, 5)
        config.require_context(60, 4)

    def test_forms_that_nobody_publishes(self):
        config = TransformerConfig(7, width=16, heads=2, kv_heads=2, bias_out=True)
        with pytest.raises(ValueError, match="no known architecture"):
            family_of(config)


def test_slower_rotations_by_hand():
    """Fast pairs turn as before, slow ones `factor` times slower, one between by the mean of the two."""
    scaling = RopeScaling(4.0, 1.0, 4.0, 100)
    turns = np.array([4.0, 2.5, 1.0])
    found = slower_frequencies(jnp.asarray(turns * 2 * np.pi / 100), scaling)
    expected = turns * 2 * np.pi / 100 * [1, (1 + 1 / 4) / 2, 1 / 4]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="high_turns must be more than low_turns"):
        replace(scaling, high_turns=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"bias_qkv": True, "tied": True},
        {"qk_norm": True, "head_size": 10},
        {"norm": "layer", "positions": "learned", "context": 9, "mlp": "gelu", "bias_mlp": True},
    ],
)
def test_parameters_of_variants_are_counted(options):
    config = TransformerConfig(
        7, layers=2, width=16, heads=2, kv_heads=1, mlp_width=12, bias_out=True, **options
    )
    made = jax.eval_shape(policy_model(config).init, jax.random.key(0))
    assert config.parameters == num_parameters(made)
