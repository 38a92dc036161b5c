"""SmolLM2-135M-Instruct against `transformers`: opt-in, with the folder that `fixtures/make_smollm2.py` writes.

STRIDE_SMOLLM2=DIR pytest tests/experiments/test_smollm2.py
"""

import importlib.util
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.tokens.generation import Sampling, generate
from agents.tokens.transformer import policy_model
from envs.tokens.published_tokenizer import load as load_tokenizer
from experiments.weights.folder import load

if "STRIDE_SMOLLM2" not in os.environ:
    pytest.skip("STRIDE_SMOLLM2 names no folder", allow_module_level=True)
FOLDER = Path(os.environ["STRIDE_SMOLLM2"])
_SPEC = importlib.util.spec_from_file_location(
    "questions", Path(__file__).parent / "fixtures" / "smollm2_questions.py"
)
questions = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(questions)


@pytest.fixture(scope="module")
def expected():
    return dict(np.load(FOLDER / "expected.npz"))


@pytest.fixture(scope="module")
def weights():
    return load(FOLDER)


def test_tokens_are_those_of_the_library(expected):
    tokenizer = load_tokenizer(FOLDER)
    for i, text in enumerate(questions.TEXTS):
        assert tokenizer.encode(text) == expected[f"text-{i}"].tolist()
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for kind, system in (("plain", ""), ("system", questions.SYSTEM)):
        made = load_tokenizer(FOLDER, system=system)
        for i, question in enumerate(questions.QUESTIONS):
            assert made.prompt(question) == expected[f"{kind}-{i}-prompt"].tolist()


def _padded(rows, pad):
    size = max(map(len, rows))
    return jnp.asarray([[pad] * (size - len(row)) + list(row) for row in rows], jnp.int32)


def test_logits_and_answers_are_those_of_the_library(expected, weights):
    """All prompts in one batch, padded on the left with the token that also ends responses."""
    config, tokenizer = weights.published.transformer, load_tokenizer(FOLDER)
    model = policy_model(config)
    names = sorted(name.removesuffix("-prompt") for name in expected if name.endswith("-prompt"))
    prompts = _padded([expected[f"{name}-prompt"] for name in names], tokenizer.pad)
    params = jax.tree.map(jnp.asarray, weights.params)

    @jax.jit
    def found(params):
        real = jnp.cumsum(prompts != tokenizer.pad, axis=1) > 0
        places = jnp.where(real, jnp.cumsum(real, axis=1) - 1, -1).astype(jnp.int32)
        module = model.module(params)
        return module.logits(module.hidden(prompts, places)[:, -1])

    logits = np.asarray(found(params))
    differences = [
        np.abs(x - expected[f"{n}-logits"]).max() for n, x in zip(names, logits, strict=True)
    ]
    print("greatest difference of logits:", max(differences))
    assert max(differences) < 1e-3

    @jax.jit
    def answered(params):
        return generate(
            model.module(params),
            prompts,
            jax.random.key(0),
            questions.ANSWER,
            Sampling(top_k=1),
            pad=tokenizer.pad,
            stop=tokenizer.stops,
        )

    answers = answered(params)
    for name, row, n in zip(names, answers.tokens, answers.length, strict=True):
        assert row[:n].tolist() == expected[f"{name}-answer"].tolist()
        print(name, repr(tokenizer.decode(row[:n].tolist())))
