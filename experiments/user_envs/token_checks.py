"""Checks that a token task keeps the contract of `envs/tokens/task.py`: each a pure function, its finding in plain
words."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.tokens import Task, TextTask, TokenEnv
from envs.tokens.task import FIRST, PAD, SPECIAL, Verdict, require_splits, token_rewards
from envs.tokens.tokenizer import BYTES
from experiments.user_envs.check_tools import Note, Problem, key_of, shape_of, untraced

SAMPLES = 256  # prompts, and responses to them, that are looked at


def _sizes(env: TokenEnv) -> None:
    task = env.task
    try:
        hash(task)
    except TypeError as error:
        raise Problem(
            f"it cannot be hashed ({error}): a task is a frozen dataclass of plain numbers, with tuples for lists"
        ) from None
    words = task.vocabulary
    if not isinstance(words, tuple | list) or not all(isinstance(word, str) for word in words):
        raise Problem(
            "vocabulary is no tuple of names: give each token's, '<pad>' and '<eos>' first"
        )
    if len(words) <= FIRST:
        raise Problem(
            f"vocabulary has {len(words)} tokens: '<pad>', '<eos>', then at least one of the task's own"
        )
    for name in ("prompt_length", "response_length"):
        value = getattr(task, name)
        if type(value) is not int or value < 1:
            raise Problem(f"{name} is {value!r}: it must be a whole number of at least 1")
    if isinstance(task, TextTask) and task.codec != BYTES:
        return  # whose tokens are somebody else's
    if task.stop is not None and (type(task.stop) is not int or not 0 <= task.stop < len(words)):
        raise Problem(
            f"stop is {task.stop!r}: it must be a token, 0 to {len(words) - 1}, or None where all responses have full "
            "length"
        )
    if task.stop == PAD:
        raise Problem(
            "stop is 0, which is padding: another token must end responses, EOS = 1 as it is usual"
        )
    _vocabulary_names(words)


def _vocabulary_names(words: Any) -> None:
    if words[PAD] != SPECIAL[PAD]:
        raise Note(
            f"token 0 is called {words[PAD]!r} and is padding all the same; tokens of the task's own begin at {FIRST}"
        )
    repeated = sorted({word for word in words if list(words).count(word) > 1})
    if repeated:
        raise Note(f"several tokens are called {repeated[0]!r}: nobody will tell them apart")


def _sample(env: TokenEnv) -> None:
    prompt = jax.eval_shape(env.task.sample, key_of(0))
    _require_tokens("sample", prompt, (env.prompt_length,), "prompt_length")


def _prompts(env: TokenEnv) -> None:
    prompts = drawn(env.task)
    _require_words(env.task, prompts, "prompts have")
    for prompt in prompts if env.task.pad == PAD else ():
        real = np.flatnonzero(prompt != PAD)
        if len(real) and (prompt[real[0] :] == PAD).any():
            raise Problem(
                f"prompts have token 0 among others, {prompt.tolist()}: 0 is padding, on their left alone; the task's "
                f"own tokens begin at {FIRST}"
            )
    if len(prompts) > 1 and not np.array_equal(drawn(env.task), _drawn_anew(env.task)):
        raise Problem(
            "called twice with the same key, sample gives different prompts: draw from the key, with jax.random"
        )
    if (prompts == prompts[0]).all():
        raise Note("sample gives the same prompt for every key: draw from the key, with jax.random")


def _splits(env: TokenEnv) -> None:
    form = jax.eval_shape(env.task.canonical, jax.ShapeDtypeStruct((env.prompt_length,), jnp.int32))
    if not isinstance(shape_of(form), tuple) or len(form.shape) != 1:
        raise Problem(f"canonical has shape {shape_of(form)}: return one row of whole numbers")
    if not jnp.issubdtype(form.dtype, jnp.integer):
        raise Problem(f"canonical has dtype {form.dtype}: return whole numbers")
    try:
        require_splits(env.task)
    except ValueError as error:
        raise Problem(str(error)) from None
    if not env.task.splits:
        raise Note("splits is False: it is evaluated on the prompts that it trains on")


def _verify(env: TokenEnv) -> None:
    prompt, response = (
        jax.ShapeDtypeStruct((n,), jnp.int32) for n in (env.prompt_length, env.response_length)
    )
    length = jax.ShapeDtypeStruct((), jnp.int32)
    verdict = jax.eval_shape(env.task.verify, prompt, response, length)
    if not isinstance(verdict, Verdict):
        raise Problem(
            f"verify returns a {type(verdict).__name__}: return envs.tokens.task.Verdict(correct, well_formed, credit)"
        )
    for name in ("correct", "well_formed"):
        flag = getattr(verdict, name)
        if shape_of(flag) != () or flag.dtype != bool:
            kind = f"of {flag.dtype} {flag.shape}" if shape_of(flag) == () else f"{shape_of(flag)}"
            raise Problem(f"verify's {name} is {kind}: return one bool; jnp.all, perhaps")
    size, credit = (env.response_length,), verdict.credit
    if shape_of(credit) != size:
        raise Problem(
            f"verify's credit has shape {shape_of(credit)}: give one number for each token of a response, {size}"
        )
    if not jnp.issubdtype(credit.dtype, jnp.floating):
        raise Problem(f"verify's credit has dtype {credit.dtype}: return floats")


def _expert(env: TokenEnv) -> None:
    task = env.task
    if not task.has_solution:
        raise Note(
            "there is no solution, so nothing can be imitated: train with --imitation-steps 0"
        )
    prompt = jax.ShapeDtypeStruct((env.prompt_length,), jnp.int32)
    found = jax.eval_shape(task.solution, prompt)
    _require_tokens("solution", found, (env.response_length,), "response_length")
    responses = solved(task)
    _require_words(task, responses, "the expert's responses have")
    behind = np.arange(env.response_length) >= lengths(task, responses)[:, None]
    padding = (responses == task.pad) & ~np.isin(responses, task.stops)
    # The finding on responses without an end covers padding at their end.
    trailing = np.cumprod(padding[:, ::-1], axis=1)[:, ::-1].astype(bool) & bool(task.stops)
    among = (padding & ~behind & ~trailing).any(axis=1)
    if among.any():
        i = int(np.argmax(among))
        raise Problem(
            f"the expert's responses have token 0 before their end, {responses[i].tolist()}: 0 is padding; the task's "
            f"own tokens begin at {FIRST}"
        )


def _expert_is_right(env: TokenEnv) -> None:
    task = env.task
    if not task.has_solution:
        return
    prompts, responses = drawn(task), solved(task)
    verdict = judged(task, prompts, responses, lengths(task, responses))
    ended = np.isin(responses, task.stops).any(axis=1)
    endless = bool(task.stops) and not ended.all()
    wrong = ~verdict.correct
    if wrong.any():
        i = int(np.argmax(wrong))
        raise Problem(
            f"the expert's response to a prompt is wrong by the task's own verify, in {wrong.mean():.0%} of "
            f"{len(wrong)} cases: to {_shown(task, prompts[i])} it is {_shown(task, responses[i])}"
            + (f", without an end: {_end(task)}" if endless else "")
        )
    if endless:
        i = int(np.argmin(ended))
        raise Problem(
            f"the expert's response to {_shown(task, prompts[i])}, {_shown(task, responses[i])}, has no end, though "
            f"verify calls it right: {_end(task)}; or set stop = None, where all responses have full length"
        )
    inside = np.arange(env.response_length) < lengths(task, responses)[:, None]
    total = np.sum(np.where(inside, verdict.credit, 0.0), axis=1)
    broken = ~np.isfinite(total)
    if broken.all():
        raise Problem("verify's credit of the expert's responses is not finite")
    if broken.any():
        raise Note(
            f"verify's credit is not finite for {broken.mean():.0%} of the expert's responses: with --reward process "
            "they earn 0"
        )
    if not verdict.well_formed.all():
        raise Note(
            "verify calls right responses of the expert not well_formed: --reward rule pays 1"
        )
    if not np.allclose(total, 1.0, atol=1e-3):
        raise Note(
            f"the credit of a right response adds up to {total.min():.4g} to {total.max():.4g}, and should to 1: "
            "rewards of kind process are not comparable with the others"
        )


def _random(env: TokenEnv) -> None:
    """Responses of random tokens."""
    task, prompts = env.task, drawn(env.task)
    responses = np.random.default_rng(0).integers(
        0, env.vocabulary_size, (len(prompts), env.response_length), np.int32
    )
    length = lengths(task, responses)
    responses = np.where(np.arange(env.response_length) < length[:, None], responses, task.pad)
    verdict = judged(task, prompts, responses, length)
    inside = np.arange(env.response_length) < length[:, None]
    broken = (inside & ~np.isfinite(verdict.credit)).any(axis=1)
    if broken.all():
        raise Problem("verify's credit is not finite for any of the random responses")
    if broken.any():
        raise Note(
            f"verify's credit is not finite for {broken.mean():.0%} of random responses: with --reward process they "
            "earn 0"
        )
    if verdict.correct.all():
        raise Note("every random response is correct: there is nothing to learn")
    rewards = jax.vmap(lambda v, n: token_rewards(env.reward_kind, v, n))(
        jax.tree.map(jnp.asarray, verdict), length
    )
    if not task.has_solution and np.ptp(np.sum(rewards, axis=1)) == 0:
        raise Note(
            f"all of {len(prompts)} random responses earn the same: nothing can be learnt until one differs"
        )


# ------------------------------------------------------------------------------------- samples


@functools.lru_cache(4)
def drawn(task: Task) -> np.ndarray:
    """Returns SAMPLES prompts, [SAMPLES, P]."""
    return _drawn_anew(task)


def _drawn_anew(task: Task) -> np.ndarray:
    keys = jax.random.split(key_of(0), SAMPLES)
    return np.asarray(jax.jit(untraced(jax.vmap(task.sample)))(keys))


@functools.lru_cache(4)
def solved(task: Task) -> np.ndarray:
    """Returns the expert's responses to these prompts, [SAMPLES, R]."""
    return np.asarray(jax.jit(untraced(jax.vmap(task.solution)))(drawn(task)))


