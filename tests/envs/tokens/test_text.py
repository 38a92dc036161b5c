"""Tasks in text: bytes, banks of questions, checkers in Python."""

import dataclasses
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.callback import HostError
from envs.tokens import TextTask, make_tokens, token_factory
from envs.tokens.task import EOS, FIRST, PAD
from envs.tokens.tokenizer import BYTES


@dataclasses.dataclass(frozen=True)
class Double(TextTask):
    """Twice a number; the number itself is half right."""

    bank: int = 64
    prompt_tokens: int = 5
    response_tokens: int = 6

    def question(self, rng):
        return f"{rng.integers(100)} x2"[: self.prompt_tokens]

    def check(self, question, answer):
        if answer == "boom":
            raise KeyError("boom")
        return 0.5 if answer == question.split()[0] else answer == self.solve(question)

    def solve(self, question):
        return str(2 * int(question.split()[0]))


ENV = make_tokens(Double(), reward="process")


def test_bytes_there_and_back():
    rng = np.random.default_rng(0)
    texts = ["", "a b\n", "naïve 東京 🙂", "<eos>"]
    texts += ["".join(map(chr, rng.integers(32, 0x2FFF, n))) for n in range(1, 200)]
    for text in texts:
        ids = BYTES.encode(text)
        assert all(FIRST <= i < len(BYTES.names) for i in ids)
        assert BYTES.decode(ids) == text
    assert len(set(BYTES.names)) == len(BYTES.names) == 258
    assert BYTES.decode([PAD, *BYTES.encode("é")[:1], *BYTES.encode("x"), EOS]) == "x"


def test_prompts_are_questions_of_the_bank_and_held_out_ones_are_never_trained_on():
    task = Double()
    train, held_out = (
        {task.text(p) for p in np.asarray(draw(jax.random.key(0), 200))}
        for draw in (ENV.prompts, ENV.held_out)
    )
    assert train | held_out <= set(task.questions.questions)
    assert len(train) > 30
    assert held_out
    assert not train & held_out
    assert task.questions.questions == Double().questions.questions
    assert task.questions.questions != Double(bank_seed=1).questions.questions


def test_the_split_is_the_questions_whatever_its_length():
    short, long = Double(), Double(prompt_tokens=30)
    for text in ("1 x2", "99 x2"):
        ids = [*text.encode()]
        rows = [np.array([PAD] * (n - len(ids)) + ids) for n in (5, 30)]
        one, other = (
            task.canonical(jnp.asarray(x)) for task, x in zip((short, long), rows, strict=True)
        )
        assert one == other
    assert short.canonical(jnp.arange(5)) != short.canonical(jnp.arange(5)[::-1])


def test_few_questions_make_a_small_bank():
    assert 90 < len(Double(bank=200).questions.questions) <= 100


def test_answers_are_scored_by_the_checker():
    prompts = jnp.asarray([ENV.encode_prompt("21 x2")] * 4)
    answers = ["42", "21", "7", "42"]
    rows = [ENV.encode_response(text) for text in answers]
    responses = jnp.asarray([row for row, _ in rows])
    lengths = jnp.asarray([n for _, n in rows]).at[3].add(-1)  # without its end
    rewards, correct = jax.jit(ENV.score)(prompts, responses, lengths)
    assert correct.tolist() == [True, False, False, False]
    assert rewards.sum(axis=1).tolist() == [1.0, 0.5, 0.0, 0.0]
    assert rewards[0].tolist() == [0, 0, 1, 0, 0, 0]
    solutions = ENV.solutions(prompts[:2])
    assert ENV.decode(solutions[0], 3) == "42<eos>"
    assert (solutions[:, 3:] == PAD).all()
    assert ENV.decode(prompts[0]) == "21 x2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_tokens": 4, "bank_seed": 3}, None),
        ({"response_tokens": 2}, "the solution '42' has 3 tokens with its end, and response_tok"),
    ],
)
def test_what_does_not_fit(change, message):
    task = Double(**change)
    if message is None:
        assert all(len(q) <= 4 for q in task.questions.questions)
        return
    with pytest.raises(HostError, match=message):
        task._solution(ENV.encode_prompt("21 x2"))


def test_questions_that_are_too_long():
    class Long(Double):
        def question(self, rng):
            return "too long"

    with pytest.raises(ValueError, match="'too long' has 8 tokens, and prompt_tokens is 5"):
        _ = Long().questions


def test_a_checker_that_raises_is_named():
    prompt = ENV.encode_prompt("21 x2")
    response, length = ENV.encode_response("boom")
    with pytest.raises(HostError, match="raised KeyError: 'boom' on the question '21 x2'"):
        Double()._scores(prompt[None], response[None], np.array([length]))


class TestReasoningGym:
    """With a stand-in for the package, which tests do without."""

    @pytest.fixture(autouse=True)
    def package(self, monkeypatch):
        class Data(list):
            def score_answer(self, answer, entry):
                return 1.0 if answer == entry["answer"] else 0.5 * (entry["answer"] in answer)

        def create_dataset(name, size, seed, max_terms=2):
            assert max_terms > 1, "max_terms must be above 1"
            numbers = range(seed, seed + size)
            return Data({"question": f"{i} + {i} =", "answer": str(2 * i)} for i in numbers)

        module = types.SimpleNamespace(create_dataset=create_dataset)
        monkeypatch.setitem(sys.modules, "reasoning_gym", module)

    def test_questions_and_scores(self):
        env = token_factory("reasoning-gym:chain_sum")(bank=100, reward="process")
        assert env.prompt_length == len("99 + 99 =")
        prompts = jnp.asarray([env.encode_prompt("7 + 7 =")] * 3)
        rows = [env.encode_response(text) for text in ("14", "it is 14", "15")]
        responses, lengths = (jnp.asarray(x) for x in zip(*rows, strict=True))
        rewards, correct = env.score(prompts, jnp.stack(responses), lengths)
        assert correct.tolist() == [True, False, False]
        assert rewards.sum(axis=1).tolist() == [1.0, 0.5, 0.0]
        assert env.decode(env.solutions(prompts)[0], 3) == "14<eos>"

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            (
                "chain_sun",
                {},
                "unknown data set 'chain_sun' of reasoning-gym: did you mean chain_s",
            ),
            (
                "gcd",
                {"options": "max_terms=1"},
                "options max_terms=1 do not fit gcd: max_terms must",
            ),
            (
                "gcd",
                {"options": "terms=1"},
                "options terms=1 do not fit gcd: .* unexpected keyword",
            ),
            ("gcd", {"options": "x=y"}, "options must be name=number,name=number, got 'x=y'"),
            ("gcd", {"dataset": "lcm"}, "reasoning-gym:gcd has dataset gcd, not lcm"),
        ],
    )
    def test_bad_input(self, name, options, message):
        with pytest.raises(ValueError, match=message):
            token_factory(f"reasoning-gym:{name}")(**options)

    def test_without_the_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "reasoning_gym", None)
        with pytest.raises(ValueError, match=r"needs the package reasoning-gym: pip install"):
            token_factory("reasoning-gym:gcd")()
