"""Phrases as tokens, and several data sets in one task."""

import sys
import types

import numpy as np
import pytest

from envs.tokens import reasoning_gym
from envs.tokens.phrases import PhraseTokenizer, phrases_of, template
from envs.tokens.reasoning_gym import ReasoningGym
from envs.tokens.tokenizer import BYTES


def test_there_and_back():
    tokenizer = PhraseTokenizer(("How many ", "How many bits in ", " ?"))
    assert tokenizer.encode("How many bits in 7 ?") == [259, *BYTES.encode("7"), 260]
    assert tokenizer.encode("How many 7") == [258, *BYTES.encode("7")]
    rng = np.random.default_rng(0)
    parts = [*tokenizer.phrases, "x", "é", " ", "12", "How"]
    for _ in range(200):
        text = "".join(rng.choice(parts, rng.integers(0, 6)))
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.names) == 261
    assert PhraseTokenizer().encode("ab") == BYTES.encode("ab")


@pytest.mark.parametrize(
    ("questions", "found"),
    [
        (["What is 12 + 1 ?", "What is 13 + 2 ?"], ["What is "]),  # " ?" is too short
        (["Sum of 1 and 2, please.", "Sum of 3 and 42, please."], ["Sum of ", ", please."]),
        (["a", "b"], []),
        (["the same", "the same"], ["the same"]),
    ],
)
def test_templates_leave_the_numbers_out(questions, found):
    assert template(questions) == found


def test_phrases_of_several_kinds_once_each():
    kinds = [["Add 1", "Add 2"], ["Add 3", "Add 4"], ["Take 1", "Take 2"]]
    assert phrases_of(kinds) == ("Add ", "Take ")


class TestSeveralDataSets:
    """With a stand-in for the package."""

    @pytest.fixture(autouse=True)
    def package(self, monkeypatch):
        class Data(list):
            def score_answer(self, answer, entry):
                return float(answer == entry["answer"])

        def create_dataset(name, size, seed, low=0):
            return Data(
                {
                    "question": f"The {name} of {i}",
                    "answer": f"{name[0]}{i}",
                    "metadata": {"source_dataset": name},
                }
                for i in range(low, low + size)
            )

        module = types.SimpleNamespace(create_dataset=create_dataset)
        monkeypatch.setitem(sys.modules, "reasoning_gym", module)
        reasoning_gym.phrase_tokenizer.cache_clear()
        yield
        reasoning_gym.phrase_tokenizer.cache_clear()

    def test_each_question_has_its_own_data_set_and_settings(self):
        task = ReasoningGym(dataset="gcd+lcm", options="lcm.low=50", bank=10, tokens="phrases")
        assert len(task.questions.questions) == 20
        assert task.check("The gcd of 3", "g3") == 1
        assert task.check("The lcm of 53", "l53") == 1
        assert task.check("The lcm of 53", "g53") == 0
        assert task.source("The lcm of 53") == "lcm"
        # A word and two digits, whatever the data set.
        assert task.prompt_length == 3
        prompt = task.questions.prompts[0]
        assert task.text(prompt) == "The gcd of 0"

    def test_one_data_set_has_the_tokens_of_all(self):
        one, both = (
            ReasoningGym(dataset=name, bank=10, tokens="phrases") for name in ("gcd", "gcd+lcm")
        )
        assert one.vocabulary == both.vocabulary
        assert set(one.questions.questions) < set(both.questions.questions)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"dataset": "gcd+lmc"}, "unknown data set 'lmc' of reasoning-gym: did you mean lcm"),
            ({"options": "low=1"}, "are written gcd.low=number"),
            (
                {"options": "products.low=1"},
                "options name 'products', and the data sets are gcd, lcm",
            ),
            ({"tokens": "phrases", "tokenizer": "x"}, "--tokens phrases are of our own"),
        ],
    )
    def test_bad_input(self, options, message):
        with pytest.raises(ValueError, match=message):
            ReasoningGym(**{"dataset": "gcd+lcm", "bank": 10, **options})
