"""Reward models on samples of the imitated policies, and best-of-n by them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from agents.core.reward_scores import best_of_n, best_of_n_kl
from agents.tokens.pairs import Pairs, map_parts
from agents.tokens.preference import sample_pairs
from agents.tokens.reward_model import RewardModel, RewardModelConfig, RewardParams, step_labels
from agents.tokens.sft import SFT, SFTConfig
from experiments.studies.alignment.policies import (
    alone,
    config_of,
    gold_of,
    over_seeds,
    policies,
    seed_keys,
)
from experiments.studies.alignment.settings import Sizes

HELD_OUT = 512  # pairs for the agreement
_AT_ONCE = 512  # responses in memory

Kind = Literal["bradley-terry", "outcome", "process"]


class Trained(NamedTuple):
    """Reward models of all seeds."""

    model: RewardModel
    params: RewardParams  # leaves [seeds, ...], calibrated
    agreement: list[float]  # with gold, on held-out pairs, of each seed
    seconds: float  # of one seed's training, without compilation


class Best(NamedTuple):
    """Best-of-n for n = 1 .. N, each [seeds, N]."""

    gold: Any
    proxy: Any
    kl: Any  # nats, [N]; an upper bound where samples tie


def writer(sizes: Sizes) -> SFT:
    """Returns the learner by which the imitated policies write; its samples are ranked by gold."""
    return SFT(config_of(SFTConfig, sizes), sizes.env())


@functools.lru_cache(8)
def pairs_of(sizes: Sizes, n: int) -> Pairs:
    """Returns two samples to each of n prompts, ranked by gold, leaves [seeds, n, ...]."""
    learner = writer(sizes)

    def make(policy: Any, key: PRNGKeyArray) -> Pairs:
        prompt_key, key = jax.random.split(key)
        prompts = learner.env.prompts(prompt_key, n)
        return sample_pairs(learner, alone(policy), prompts, key, at_once=min(n, _AT_ONCE))

    return over_seeds(make)(policies(sizes), seed_keys(sizes, 2))


@functools.lru_cache(16)
def trained(
    sizes: Sizes,
    pairs: int,
    *,
    kind: Kind = "bradley-terry",
    width: int | None = None,
    member: int = 0,
    from_policy: bool = True,
    epochs: int | None = None,
) -> Trained:
    """Returns reward models of so many pairs, trained and calibrated.

    Args:
      kind: bradley-terry; outcome: is the whole response right; process: is each token, so far. The latter two are
        judged by the verifier.
      width: of the model; None: as the policy.
      epochs: passes over the pairs, at most; None: those of `sizes`.
      member: of an ensemble: the same pairs, in another order, and other parameters at first.
    """
    most = sizes.model_steps * sizes.step_pairs
    config = RewardModelConfig(
        kind="bradley-terry" if kind == "bradley-terry" else "process",
        aggregate="last" if kind == "outcome" else "min",
        num_pairs=pairs,
        step_pairs=sizes.step_pairs,
        num_epochs=max(1, min(epochs or sizes.model_epochs, most // pairs)),
        from_policy=from_policy,
        width=width or sizes.width,
        mlp_width=3 * width if width else sizes.mlp_width,
        heads=sizes.heads,
        kv_heads=sizes.heads,
    )
    env = sizes.env("process")
    every_token = kind == "process"
    model = RewardModel(config, env.vocabulary_size, env.pad, every_token)
    steps = model.total_steps(pairs)

    def fit(set_of_pairs: Pairs, policy: Any, key: PRNGKeyArray) -> RewardParams:
        start_key, prompt_key, sample_key = jax.random.split(jax.random.fold_in(key, member), 3)
        labels = None
        if kind != "bradley-terry":
            rows = set_of_pairs.prompts_twice, set_of_pairs.responses, set_of_pairs.lengths
            labels = step_labels(env, *rows, every_token)
        state = model.start(start_key, policy if from_policy else None)
        state = jax.lax.fori_loop(
            0, steps, lambda _, s: model.step(s, set_of_pairs, labels)[0], state
        )
        prompts = env.prompts(prompt_key, min(HELD_OUT, 4 * sizes.prompts))
        found = writer(sizes).respond(alone(policy), prompts, sample_key)
        return model.calibrate(state.params, prompts, found.tokens, found.length)

    given = pairs_of(sizes, pairs), policies(sizes), seed_keys(sizes, 3)
    compiled = over_seeds(fit).lower(*given).compile()  # type: ignore[attr-defined]
    begun = time.monotonic()
    params = jax.block_until_ready(compiled(*given))
    seconds = (time.monotonic() - begun) / sizes.seeds
    return Trained(model, params, agreement(model, params, sizes), seconds)


def agreement(model: RewardModel, params: RewardParams, sizes: Sizes) -> list[float]:
    """Returns the share of held-out pairs, ties left out, whose better response scores higher, of each seed."""
    held_out = _held_out_pairs(sizes)

    def of_seed(params: RewardParams, pairs: Pairs) -> Float[Array, ""]:
        scores = model.raw_score(params.model, pairs.prompts_twice, pairs.responses, pairs.lengths)
        chosen, rejected = jnp.split(scores, 2)
        agrees = 0.5 + 0.5 * jnp.sign(chosen - rejected)
        return jnp.sum(pairs.weight * agrees) / jnp.maximum(jnp.sum(pairs.weight), 1.0)

    return [float(x) for x in over_seeds(of_seed)(params, held_out)]


@functools.lru_cache(1)
def _held_out_pairs(sizes: Sizes) -> Pairs:
    learner = writer(sizes)
    n = min(HELD_OUT, 4 * sizes.prompts)

    def make(policy: Any, key: PRNGKeyArray) -> Pairs:
        prompt_key, key = jax.random.split(key)
        prompts = learner.env.held_out(prompt_key, n)
        return sample_pairs(learner, alone(policy), prompts, key, at_once=n)

    return over_seeds(make)(policies(sizes), seed_keys(sizes, 4))


@functools.lru_cache(1)
def _samples(sizes: Sizes) -> Any:
    """Samples of the imitated policies, [seeds, samples of all prompts], and their gold scores."""
    learner = writer(sizes)

    def write(policy: Any, key: PRNGKeyArray) -> Any:
        prompt_key, sample_key = jax.random.split(key)
        prompts = learner.env.held_out(prompt_key, sizes.best_prompts)
        prompts = jnp.repeat(prompts, sizes.best_of, axis=0)
        keys = jax.random.split(sample_key, prompts.shape[0])
        size = min(_AT_ONCE, prompts.shape[0])

        def part(rows: Any) -> Any:
            prompts, keys = rows
            found = learner.respond(alone(policy), prompts, keys[0])
            return found.tokens, found.length, gold_of(sizes, prompts, found)[0]

        return prompts, *map_parts(part, (prompts, keys), size)

    return over_seeds(write)(policies(sizes), seed_keys(sizes, 5))


def best_by(score: Callable[..., Float[Array, " N"]], params: Any, sizes: Sizes) -> Best:
    """Returns gold and proxy of the best of n samples by a score, means over held-out prompts."""

    def of_seed(params: Any, samples: Any) -> tuple[Array, Array]:
        prompts, tokens, lengths, gold = samples
        size = min(_AT_ONCE, prompts.shape[0])
        proxy = map_parts(lambda rows: score(params, *rows), (prompts, tokens, lengths), size)
        proxy, gold = (x.reshape(sizes.best_prompts, -1).T for x in (proxy, gold))
        return tuple(jnp.mean(best_of_n(proxy, x), axis=1) for x in (gold, proxy))  # type: ignore[return-value]

    gold, proxy = over_seeds(of_seed)(params, _samples(sizes))
    n = jnp.arange(1, sizes.best_of + 1)
    return Best(np.asarray(gold), np.asarray(proxy), np.asarray(best_of_n_kl(n)))
