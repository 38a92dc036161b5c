"""The objective of a policy update as a value: a surrogate, the way its terms become one number, and its metrics.

    Objective(
        surrogate=partial(surrogates.clip, clip_low=0.2, clip_high=0.28),   # the loss of each step
        aggregate=aggregation("token-mean"),                        # sum and denominator of these
        measure=partial(clip_indicators, clip_low=0.2, clip_high=0.28),
    )

`ppo.update` and `grpo.update` take one, for control and tokens alike. Another ratio (GSPO), another clip (CISPO, dual
clip) or another denominator (DAPO, Dr. GRPO) is another value, and no branch in an update: `agents.core.surrogates` has
the functions.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from agents.algorithm import Distribution, Evaluate, Params
from agents.batch import Batch, mean_over_parts
from agents.core import across, kl, policy_losses, returns, surrogates
from agents.core.policy_losses import Aggregation

SurrogateName = Literal["clip", "gspo", "gspo-token", "cispo"]
KLEstimator = Literal["k1", "k2", "k3", "k3-plus", "weighted-k3"]


@runtime_checkable
class Surrogate(Protocol):
    """Returns the loss of each step, to be minimised: (logp, old_logp, advantage, mask) to [T, N].

    `logp` is the present policy's and carries the gradient; `old_logp` is of the time of acting. A column is an
    episode where the data are episodes or responses; PPO of control shuffles single steps, T = 1. Entries where
    `mask` is False are ignored, and must be finite.
    """

    def __call__(
        self,
        logp: Float[Array, "T N"],
        old_logp: Float[Array, "T N"],
        advantage: Float[Array, "T N"],
        mask: Bool[Array, "T N"],
    ) -> Float[Array, "T N"]: ...


@runtime_checkable
class Aggregate(Protocol):
    """Returns sum and denominator of a loss over steps: (loss, mask) to ([], []).

    Both add up over parts that split N, and the denominator depends on the mask alone: so micro-batches change
    nothing. An empty mask gives (0, 0).
    """

    def __call__(
        self, loss: Float[Array, "T N"], mask: Bool[Array, "T N"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]: ...


@runtime_checkable
class Measure(Protocol):
    """Returns metrics of each step by name: (logp, old_logp, mask) to arrays [T, N], of which the update reports means.

    A metric of whole columns repeats its value along T.
    """

    def __call__(
        self,
        logp: Float[Array, "T N"],
        old_logp: Float[Array, "T N"],
        mask: Bool[Array, "T N"],
    ) -> dict[str, Float[Array, "T N"]]: ...


class Objective(NamedTuple):
    """The policy's part of an update's objective; the update itself adds entropy, value and KL terms."""

    surrogate: Surrogate
    aggregate: Aggregate
    measure: Measure

    def sizes(self, mask: Bool[Array, "T N"]) -> tuple[Float[Array, ""], Int[Array, ""]]:
        """Returns the denominator of the loss, and the number of unmasked steps, of all devices; 1 where they are 0."""
        denominator = self.aggregate(jnp.zeros(mask.shape), mask)[1]
        denominator, steps = across.total((denominator, jnp.sum(mask)))
        return jnp.maximum(denominator, 1.0), jnp.maximum(steps, 1)


def clip_indicators(
    logp: Float[Array, "T N"],
    old_logp: Float[Array, "T N"],
    mask: Bool[Array, "T N"],
    *,
    clip_low: ScalarLike,
    clip_high: ScalarLike,
) -> dict[str, Float[Array, "T N"]]:
    """Returns 1 where the ratio lies below (`clip_fraction_low`) or above (`clip_fraction_high`) the clip range.

    The ratio alone counts, as is usual: also where the sign of the advantage makes the surrogate ignore the clip.
    """
    ratio = policy_losses.importance_ratio(logp, old_logp)
    return _outside(ratio, clip_low, clip_high)


def sequence_clip_indicators(
    logp: Float[Array, "T N"],
    old_logp: Float[Array, "T N"],
    mask: Bool[Array, "T N"],
    *,
    clip_low: ScalarLike,
    clip_high: ScalarLike,
) -> dict[str, Float[Array, "T N"]]:
    """Returns `clip_indicators` of GSPO's ratio of the whole column, the same at all of its steps."""
    ratio = surrogates.sequence_ratio(logp, old_logp, mask)
    return _outside(jnp.broadcast_to(ratio, logp.shape), clip_low, clip_high)


