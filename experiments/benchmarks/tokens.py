"""Speed on tokens: `python -m experiments.bench --tokens`.

What should dominate are the products of matrices. Writing with a cache passes one token at a time through the model,
without it the whole sequence again for each; training passes every sequence forwards two or three times (writing, the
reference where the KL has a weight, the loss) and backwards once. `tokens/ppo` and `tokens/grpo` are iterations of the
presets of sorting as the training loop runs them, in tokens of responses a second.

`--before DIR` measures them in turn with another checkout of this project, in a process of its own: `tokens/ppo/before`
and `tokens/ppo/of_before`.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from agents import TOKEN_ALGORITHMS
from agents.tokens.generation import Sampling, generate
from agents.tokens.transformer import TransformerConfig, num_parameters, token_model
from envs.tokens import make_tokens
from experiments.benchmarks.rivals import Rival
from experiments.benchmarks.workloads import rate
from experiments.evaluation.evaluator import evaluator
from experiments.run.presets import preset
from experiments.run.programs import Programs
from experiments.run.provenance import commit_of

PROMPT, RESPONSE, SEQUENCES = 8, 64, 256
VOCABULARY = 13
LEARNERS = ("grpo", "ppo")
WORKER = Path(__file__).parent / "workers" / "tokens_worker.py"


def bench_tokens(rounds: int, seconds: float, before: Path | None = None) -> dict[str, Any]:
    """Returns tokens per second, and ratios of neighbouring measurements.

    Args:
      before: another checkout, whose training is measured beside ours; None: ours alone.

    Raises ValueError where it cannot be measured.
    """
    if before is not None:
        return against_before(before.absolute(), rounds, seconds)
    workloads = {
        "tokens/cached": writing(cached=True),
        "tokens/uncached": writing(cached=False),
        "tokens/grpo": learning("grpo"),
        "tokens/ppo": learning("ppo"),
    }
    rates: dict[str, list[float]] = {name: [] for name in workloads}
    for _ in range(rounds):
        for name, run in workloads.items():
            rates[name].append(rate(run, seconds))
    pairs = zip(rates["tokens/cached"], rates["tokens/uncached"], strict=True)
    ratios = [a / b for a, b in pairs]
    figures = {name: statistics.median(values) for name, values in rates.items()}
    figures["tokens/cached/of_uncached"] = statistics.median(ratios)
    for name in rates:
        print(f"{name:24s}{figures[name]:15,.0f} tokens/s")
    print(
        f"{'cached / uncached':24s}{statistics.median(ratios):15.1f}   "
        f"({min(ratios):.1f}-{max(ratios):.1f}), {RESPONSE} tokens, {SEQUENCES} responses"
    )
    return figures


def against_before(before: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Returns tokens per second in training, here and in another checkout, and how many times as fast it is here."""
    figures: dict[str, Any] = {"before": commit_of(before)}
    for name in LEARNERS:
        other = Rival(sys.executable, str(before), "sort", name, WORKER)
        here = learning(name)
        pairs = [(rate(here, seconds), other.measure(seconds)) for _ in range(rounds)]
        other.close()
        ours, theirs = (statistics.median(x) for x in zip(*pairs, strict=True))
        ratios = [a / b for a, b in pairs]
        ratio = statistics.median(ratios)
        figures |= {
            f"tokens/{name}": ours,
            f"tokens/{name}/before": theirs,
            f"tokens/{name}/of_before": ratio,
        }
        print(
            f"tokens/{name:12s}{ours:15,.0f} tokens/s, before {theirs:,.0f}: {ratio:.2f} times as fast "
            f"({min(ratios):.2f}-{max(ratios):.2f})"
        )
    return figures


def writing(*, cached: bool) -> Callable[[], int]:
    """Returns a workload that generates responses of full length with the default transformer."""
    network = token_model(TransformerConfig(VOCABULARY))
    params = network.init(jax.random.key(0))
    prompts = jax.random.randint(jax.random.key(1), (SEQUENCES, PROMPT), 2, VOCABULARY)

    @jax.jit
    def write(key):
        policy = network.module(params).policy
        sampling = Sampling()
        return generate(
            policy, prompts, key, RESPONSE, sampling, pad=0, stop=None, cached=cached
        ).tokens

    def run() -> int:
        jax.block_until_ready(write(jax.random.key(2)))
        return SEQUENCES * RESPONSE

    run()
    return run


def learning(name: str) -> Callable[[], int]:
    """Returns a workload of training iterations on sorting, with the preset and without imitation, which is not
    timed."""
    learner: Any = TOKEN_ALGORITHMS[name]
    config = dataclasses.replace(preset("tokens-sort", name, learner.Config), imitation_steps=0)
    algo = learner(config, make_tokens("sort"))
    programs = Programs(algo, 1, evaluator("tokens").run)
    states = programs.init(jax.random.key(0)[None])
    print(f"tokens/{name}: {num_parameters(states.params) / 1e3:,.0f} k parameters", flush=True)

    def run() -> int:
        nonlocal states
        before = int(states.tokens[0])
        states, _ = jax.block_until_ready(programs.chunk(states, jnp.int32(2)))
        return int(states.tokens[0]) - before

    run()
    return run
