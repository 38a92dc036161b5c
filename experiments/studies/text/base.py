"""The base model: pre-trained on the text tasks' questions and answers, tuned on the answers, kept as a Llama folder.

A share of the answers that it is trained on is wrong, as in any text that nobody has verified: it imitates right and
wrong ones alike, and what a verifier adds is what reinforcement is measured by.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agents.tokens.sft import SFT, SFTConfig
from agents.tokens.transformer import num_parameters
from envs.tokens.env import TokenEnv
from envs.tokens.reasoning_gym import ReasoningGym
from envs.tokens.task import EOS
from experiments.evaluation import tokens as evaluation
from experiments.run import folders
from experiments.studies.study import Experiment, Say
from experiments.studies.text.settings import COMMON, OPTIONS, Sizes
from experiments.weights import folder as weights

BASES = folders.RUNS / "text-base"
_PARTS = 5  # of each stage: a loss is shown after each


@dataclasses.dataclass(frozen=True)
class Unverified(ReasoningGym):
    """The same questions, a share of whose solutions are answers to other questions of the data set."""

    wrong: float = 0.5
    """share of wrong solutions; a hash of the question says which"""

    @functools.cached_property
    def answers(self) -> dict[str, list[str]]:
        """The right answers of each data set."""
        found: dict[str, list[str]] = {name: [] for name in self.names}
        for question in self.entries:
            found[self.source(question)].append(super().solve(question))
        return found

    def solve(self, question: str) -> str:
        """Returns the data set's answer, or another question's."""
        number = zlib.crc32(question.encode())
        share, place = number % 1000, number // 1000
        if share >= 1000 * self.wrong:
            return super().solve(question)
        others = self.answers[self.source(question)]
        return others[place % len(others)]


@functools.lru_cache
def task(sizes: Sizes, *names: str) -> ReasoningGym:
    """Returns the task of one data set, or of several together."""
    several = len(names) > 1
    options = [
        f"{name}.{key}={value}" if several else f"{key}={value}"
        for name in names
        for key, value in OPTIONS[name].items()
    ]
    return ReasoningGym(
        bank=sizes.bank,
        prompt_tokens=sizes.prompt_tokens,
        response_tokens=sizes.response_tokens,
        dataset="+".join(names),
        options=",".join(options),
        tokens="phrases",
    )


def env(sizes: Sizes, names: Sequence[str]) -> TokenEnv:
    """Returns the environment of some data sets, by their names: right answers earn 1."""
    return TokenEnv(task(sizes, *names), "exact")


def model_settings(sizes: Sizes) -> dict[str, Any]:
    """Returns the sizes of the transformer, as fields of a learner's settings."""
    return {
        "layers": sizes.layers,
        "width": sizes.width,
        "heads": sizes.heads,
        "kv_heads": sizes.heads,
        "mlp_width": sizes.mlp_width,
    }


def run_steps(learner: Any, steps: int) -> Callable[[Any], tuple[Any, dict[str, Any]]]:
    """Returns a program: the state to the state after so many steps, and the last step's metrics."""

    def steps_of(state: Any) -> tuple[Any, dict[str, Any]]:
        state, metrics = jax.lax.scan(lambda s, _: learner.step(s), state, None, length=steps)
        return state, jax.tree.map(lambda x: x[-1], metrics)

    return jax.jit(steps_of, donate_argnums=0)


def measured(learner: Any, state: Any, seed: int, prompts: int) -> dict[str, float]:
    """Returns columns of an evaluation on held-out prompts, the same for every learner of a task."""
    keys = jax.random.split(jax.random.key(1000 + seed), prompts)
    samples = _sampler(learner)(state, keys)
    return evaluation.row(jax.tree.map(np.asarray, samples))


@functools.lru_cache(2)
def _sampler(learner: Any) -> Callable[[Any, Any], Any]:
    return jax.jit(lambda state, keys: evaluation.sample(learner, state, keys))


def base(sizes: Sizes, say: Say) -> Path:
    """Returns the folder of the base model, which is trained where it is not there yet."""
    return train(sizes, say)[0]


def train(sizes: Sizes, say: Say, *, fresh: bool = False) -> tuple[Path, dict[str, Any]]:
    """Returns the base model's folder, and the losses of its training ({} where it was there).

    Args:
      fresh: train it even where it is there.
    """
    fields = {name: getattr(sizes, name) for name in COMMON} | {"options": OPTIONS}
    folder = BASES / hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:12]
    if folder.is_dir() and not fresh:
        return folder, {}
    whole = task(sizes, *OPTIONS)
    given = {x.name: getattr(whole, x.name) for x in dataclasses.fields(whole)}
    texts = TokenEnv(Unverified(**given, wrong=sizes.wrong), "exact")
    losses: dict[str, list[float]] = {}
    seconds = 0.0
    state: Any = None
    for stage, steps in (("texts", sizes.pretraining_steps), ("answers", sizes.tuning_steps)):
        config = SFTConfig(
            num_responses=sizes.base_responses,
            total_steps=steps * sizes.base_responses * texts.response_length,
            learning_rate=sizes.base_learning_rate,
            learn_prompts=stage == "texts",
            **model_settings(sizes),
        )
        learner = SFT(config, texts)
        first = jax.jit(learner.init)(jax.random.key(0))
        # The optimiser begins anew, and so does its schedule.
        state = first if state is None else first.replace(params=state.params, key=state.key)
        part = max(1, steps // _PARTS)
        program = run_steps(learner, part)
        losses[stage] = []
        for i in range(steps // part):
            begun = time.monotonic()
            state, metrics = program(state)
            losses[stage].append(float(metrics["loss/policy"]))
            seconds += time.monotonic() - begun if i else 0.0  # without compilation
            say(f"{stage}: step {(i + 1) * part} of {steps}, loss {losses[stage][-1]:.3f}")
    if not folder.is_dir():
        weights.export(
            folder, learner.model_config, state.params["policy"], stops=(EOS,), pad=texts.pad
        )
    return folder, {"losses": losses, "seconds": seconds}


def _cell(sizes: Sizes, say: Say) -> dict[str, Any]:
    """Trains the base model, and measures it on each data set: one program asks questions of all."""
    folder, trained = train(sizes, say, fresh=True)
    given = weights.load(folder)
    texts = env(sizes, [*OPTIONS])
    learner: Any = SFT(SFTConfig(**model_settings(sizes)), texts)
    learner = learner.starting_from(given.published.transformer, given.params)
    keys = jax.random.split(jax.random.key(1000), sizes.prompts * len(OPTIONS))
    found = jax.jit(lambda state: evaluation.sample(learner, state, keys))(
        jax.jit(learner.init)(jax.random.key(0))
    )
    asked = [task(sizes, *OPTIONS).text(prompt) for prompt in np.asarray(found.prompts)]
    names = np.array([task(sizes, *OPTIONS).source(question) for question in asked])
    passes = {}
    for name in OPTIONS:
        correct = np.asarray(found.correct)[names == name]
        passes[name] = {
            "pass_at_1": evaluation.pass_at(correct, 1),
            "pass_at_8": evaluation.pass_at(correct, 8),
            "prompts": len(correct),
        }
        say(f"{name}: pass@1 {passes[name]['pass_at_1']:.3f}")
    return {
        **trained,
        "parameters": num_parameters(given.params),
        "vocabulary": given.published.transformer.vocabulary,
        "passes": passes,
        "sha256": weights.digest(folder),
    }


EXPERIMENT = Experiment("base", {"model": _cell}, ("prompts",))
