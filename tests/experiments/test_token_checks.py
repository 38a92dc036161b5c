"""One token task for each way in which it can be wrong."""

import dataclasses
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.tokens import Task, TokenEnv, make_task
from envs.tokens.task import EOS, FIRST, PAD, SPECIAL, Verdict, is_finished, judge_exact
from experiments.run import spec, token_runs
from experiments.user_envs import check, token_checks

CALLS = itertools.cycle(range(2, 10))


@dataclasses.dataclass(frozen=True)
class Copy(Task):
    """Right in every way: two letters are copied."""

    size: int = 2

    @property
    def vocabulary(self):
        return (*SPECIAL, *"abcdefgh")

    @property
    def prompt_length(self):
        return self.size

    @property
    def response_length(self):
        return self.size + 1

    def sample(self, key):
        return jax.random.randint(key, (self.size,), FIRST, FIRST + 8, jnp.int32)

    def solution(self, prompt):
        return jnp.append(prompt, EOS).astype(jnp.int32)

    def verify(self, prompt, response, length):
        return judge_exact(self.right(prompt), response, length, is_finished(response, length))

    def right(self, prompt):
        return jnp.append(prompt, EOS).astype(jnp.int32)


def judged(**changes):
    """Its verdict with some parts changed."""

    def verify(self, prompt, response, length):
        verdict = Copy.verify(self, prompt, response, length)
        parts = {name: f(verdict, response) for name, f in changes.items()}
        return verdict._replace(**parts)

    return verify


def draws(low, high):
    return lambda self, key: jax.random.randint(key, (self.size,), low, high, jnp.int32)


def broken(**parts):
    """`Copy` with some of it replaced."""
    return dataclasses.dataclass(frozen=True)(type("Broken", (Copy,), parts))()


def answers(function):
    return lambda self, prompt: function(prompt).astype(jnp.int32)


