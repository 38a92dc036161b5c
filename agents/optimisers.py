"""Gradient steps: optimiser chains, the step itself, and epochs of shuffled minibatches.

On-policy learners keep the learning rate out of the optimiser: it is a function of the environment steps taken, and is
applied in `descend`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents.batch import minibatches, random_order

Params = Any


def clipped(
    optimizer: optax.GradientTransformation, max_grad_norm: float | None
) -> optax.GradientTransformation:
    """Returns `optimizer` behind a bound on the gradient's global norm; None: no bound."""
    if max_grad_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optimizer)


def adam(max_grad_norm: float | None) -> optax.GradientTransformation:
    """Returns Adam with an epsilon of 1e-5, as PPO's implementations have it, behind the bound."""
    return clipped(optax.scale_by_adam(eps=1e-5), max_grad_norm)


def rmsprop_or_adam(
    name: Literal["rmsprop", "adam"], max_grad_norm: float | None
) -> optax.GradientTransformation:
    """Returns the optimiser of A2C and IMPALA by its name, behind the bound."""
    if name == "adam":
        return adam(max_grad_norm)
    # The squares start at 1, not 0: else the first steps, taken on the word of one rollout, would be the longest.
    rmsprop = optax.scale_by_rms(decay=0.99, eps=1e-5, initial_scale=1.0)
    return clipped(rmsprop, max_grad_norm)


def descend(
    params: Params,
    opt_state: Any,
    grads: Params,
    optimizer: optax.GradientTransformation,
    learning_rate: Float[Array, ""],
) -> tuple[Params, Any]:
    """Returns parameters and optimiser state after one gradient step. A parameter whose update is None stays."""
    updates, opt_state = optimizer.update(grads, opt_state, params)

    def moved(p: Array, u: Array | None) -> Array:
        return p if u is None else p - learning_rate * u

    return jax.tree.map(moved, params, updates), opt_state


def apply_gradients(
    optimizer: optax.GradientTransformation, grads: Params, opt_state: Any, params: Params
) -> tuple[Params, Any]:
    """Returns parameters and optimiser state after one gradient step by a whole optimiser, learning rate and all."""
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def epochs(
    gradient_step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    data: Any,
    key: PRNGKeyArray,
    num_epochs: int,
    num_minibatches: int,
    after_epoch: Callable[[Any, Any], Any] = lambda carry, metrics: carry,
) -> tuple[Any, Any]:
    """Passes over `data` (leaves [T, N, ...]) in minibatches that split N, in a new random order each epoch. A single
    minibatch has the order of the data.

    Args:
      gradient_step: (carry, minibatch [T, N / num_minibatches, ...]) to (carry, metrics).
      after_epoch: (carry, metrics of the epoch [num_minibatches]) to the carry of the next one.

    Returns:
      The last carry, and metrics [num_epochs, num_minibatches].

    Raises TypeError where N does not divide into the minibatches.
    """
    num_columns = jax.tree.leaves(data)[0].shape[1]

    def epoch(carry: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        if num_minibatches == 1:
            carry, metrics = gradient_step(carry, data)
            metrics = jax.tree.map(lambda x: x[None], metrics)
            return after_epoch(carry, metrics), metrics
        order = random_order(key, num_columns).reshape(num_minibatches, -1)
        carry, metrics = jax.lax.scan(gradient_step, carry, minibatches(data, order))
        return after_epoch(carry, metrics), metrics

    return jax.lax.scan(epoch, carry, jax.random.split(key, num_epochs))
