"""Speed on tokens against TRL: `python -m experiments.bench --tokens --rivals-python PYTHON`.

Both start from the same Llama folder, written here, and answer the same prompts. Products of matrices should dominate
training; writing is one pass of small products for each token, where what surrounds them counts. TRL writes by
`transformers`' generate, in PyTorch, on the same cores. Both count a response's tokens up to its end.

TRL's trainer makes a pass for the old log-probabilities only where a batch is used more than once, and no pass of a
reference at weight 0: here neither is made. Here the prompt of a group is read once, in writing and in the gradient;
TRL reads it for each response.

`write/bound` and `grpo/bound` are the tokens per second of a program that does nothing but the products of its
matrices with weights, at the speed at which large ones run by XLA in the same run.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents.tokens.generation import Sampling, generate
from agents.tokens.grpo import TokenGRPO, TokenGRPOConfig
from agents.tokens.transformer import num_parameters
from envs.tokens import TextTask, make_tokens
from experiments.benchmarks.rivals import Rival, print_ratios, take_turns
from experiments.benchmarks.workloads import rate
from experiments.weights import folder as weights
from experiments.weights import tokenizer_files

WORKER = Path(__file__).parent / "workers" / "trl_worker.py"
PACKAGES = ("trl", "transformers", "torch")
PROMPTS, GROUP, PROMPT, RESPONSE = 8, 8, 32, 64
SETTINGS = TokenGRPOConfig(
    total_steps=10**9,
    num_responses=PROMPTS * GROUP,
    group_size=GROUP,
    num_minibatches=1,
    learning_rate=1e-5,
    learning_rate_schedule="constant",
    kl_coefficient=0.0,
    imitation_steps=0,
    layers=6,
    width=256,
    heads=8,
    kv_heads=4,
    mlp_width=768,
    rope_base=10_000.0,
)


@dataclasses.dataclass(frozen=True)
class Letters(TextTask):
    """Random letters, in answer to which the letter e is paid for."""

    bank: int = 256
    prompt_tokens: int = PROMPT
    response_tokens: int = RESPONSE

    def question(self, rng: np.random.Generator) -> str:
        """Draws a question of full length."""
        return "".join(rng.choice([*"abcdefghijklmnopqrstuvwxyz"], PROMPT))

    def check(self, question: str, answer: str) -> float:
        """Returns the share of e in an answer."""
        return answer.count("e") / max(len(answer), 1)


def bench_trl(python: Path | str, rounds: int, seconds: float) -> dict[str, Any]:
    """Returns tokens per second of writing and of GRPO, here and by TRL, and how many times as fast it is here.

    Args:
      python: an interpreter that has TRL.

    Raises ValueError where it has not.
    """
    figures: dict[str, Any] = {"packages": _versions(python)}
    task = Letters()
    algo = TokenGRPO(SETTINGS, make_tokens(task, "process"))
    state = jax.jit(algo.init)(jax.random.key(0))
    figures["parameters"] = num_parameters(state.params)
    print(f"{figures['parameters'] / 1e6:.1f} M parameters", flush=True)
    setting = {
        "prompts": task.questions.questions[:PROMPTS],
        "group": GROUP,
        "response": RESPONSE,
        "learning_rate": SETTINGS.learning_rate,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary) / "model")
        weights.export(
            Path(folder),
            algo.model_config,
            state.params["policy"],
            stops=task.stops,
            pad=task.pad,
            tokenizer=tokenizer_files.of_bytes(),
        )
        multiply = multiplying()
        workloads = {"write": writing(algo, state, task), "grpo": learning(algo, state)}
        for name, run in workloads.items():
            rival = Rival(python, name, folder, json.dumps(setting), WORKER)
            measures: dict[str, Callable[[], float]] = {
                "here": functools.partial(rate, run, seconds),
                "trl": functools.partial(rival.measure, seconds),
            }
            rates = take_turns(measures, rounds)
            rival.close()
            figures |= print_ratios(name, rates, f"{PROMPTS * GROUP} responses", "tokens/s")
        speed = statistics.median(rate(multiply, seconds / 2) for _ in range(rounds))
        figures["products"] = speed
        for name, run in workloads.items():
            bound = figures[f"{name}/bound"] = speed * run() / operations(algo, name)
            print(f"{name}: {bound:,.0f} tokens/s with {speed / 1e9:.0f} GFLOP/s of products alone")
    return figures


def operations(algo: TokenGRPO, name: str) -> float:
    """Returns the floating-point operations of an iteration's products with weights.

    Writing passes all tokens forwards, a gradient step once more, and backwards at twice the price.
    """
    config = algo.model_config
    weights_of_token = config.parameters - config.vocabulary * config.width
    tokens = PROMPTS * PROMPT + PROMPTS * GROUP * RESPONSE
    return 2.0 * weights_of_token * tokens * {"write": 1, "grpo": 4}[name]


def multiplying() -> Callable[[], int]:
    """Returns a workload of the model's largest product, with the rows of a gradient step; its steps are floating-point
    operations."""
    shape = (PROMPTS * GROUP * RESPONSE, SETTINGS.width, SETTINGS.mlp_width)
    a, b = jnp.ones(shape[:2]), jnp.ones(shape[1:])
    product = jax.jit(jnp.matmul)

    def run() -> int:
        jax.block_until_ready(product(a, b))
        return 2 * math.prod(shape)

    run()
    return run


def writing(algo: TokenGRPO, state: Any, task: Letters) -> Callable[[], int]:
    """Returns a workload that writes responses of full length to a fixed set of prompts."""
    prompts = jnp.asarray(task.questions.prompts[:PROMPTS])
    params, key = state.params["policy"], jax.random.key(0)

    @jax.jit
    def write(params, prompts, key):
        policy = algo.network.module(params).policy
        settings = {"pad": task.pad, "stop": None, "repeats": GROUP}
        return generate(policy, prompts, key, RESPONSE, Sampling(), **settings)

    def run() -> int:
        nonlocal key
        key = jax.random.fold_in(key, 0)
        jax.block_until_ready(write(params, prompts, key))
        return PROMPTS * GROUP * RESPONSE

    run()
    return run


def learning(algo: TokenGRPO, state: Any) -> Callable[[], int]:
    """Returns a workload of iterations: writing, scores, one gradient step."""
    step = jax.jit(algo.step)

    def run() -> int:
        nonlocal state
        before = int(state.tokens)
        state, _ = jax.block_until_ready(step(state))
        return int(state.tokens) - before

    run()
    return run


def _versions(python: Path | str) -> dict[str, str]:
    """Returns the versions that an interpreter has of TRL and what it runs on. Raises ValueError where it has not."""
    asked = f"import importlib.metadata as m, json; print(json.dumps([m.version(x) for x in {PACKAGES}]))"
    done = subprocess.run([str(python), "-c", asked], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ends without a word"])[-1]
        raise ValueError(f"{python} has no TRL: {last}")
    return dict(zip(PACKAGES, json.loads(done.stdout), strict=True))