FULL = property(lambda self: self.size)
PROBLEMS = {
    "the expert forgets the end": (
        broken(solution=answers(lambda p: jnp.append(p, PAD))),
        "wrong by the task's own verify, in 100% of 256 cases: to 'h b' it is 'h b', without an end",
    ),
    "no end, full length": (
        broken(
            response_length=FULL,
            solution=answers(lambda p: p),
            verify=lambda self, p, r, n: Verdict(
                jnp.all(r == p), jnp.ones((), bool), 0.5 * (r == p)
            ),
        ),
        "'h b', has no end, though verify calls it right: token 1 (<eos>) ends one; or set stop = None",
    ),
    "padding ends a response": (broken(stop=PAD), "stop is 0, which is padding"),
    "no such token ends it": (broken(stop=99), "stop is 99: it must be a token, 0 to 9"),
    "out of the vocabulary": (
        broken(sample=draws(FIRST, FIRST + 12)),
        "prompts have tokens outside the vocabulary",
    ),
    "negative tokens": (broken(sample=draws(-3, 9)), "prompts have tokens outside the vocabulary"),
    "answers out of the vocabulary": (
        broken(solution=answers(lambda p: jnp.append(p + 6, EOS))),
        "the expert's responses have tokens outside the vocabulary",
    ),
    "prompts of another length": (
        broken(prompt_length=property(lambda self: 4)),
        "sample returns an array of shape (2,), but prompt_length is 4",
    ),
    "responses of another length": (
        broken(solution=answers(lambda p: jnp.append(p, jnp.array([EOS, PAD])))),
        "solution returns an array of shape (4,), but response_length is 3",
    ),
    "credit is one number": (
        broken(verify=judged(credit=lambda v, r: jnp.sum(v.credit))),
        "credit has shape (): give one number for each token of a response, (3,)",
    ),
    "credit of whole numbers": (
        broken(verify=judged(credit=lambda v, r: (v.credit > 0).astype(jnp.int32))),
        "credit has dtype int32: return floats",
    ),
    "credit never finite": (
        broken(verify=judged(credit=lambda v, r: v.credit * jnp.nan)),
        "credit of the expert's responses is not finite",
    ),
    "right for each token": (
        broken(verify=judged(correct=lambda v, r: r == r)),
        "verify's correct is (3,): return one bool",
    ),
    "right as a float": (
        broken(verify=judged(correct=lambda v, r: v.correct.astype(jnp.float32))),
        "verify's correct is of float32 (): return one bool",
    ),
    "a tuple for a verdict": (
        broken(verify=lambda self, p, r, n: tuple(Copy.verify(self, p, r, n))),
        "verify returns a tuple: return envs.tokens.task.Verdict",
    ),
    "token 0 is a digit": (
        broken(vocabulary=(*"01234567", "<eos>"), sample=draws(0, 8)),
        "0 is padding, on their left alone",
    ),
    "padding in an answer": (
        broken(
            stop=None,
            solution=answers(lambda p: jnp.array([3, PAD, 4])),
        ),
        "the expert's responses have token 0 before their end, [3, 0, 4]",
    ),
    "nothing is ever right": (
        broken(verify=judged(correct=lambda v, r: jnp.zeros((), bool))),
        "wrong by the task's own verify",
    ),
    "prompts are floats": (
        broken(sample=lambda self, key: jax.random.uniform(key, (2,))),
        "sample returns float32: return int32",
    ),
    "Python's if": (
        broken(sample=lambda self, key: draws(2, 9)(self, key) if key[0] > 0 else None),
        "",  # whatever JAX says, in one line
    ),
    "another prompt at each call": (
        broken(sample=lambda self, key: draws(2, 9)(self, key) // 9 + next(CALLS)),
        "called twice with the same key, sample gives different prompts",
    ),
    "always the same prompt": (
        broken(sample=lambda self, key: jnp.full((2,), 3, jnp.int32)),
        "none is in the split held-out",
    ),
    "a list in a field": (
        dataclasses.make_dataclass(
            "Listed",
            [("sizes", list, dataclasses.field(default_factory=list))],
            bases=(Copy,),
            frozen=True,
        )(),
        "it cannot be hashed (unhashable type: 'list')",
    ),
    "no words": (broken(vocabulary=()), "vocabulary has 0 tokens"),
    "words are numbers": (broken(vocabulary=tuple(range(10))), "vocabulary is no tuple of names"),
    "half a token": (
        broken(response_length=property(lambda self: 3.0)),
        "response_length is 3.0: it must be a whole number",
    ),
    "canonical is one number": (
        broken(canonical=lambda self, prompt: jnp.sum(prompt)),
        "canonical has shape (): return one row of whole numbers",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_token_task_checks(case, unchecked):
    task, message = PROBLEMS[case]
    findings = check.check(TokenEnv(task))
    assert not check.passed(findings), case
    problem = next(f.problem for f in findings if f.problem)
    assert message in problem
    assert "\n" not in problem


def test_a_sound_task_passes(unchecked):
    assert all(f.problem is None and f.note is None for f in check.check(TokenEnv(Copy())))


@pytest.mark.parametrize("name", ["sort-2", "bandit"])
def test_ours_pass(name):
    assert check.passed(check.check(TokenEnv(make_task(name))))


NOTES = {
    "credit sometimes not finite": (
        broken(verify=judged(credit=lambda v, r: jnp.where(r == FIRST, jnp.nan, v.credit))),
        "random responses: with --reward process they earn 0",
    ),
    "everything is right": (
        broken(verify=judged(correct=lambda v, r: jnp.ones((), bool))),
        "every random response is correct",
    ),
    "no expert": (broken(solution=Task.solution), "train with --imitation-steps 0"),
    "nothing held out": (broken(splits=False), "it is evaluated on the prompts that it trains on"),
    "half of the credit": (
        broken(verify=judged(credit=lambda v, r: 0.5 * v.credit)),
        "adds up to 0.5 to 0.5",
    ),
}


@pytest.mark.parametrize("case", NOTES)
def test_what_may_be_meant(case, unchecked):
    task, message = NOTES[case]
    findings = check.check(TokenEnv(task))
    assert check.passed(findings)
    assert any(message in (f.note or "") for f in findings)


def run_of(env, algo="grpo", **settings):
    config = spec.algorithm(algo, "tokens").Config(**settings)
    return spec.Spec("tokens-mine", {}, algo, config, 0, 1, "tokens"), env


def test_a_run_begins_with_the_same_checks(unchecked):
    wrong, _ = PROBLEMS["the expert forgets the end"]
    with pytest.raises(ValueError, match="tokens-mine: the expert's response to a prompt is wrong"):
        token_runs.require_trainable(*run_of(TokenEnv(wrong)))
    # Where nothing imitates, an expert is none of a run's business.
    with pytest.warns(UserWarning, match="the expert's response to a prompt is wrong"):
        token_runs.require_trainable(*run_of(TokenEnv(wrong), imitation_steps=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token_runs.require_trainable(*run_of(TokenEnv(Copy())))
    with pytest.raises(ValueError, match="--split held-out would train on the very prompts"):
        token_runs.require_trainable(*run_of(TokenEnv(Copy(), split="held-out")))


def test_random_responses_end_where_the_first_end_is():
    responses = np.array([[2, EOS, EOS], [2, 3, 4], [EOS, 2, 2]])
    assert token_checks.lengths(Copy(), responses).tolist() == [2, 3, 1]
