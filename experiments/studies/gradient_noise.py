"""Noise of the policy gradient by each estimator in the derivation of REINFORCE; see `agents/reinforce.py`."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from agents.algorithm import Evaluate, Params
from agents.batch import Batch
from agents.reinforce import ReinforceSettings, targets

# The steps of the derivation, as changes of a config that has the discount wanted.
VARIANTS: dict[str, dict[str, Any]] = {
    "trajectory": {"credit": "trajectory", "baseline": "none", "gamma": 1.0},
    "reward-to-go": {"credit": "reward-to-go", "baseline": "none", "gamma": 1.0},
    "+ discount": {"credit": "reward-to-go", "baseline": "none"},
    "+ mean": {"credit": "reward-to-go", "baseline": "mean"},
    "+ value": {"credit": "reward-to-go", "baseline": "value"},
}


class GradientNoise(NamedTuple):
    """Noise of a gradient estimate from one trajectory; a mean over N of them has the variance divided by N."""

    variance: Array  # [] trace of the covariance
    signal: Array  # [] squared length of the expectation, without bias: it can come out slightly negative


def gradient_noise(
    params: Params,
    batch: Batch,
    tail: ScalarLike,
    *,
    evaluate: Evaluate,
    config: ReinforceSettings,
) -> dict[str, GradientNoise]:
    """Returns the noise of the policy gradient by each of `VARIANTS`, on the same data.

    The batch's columns are the trajectories: best whole episodes, that is `first_episodes` of a rollout as long as
    the longest. Divide `variance` by `signal` to compare variants: the discount shortens the gradient too.
    """
    return {
        name: noise_of(gradient_estimates(params, batch, advantage, evaluate=evaluate))
        for name, advantage in (
            (name, targets(batch, tail, dataclasses.replace(config, **change)).advantage)
            for name, change in VARIANTS.items()
        )
    }


def gradient_estimates(
    params: Params,
    batch: Batch,
    advantage: Float[Array, "T N"],
    *,
    evaluate: Evaluate,
) -> Params:
    """Returns the policy gradient of each column, leaves [N, ...]; their mean is the ascent direction of `update`."""
    mean_length = jnp.sum(batch.mask) / batch.mask.shape[1]

    def objective(params: Params, column: tuple[Any, ...]) -> Float[Array, ""]:
        obs, action, advantage, mask = jax.tree.map(lambda x: x[:, None], column)
        logp = evaluate(params, obs, action).logp
        return jnp.sum(jnp.where(mask, advantage * logp, 0.0)) / mean_length

    columns = (batch.obs, batch.action, advantage, batch.mask)
    return jax.vmap(jax.grad(objective), in_axes=(None, 1))(params, columns)


def first_episodes(batch: Batch) -> Batch:
    """Returns the batch with steps after the first end of an episode in each column masked."""
    done = (batch.terminated | batch.truncated) & batch.mask
    earlier_ends = jnp.cumsum(done, axis=0) - done
    return batch._replace(mask=batch.mask & (earlier_ends == 0))


def noise_of(estimates: Params) -> GradientNoise:
    """Returns the noise of estimates, leaves [N, ...]; N at least 2."""
    leaves = [x.reshape(x.shape[0], -1) for x in jax.tree.leaves(estimates)]
    flat = jnp.concatenate(leaves, axis=1)
    variance = jnp.sum(jnp.var(flat, axis=0, ddof=1))
    squared_mean = jnp.sum(jnp.square(jnp.mean(flat, axis=0)))
    return GradientNoise(variance, squared_mean - variance / flat.shape[0])
