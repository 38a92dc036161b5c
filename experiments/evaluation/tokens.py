"""Evaluation of token learners: several samples for each of some held-out prompts, at temperature 1 over the whole
vocabulary, however training samples: so figures of runs with other temperatures can be compared.

pass@k is the chance that one of k samples is right, estimated without bias from n >= k of them: the share of those
choices of k that hold a right one. Chen et al. 2021, https://arxiv.org/abs/2107.03374
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from agents.core import kl
from agents.tokens import lora
from agents.tokens.generation import Sampling
from agents.tokens.rollout import align_to_steps

SAMPLES = 8  # of each prompt
SAMPLING = Sampling()
PROMPTS = 128  # at each mark, unless a learner's settings say otherwise
FINAL_PROMPTS = 512  # of the best of n
SHOWN = 4  # of a mark's prompts, those whose first sample goes into samples.jsonl


class Samples(NamedTuple):
    """K samples for each of N prompts."""

    correct: Any  # [N, K] bool
    returns: Any  # [N, K] float32
    lengths: Any  # [N, K] int32
    kl: Any  # [N, K] float32: KL to the reference over the response, k1, in nats
    broken: Any  # [N, K] bool: the reward is not finite, and counts 0
    prompts: Any  # [N, P] int32
    responses: Any  # [N, R] int32, the first sample of each
    proxy: Any = (
        None  # [N, K] float32: the reward that is learnt from, where that is not the verifier's
    )
    written: Any = None  # [N, K] int32: the policy's tokens, where the environment inserts others


def prompts_of(algo: Any) -> int:
    """Returns the number of prompts at each mark."""
    return algo.config.eval_prompts or PROMPTS


def sample(algo: Any, state: Any, keys: PRNGKeyArray) -> Samples:
    """Samples responses to as many prompts as there are keys. A pure function of the keys and the parameters."""
    n = keys.shape[0]
    prompt_key, sample_key = jax.random.split(keys[0])
    prompts = algo.env.held_out(prompt_key, n)
    repeated = jnp.repeat(prompts, SAMPLES, axis=0)
    responses = algo.respond(state.params, prompts, sample_key, SAMPLING, SAMPLES)
    rewards, correct, broken = algo.verify(repeated, responses)
    batch = algo.batch(repeated, responses.tokens, responses.length, rewards)
    of_reference = lora.reference(algo.model_config, state.params, state.reference)
    reference = algo.reference_logp(of_reference, batch.obs, batch.action, SAMPLING, SAMPLES)
    proxy = None
    if algo.reward is not None:
        rewards_of_tokens = algo.reward.of_tokens(repeated, responses.tokens, responses.length)
        proxy = jnp.sum(rewards_of_tokens, axis=1).reshape(n, SAMPLES)
    apart = jnp.where(
        batch.mask, kl.k1(align_to_steps(responses.logp, algo.env.prompt_length), reference), 0.0
    )
    return Samples(
        correct=correct.reshape(n, SAMPLES),
        returns=jnp.sum(rewards, axis=1).reshape(n, SAMPLES),
        lengths=responses.length.reshape(n, SAMPLES),
        kl=jnp.sum(apart, axis=0).reshape(n, SAMPLES),
        broken=broken.reshape(n, SAMPLES),
        prompts=prompts,
        responses=responses.tokens.reshape(n, SAMPLES, -1)[:, 0],
        proxy=proxy,
        written=None if responses.own is None else responses.written.reshape(n, SAMPLES),
    )


def concatenate(parts: list[Samples]) -> Samples:
    """Joins batches of samples into one, in NumPy."""
    return jax.tree.map(lambda *leaf: np.concatenate([np.asarray(x) for x in leaf]), *parts)


def pass_at(correct: Any, k: int) -> float:
    """Returns the mean over prompts of 1 - C(n - c, k) / C(n, k), for c right ones of n samples; `correct` [N, n].
    Raises ValueError for k above n."""
    n = correct.shape[1]
    if k > n:
        raise ValueError(f"pass@{k} cannot be estimated from {n} samples")
    right = np.sum(correct, axis=1)
    return float(np.mean([1.0 - math.comb(n - int(c), k) / math.comb(n, k) for c in right]))


def best_by_proxy(samples: Samples) -> float:
    """Returns the share of prompts whose sample with the highest proxy score, of eight, is correct.

    It lies between pass@1 and pass@8. Samples with equal scores share the weight, so their order does not matter.
    """
    proxy = np.nan_to_num(samples.proxy, nan=-np.inf)
    best = proxy == np.max(proxy, axis=1, keepdims=True)
    return float(np.mean(np.sum(best & samples.correct, axis=1) / np.sum(best, axis=1)))


def _of_proxy(samples: Samples) -> dict[str, float]:
    """Returns metrics of a training reward other than the verifier's; {} if the verifier is the training reward."""
    if samples.proxy is None:
        return {}
    return {"proxy": float(np.mean(samples.proxy)), "best_of_8": best_by_proxy(samples)}


def _mean_length(samples: Samples) -> float:
    """Returns the mean number of tokens that the policy wrote."""
    return float(np.mean(samples.lengths if samples.written is None else samples.written))


def row(samples: Samples) -> dict[str, float]:
    """Returns columns of metrics.jsonl."""
    return {
        **{f"eval/{name}": x for name, x in _of_proxy(samples).items()},
        "eval/return": float(np.mean(samples.returns)),
        "eval/length": _mean_length(samples),
        "eval/pass_at_1": pass_at(samples.correct, 1),
        "eval/pass_at_8": pass_at(samples.correct, SAMPLES),
        "eval/kl_to_reference": float(np.mean(samples.kl)),
        "eval/nonfinite": float(np.sum(samples.broken)),
    }


def final_figures(algo: Any, samples: Samples) -> dict[str, Any]:
    """Returns the figures of one seed's final evaluation for summary.json."""
    return {
        "eval_return_mean": float(np.mean(samples.returns)),
        "eval_return_std": float(np.std(samples.returns)),
        "eval_length_mean": _mean_length(samples),
        "eval_episodes": int(samples.returns.size),
        "eval_prompts": len(samples.correct),
        "eval_prompts_distinct": len(np.unique(samples.prompts, axis=0)),
        "eval_nonfinite": int(np.sum(samples.broken)),
        "pass_at_1": pass_at(samples.correct, 1),
        "pass_at_8": pass_at(samples.correct, SAMPLES),
        "kl_to_reference": float(np.mean(samples.kl)),
        **_of_proxy(samples),
    }


def trouble(algo: Any, samples: Samples) -> str | None:
    """Returns a line about responses whose rewards are not finite; None where all are."""
    broken = int(np.sum(samples.broken))
    if not broken:
        return None
    return (
        f"evaluation: the reward of {broken} of {samples.broken.size} responses is not finite; they earn 0, in "
        "training too, and are counted as wrong"
    )


def transcripts(algo: Any, samples: Samples) -> list[dict[str, Any]]:
    """Returns prompts and responses as text, SHOWN of each mark's. A response is shown to its end, with the padding
    that the policy wrote inside it."""
    n = SHOWN * max(1, len(samples.correct) // prompts_of(algo))
    shown = zip(
        samples.prompts[:n],
        samples.responses[:n],
        samples.lengths[:n],
        samples.correct[:n],
        strict=True,
    )
    return [
        {
            "prompt": algo.env.decode(prompt),
            "response": algo.env.decode(response, int(lengths[0])),
            "correct": bool(right[0]),
        }
        for prompt, response, lengths, right in shown
    ]
