"""Running mean and variance of a stream, for observations and returns.

Float32 needs care on long runs. After n samples a batch of b moves the mean by (b / n) of a
deviation; for b = 32, n = 1e9 that is below the rounding of the mean itself, and the statistics
would freeze. So the count is an integer, mean and variance each carry the part that rounding cut
off (a compensated sum, Kahan 1965, https://doi.org/10.1145/363707.363723), and the variance is
kept rather than the ever-growing sum of squares.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from agents.core import across

# From here on old data fade as in an exponential average, and int32 cannot overflow in `merge`.
MAX_COUNT = 1_000_000_000

REWARD_BOUND = 100.0  # scales of the return that a reward counts at most
UNSEEN_BOUND = 10.0  # while all returns so far are equal
EPSILON = 1e-8  # added to variances, so that constant entries can be divided by their deviation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RunningStatistics:
    """Mean and (population) variance of the data so far. The sum `x + x_low` is the exact value.

    Fields are `Array | Any` for the placeholders that JAX puts in when it rebuilds a pytree.
    """

    count: Array | Any  # [] int32
    mean: Array | Any  # [*shape] float32
    mean_low: Array | Any  # [*shape] float32
    var: Array | Any  # [*shape] float32
    var_low: Array | Any  # [*shape] float32


def init(shape: tuple[int, ...]) -> RunningStatistics:
    """Returns statistics of no data."""
    zeros = jnp.zeros(shape, jnp.float32)
    return RunningStatistics(jnp.zeros((), jnp.int32), zeros, zeros, zeros, zeros)


def update(
    stats: RunningStatistics,
    batch: Shaped[Array, "..."],
    mask: Bool[Array, "..."] | None = None,
) -> RunningStatistics:
    """Add a batch [..., *shape]; `mask` [...] (None: all True) over the leading axes."""
    return merge(stats, _of_batch(batch, mask, stats.mean.ndim))


def merge(a: RunningStatistics, b: RunningStatistics) -> RunningStatistics:
    """Statistics of both streams together. Chan, Golub & LeVeque 1979.

    http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf
    """
    count = a.count + b.count
    weight = b.count / jnp.maximum(count, 1)
    delta = (b.mean - a.mean) + (b.mean_low - a.mean_low)
    spread = (b.var - a.var) + (b.var_low - a.var_low) + jnp.square(delta) * (1.0 - weight)
    mean, mean_low = _add(a.mean, a.mean_low, weight * delta)
    var, var_low = _add(a.var, a.var_low, weight * spread)
    return RunningStatistics(jnp.minimum(count, MAX_COUNT), mean, mean_low, var, var_low)


def normalize(
    stats: RunningStatistics, x: Shaped[Array, "..."], clip: float = 10.0
) -> Float[Array, "..."]:
    """(x - mean) / std, clipped to +-clip; x [..., *shape]."""
    return jnp.clip((x - stats.mean) / std(stats), -clip, clip)


def std(stats: RunningStatistics) -> Float[Array, "..."]:
    """sqrt(var + EPSILON); 1 before two samples."""
    return jnp.where(stats.count < 2, 1.0, jnp.sqrt(jnp.maximum(stats.var, 0.0) + EPSILON))


def return_scale(statistics: RunningStatistics) -> Float[Array, ""]:
    """Returns the standard deviation of the discounted return, at least 10% of its mean. Without this bound, nearly
    equal returns would scale rewards up without limit."""
    return jnp.maximum(std(statistics), 0.1 * jnp.abs(statistics.mean))


def scaled_reward(
    statistics: RunningStatistics, reward: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Rewards in units of `return_scale`, within +-REWARD_BOUND, and within +-UNSEEN_BOUND as long as no return has
    differed from the others.

    The first reward after a long nothing would count 10,000 otherwise: the scale is the square root of the constant
    that keeps it from 0. Where rewards are rare but known (MountainCarContinuous' flag counts up to 79) the bounds
    change nothing. Before there are two returns the scale is 1, and rewards pass as they are.
    """
    no_spread = (statistics.count >= 2) & (statistics.var <= EPSILON)
    known = jnp.where(statistics.count < 2, jnp.inf, REWARD_BOUND)
    bound = jnp.where(no_spread, UNSEEN_BOUND, known)
    return jnp.clip(reward / return_scale(statistics), -bound, bound)


def _of_batch(batch, mask, event_ndim):
    """Statistics of one batch, in two passes; of all devices that share it."""
    lead_shape = batch.shape[: batch.ndim - event_ndim]
    event_shape = batch.shape[batch.ndim - event_ndim :]
    batch = batch.astype(jnp.float32).reshape(-1, *event_shape)
    mask = jnp.ones(batch.shape[0], bool) if mask is None else _flat_mask(mask, lead_shape)
    count = across.total(jnp.sum(mask, dtype=jnp.int32))

    def mean(x):
        kept = jnp.where(mask.reshape(-1, *[1] * event_ndim), x, 0.0)
        return across.total(jnp.sum(kept, axis=0)) / jnp.maximum(count, 1)

    # The first mean is rough where values are large next to their spread; the second pass,
    # over deviations from it, is not.
    centre = mean(batch)
    deviation = batch - centre
    error = mean(deviation)
    var = mean(jnp.square(deviation)) - jnp.square(error)
    return RunningStatistics(count, centre, error, var, jnp.zeros_like(var))


def _flat_mask(mask, lead_shape):
    if mask.shape != lead_shape:
        raise ValueError(f"mask has shape {mask.shape}, the batch's leading axes are {lead_shape}")
    return mask.reshape(-1)


def _add(high: Array, low: Array, x: Array) -> tuple[Array, Array]:
    """(high + low) + x as a new such pair. Knuth's TwoSum: exact whichever term is larger."""
    total = high + x
    carried = total - high
    lost = (high - (total - carried)) + (x - carried)
    low = low + lost
    # Move what has gathered in `low` into `high` as soon as it is large enough to count there.
    settled = total + low
    return settled, low - (settled - total)