def judged(task: Task, prompts: np.ndarray, responses: np.ndarray, length: np.ndarray) -> Verdict:
    """Returns the task's verdicts on responses to prompts."""
    verdict = _verifier(task)(prompts, responses, length)
    return jax.tree.map(np.asarray, verdict)


@functools.lru_cache(4)
def _verifier(task: Task) -> Any:
    return jax.jit(untraced(jax.vmap(task.verify)))


def lengths(task: Task, responses: np.ndarray) -> np.ndarray:
    """Tokens up to and with the one that ends a response; all, where there is none."""
    full = np.full(len(responses), responses.shape[1], np.int32)
    if not task.stops:
        return full
    ended = np.isin(responses, task.stops)
    return np.where(ended.any(axis=1), np.argmax(ended, axis=1) + 1, full).astype(np.int32)


def _end(task: Task) -> str:
    return " or ".join(f"token {i} ({task.vocabulary[i]})" for i in task.stops) + " ends one"


def _shown(task: Task, tokens: np.ndarray) -> str:
    kept = tokens[: int(np.max(np.flatnonzero(tokens != task.pad), initial=0)) + 1]
    return "'" + " ".join(task.vocabulary[int(t)] for t in kept) + "'"


def _require_tokens(name: str, tokens: Any, shape: tuple[int, ...], size: str) -> None:
    if shape_of(tokens) != shape:
        raise Problem(
            f"{name} returns an array of shape {shape_of(tokens)}, but {size} is {shape[0]}: make them agree, with "
            "padding if need be"
        )
    if tokens.dtype != jnp.int32:
        raise Problem(f"{name} returns {tokens.dtype}: return int32, with .astype(jnp.int32)")


def _require_words(task: Task, tokens: np.ndarray, what: str) -> None:
    outside = tokens[(tokens < 0) | (tokens >= len(task.vocabulary))]
    if outside.size:
        raise Problem(
            f"{what} tokens outside the vocabulary, {int(outside.flat[0])}: its {len(task.vocabulary)} tokens are 0 to "
            f"{len(task.vocabulary) - 1}"
        )


# What is looked at, by which function, and whether the checks after it stand on it.
OF_EXPERT = (_expert, _expert_is_right)
TOKEN_CHECKS = (
    ("vocabulary, sizes, the token that ends", _sizes, True),
    ("sample gives prompts", _sample, True),
    ("prompts are of the vocabulary", _prompts, True),
    ("prompts can be held out", _splits, False),
    ("solution gives responses", _expert, True),
    ("verify gives a verdict", _verify, True),
    ("the expert is right", _expert_is_right, True),
    ("random responses", _random, False),
)
