"""Prints a trained policy's responses to one prompt, or its accuracy on many.

python -m experiments.tokens --answer DIR --prompt "3 1 2 ="
python -m experiments.tokens --answer DIR --prompts 256 --best-of 16 --reward model:DIR
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents.tokens.generation import Sampling
from agents.tokens.reward import Reward
from experiments.console.display import Display
from experiments.console.flags import parse_flags
from experiments.evaluation import best_of
from experiments.run import limits, rewards
from experiments.run.spec import Spec, load_state, open_run


@dataclasses.dataclass(frozen=True)
class AnswerFlags:
    """Flags of `--answer`."""

    answer: Path
    """folder of the run whose policy answers"""
    prompt: str | None = None
    """the prompt in the task's notation, tokens separated by blanks; None: a random one, held out if the task has a
    held-out split"""
    prompts: int = 0
    """use this number of held-out prompts instead, and print the accuracy of one sample, and of the best by reward of
    2, 4, ... --best-of samples"""
    sampled: bool = False
    """sample the response at temperature 1; else decode greedily"""
    best_of: int = 1
    """sample this number of responses and show the one with the highest reward"""
    reward: str | None = None
    """reward that selects and scores responses, such as model:DIR; None: the run's training reward"""
    seed: int = 0
    """seed of samples and of the random prompt"""
    seed_index: int = 0
    """index of the seed among the run's seeds, from 0"""
    trust: bool = False
    """execute the files that the run names, even if they changed or another user began the run"""


def asked(argv: Sequence[str]) -> bool:
    """True where a command line asks for an answer instead of a training."""
    return any(word == "--answer" or word.startswith("--answer=") for word in argv)


def command(argv: Sequence[str]) -> int:
    """Prints prompt, answer and score; returns the exit code. Raises ValueError with one line on bad input."""
    flags = parse_flags(AnswerFlags, argv, None, "Asks the policy of a run one prompt.")
    best_of.require(flags.best_of)
    if flags.prompts < 0 or (flags.prompts and flags.prompt is not None):
        raise ValueError("--prompts is a number of prompts at random, in place of --prompt")
    display = Display()
    stored, algo = open_run(flags.answer, flags.trust)
    if stored.domain != "tokens":
        raise ValueError(f"{flags.answer} is a run of control, which answers nothing: see play")
    if not 0 <= flags.seed_index < stored.seeds:
        raise ValueError(
            f"{flags.answer} has {stored.seeds} seeds, there is no index {flags.seed_index}"
        )
    reward = _reward(flags, stored, algo)
    if reward is None and flags.best_of > 1:
        raise ValueError(
            "--best-of picks by a reward, and the run has none: give --reward model:DIR"
        )
    if flags.best_of > 1:
        limits.require_room_for_answers(algo, flags.prompts or 1, flags.best_of, reward)
    prompt_key, key = jax.random.split(jax.random.key(flags.seed))
    prompt = _prompt(flags, algo.env, prompt_key)
    states, _, steps = load_state(flags.answer, stored, algo, display.warn)
    params = jax.tree.map(lambda x: x[flags.seed_index], states.params)
    if flags.prompts:
        shares = best_of.measured(algo, params, key, flags.prompts, flags.best_of, reward)
        what = "held-out prompts" if algo.env.holds_out else "prompts of those trained on"
        rows = [(f"best of {n}", f"{share:.3f} right") for n, share in shares.items()]
        display.table(f"{flags.prompts} {what}, by the policy of env step {steps}", rows)
        return 0
    draws = flags.sampled or flags.best_of > 1
    sampling = Sampling() if draws else Sampling(top_k=1)
    text, lines = answer(algo, params, prompt, key, sampling, flags.best_of, reward)
    display.say(f"prompt    {algo.env.decode(prompt)}")
    display.say(f"answer    {text}")
    for line in lines:
        display.say(line)
    display.say(f"by the policy of env step {steps}")
    return 0


def answer(
    algo: Any,
    params: Any,
    prompt: np.ndarray,
    key: jax.Array,
    sampling: Sampling,
    draws: int = 1,
    reward: Reward | None = None,
) -> tuple[str, list[str]]:
    """Returns the answer in words, and lines with its scores.

    Args:
      prompt: int32 [P].
      draws: answers that are drawn; the one of the highest `reward` is returned.
    """

    @jax.jit
    def draw(params: Any, prompts: jax.Array, key: jax.Array) -> tuple[Any, ...]:
        found = algo.respond(params, prompts, key, sampling)
        rewards, correct, _ = algo.verify(prompts, found)
        gold = jnp.sum(rewards, axis=1)
        if reward is None:
            return found, gold, correct, None
        proxy = reward.of_tokens(prompts, found.tokens, found.length)
        return found, gold, correct, jnp.sum(proxy, axis=1)

    prompts = jnp.tile(jnp.asarray(prompt), (draws, 1))
    found, gold, correct, proxy = draw(params, prompts, key)
    i = 0 if proxy is None else int(np.argmax(np.nan_to_num(proxy, nan=-np.inf)))
    verdict = "right" if correct[i] else "wrong"
    lines = [f"verifier  {float(gold[i]):.3g}, {verdict}"]
    if proxy is not None:
        of = f", the highest of {draws}" if draws > 1 else ""
        lines.append(f"reward    {float(proxy[i]):.3g}{of}")
    return algo.env.decode(found.tokens[i], int(found.length[i])), lines


def _reward(flags: AnswerFlags, stored: Spec, algo: Any) -> Reward | None:
    if flags.reward is None:
        return algo.reward
    return rewards.build(flags.reward, stored.env, stored.env_kwargs, algo.env)


def _prompt(flags: AnswerFlags, env: Any, key: jax.Array) -> np.ndarray:
    if flags.prompt is None:
        return np.asarray(env.held_out(key, 1)[0])
    try:
        return env.encode_prompt(flags.prompt)
    except ValueError as error:
        example = env.decode(env.prompts(key, 1)[0])
        raise ValueError(f"--prompt: {error}; a prompt of this task is {example!r}") from None