def aggregation(how: Aggregation, constant: ScalarLike | None = None) -> Aggregate:
    """Returns one of the means of `policy_losses.aggregate`; `constant` is the length that Dr. GRPO divides by."""
    return partial(policy_losses.aggregate, how=how, constant=constant)


def clip_objective(
    clip_low: ScalarLike,
    clip_high: ScalarLike,
    aggregate: Aggregate,
    dual_clip: ScalarLike | None = None,
) -> Objective:
    """Returns the clipped surrogate: PPO's, GRPO's, and with clip_high > clip_low DAPO's."""
    return Objective(
        partial(surrogates.clip, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip),
        aggregate,
        partial(clip_indicators, clip_low=clip_low, clip_high=clip_high),
    )


def kl_between(
    old_params: Params,
    params: Params,
    batch: Batch,
    evaluate: Evaluate,
    distribution: Distribution | None,
    parts: int,
) -> Float[Array, ""]:
    """Returns KL(pi_old || pi) over the whole batch, exact where the distributions are at hand, else by k3.

    Computed in `parts` of equal numbers of columns, one by one, to save memory.
    """

    def of_part(batch: Batch) -> Float[Array, ""]:
        if distribution is not None:
            divergence = distribution(old_params, batch.obs).kl(distribution(params, batch.obs))
        else:
            divergence = kl.k3(batch.logp, evaluate(params, batch.obs, batch.action).logp)
        return returns.masked_mean(divergence, batch.mask)

    return mean_over_parts(of_part, batch, batch.mask, parts)


def named_objective(
    name: SurrogateName,
    clip_low: ScalarLike,
    clip_high: ScalarLike,
    aggregate: Aggregate,
    dual_clip: ScalarLike | None = None,
) -> Objective:
    """Returns the objective of a surrogate by its name. Raises ValueError for a dual clip of another than "clip"."""
    if name == "clip":
        return clip_objective(clip_low, clip_high, aggregate, dual_clip)
    if dual_clip is not None:
        raise ValueError(f'dual_clip belongs to the surrogate "clip", not to "{name}"')
    surrogate, measure = {
        "gspo": (surrogates.gspo, sequence_clip_indicators),
        "gspo-token": (surrogates.gspo_token, sequence_clip_indicators),
        "cispo": (surrogates.cispo, clip_indicators),
    }[name]
    return Objective(
        partial(surrogate, clip_low=clip_low, clip_high=clip_high),
        aggregate,
        partial(measure, clip_low=clip_low, clip_high=clip_high),
    )


def kl_in_loss(
    estimator: KLEstimator,
    logp: Float[Array, "T N"],
    ref_logp: Float[Array, "T N"],
    old_logp: Float[Array, "T N"],
) -> Float[Array, "T N"]:
    """Returns the estimate of KL(pi || ref) at each step that enters the loss; k1 is not available, because its
    expected gradient is 0. `GRPOSettings.kl_estimator` explains how the gradients of the estimators differ."""
    if estimator == "weighted-k3":
        return kl.weighted_k3(logp, ref_logp, old_logp)
    return {"k2": kl.k2, "k3": kl.k3, "k3-plus": kl.k3_plus}[estimator](logp, ref_logp)


def _outside(ratio, clip_low, clip_high):
    return {
        "clip_fraction_low": (ratio < 1.0 - clip_low).astype(ratio.dtype),
        "clip_fraction_high": (ratio > 1.0 + clip_high).astype(ratio.dtype),
    }
