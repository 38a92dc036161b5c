"""Losses on pairs of responses, a chosen and a rejected one to the same prompt, and metrics of such pairs.

Losses have the shape `[N]`, one entry a pair (KTO: a response), and are to be minimised; `returns.masked_mean` averages
them, with the pairs as its mask where the batch is padded. Their arguments come from `sequence_logp`:

- a log-probability log pi(y|x) is a sum over the response's tokens, a mean log-probability is divided by their number;
- a log-ratio is log pi(y|x) - log ref(y|x), ref the reference policy, without gradient.

Each loss says which of them it takes. A term that imitates the chosen response (DPO + SFT) is added outside:
`loss - weight * sequence_logp(chosen_logp, mask, normalise=True)`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from agents.core.returns import masked_mean

# Of a mean log-probability in the odds p / (1 - p), which are infinite at p = 1.
MAX_MEAN_LOGP = -1e-6


class PreferenceMetrics(NamedTuple):
    """Means over the pairs; all are numbers.

    Margin and accuracy can rise while both log-probabilities fall, so these belong to every plot.
    """

    reward_chosen: Array  # []  beta * log-ratio
    reward_rejected: Array  # []
    margin: Array  # []  the difference of the two
    accuracy: Array  # []  share of pairs with a positive margin; a tie counts as wrong
    logp_chosen: Array  # []
    logp_rejected: Array  # []


def sequence_logp(
    logp: Float[Array, "T N"], mask: Bool[Array, "T N"], normalise: bool = False
) -> Float[Array, " N"]:
    """Sum of each sequence's unmasked log-probs, or their mean (`normalise`); 0 for a wholly masked sequence.

    Masked entries may hold anything and get gradient 0.
    """
    total = jnp.sum(jnp.where(mask, logp, 0.0), axis=0)
    return total / jnp.maximum(jnp.sum(mask, axis=0), 1) if normalise else total


def dpo_loss(
    chosen: Float[Array, " N"],
    rejected: Float[Array, " N"],
    beta: ScalarLike = 0.1,
    label_smoothing: ScalarLike = 0.0,
) -> Float[Array, " N"]:
    """-(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d), d = chosen - rejected, both log-ratios.

    `label_smoothing` e is the probability that a label is wrong (conservative DPO). The first loss, with the policy
    at its reference, is log 2. Where all ordered pairs are labelled by Bradley-Terry with a reward r, the optimum is
    proportional to ref exp(r / beta).
    DPO, Rafailov et al. 2023, eq. 7, https://arxiv.org/abs/2305.18290; cDPO, Mitchell 2023, eq. 3,
    https://ericmitchell.ai/cdpo.pdf
    """
    logit = jnp.asarray(beta) * (chosen - rejected)
    right, wrong = jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)
    smoothing = jnp.asarray(label_smoothing)
    return -(1.0 - smoothing) * right - smoothing * wrong


def ipo_loss(
    chosen: Float[Array, " N"],
    rejected: Float[Array, " N"],
    chosen_length: Int[Array, " N"],
    rejected_length: Int[Array, " N"],
    beta: ScalarLike = 0.1,
    *,
    normalise: bool = True,
) -> Float[Array, " N"]:
    """(d - 1 / (2 beta))^2, d the difference of the log-ratios, each divided by its length if `normalise`.

    The paper's and OpenRLHF's d is of sums (`normalise=False`), TRL's of means per token. The optimum is
    d = 1 / (2 beta) for labels without noise, where DPO has none.
    Azar et al. 2023, eq. 17. https://arxiv.org/abs/2310.12036
    """
    if normalise:
        chosen = chosen / jnp.maximum(chosen_length, 1)
        rejected = rejected / jnp.maximum(rejected_length, 1)
    return jnp.square(chosen - rejected - 0.5 / jnp.asarray(beta))


def kto_loss(
    log_ratio: Float[Array, " N"],
    desirable: Bool[Array, " N"],
    reference_point: Float[Array, ""],
    beta: ScalarLike = 0.1,
    desirable_weight: ScalarLike = 1.0,
    undesirable_weight: ScalarLike = 1.0,
) -> Float[Array, " N"]:
    """w (1 - sigmoid(+-beta (log_ratio - z))), + and `desirable_weight` where `desirable`; single responses, no pairs.

    `reference_point` z comes from `kto_reference_point`.
    Ethayarajh et al. 2024, sec. 4.1. https://arxiv.org/abs/2402.01306
    """
    gain = jnp.asarray(beta) * (log_ratio - jax.lax.stop_gradient(reference_point))
    weight = jnp.where(desirable, desirable_weight, undesirable_weight)
    # 1 - sigmoid(x) = sigmoid(-x), which keeps its digits for large x.
    return weight * jax.nn.sigmoid(jnp.where(desirable, -gain, gain))


def kto_reference_point(
    log_ratio: Float[Array, " N"], mask: Bool[Array, " N"] | None = None
) -> Float[Array, ""]:
    """max(0, mean log-ratio), without gradient: a rough estimate of KL(pi || ref).

    `log_ratio` is of mismatched pairs, each prompt with the response to another one.
    Ethayarajh et al. 2024, sec. 4.1. https://arxiv.org/abs/2402.01306
    """
    return jax.lax.stop_gradient(jnp.maximum(masked_mean(log_ratio, mask), 0.0))


def simpo_loss(
    chosen: Float[Array, " N"],
    rejected: Float[Array, " N"],
    beta: ScalarLike = 2.0,
    gamma: ScalarLike = 1.0,
    label_smoothing: ScalarLike = 0.0,
) -> Float[Array, " N"]:
    """-log sigmoid(beta d - gamma), d = chosen - rejected, both MEAN log-probabilities; there is no reference.

    `gamma` is absolute, as in the paper and TRL; Princeton's code has gamma / beta. Label smoothing as in `dpo_loss`.
    Meng et al. 2024, eq. 6. https://arxiv.org/abs/2405.14734
    """
    beta = jnp.asarray(beta)
    return dpo_loss(chosen - gamma / beta, rejected, beta, label_smoothing)


def odds_ratio_loss(chosen: Float[Array, " N"], rejected: Float[Array, " N"]) -> Float[Array, " N"]:
    """-log sigmoid(log(odds(chosen) / odds(rejected))), odds p / (1 - p) with log p a MEAN log-probability.

    Log-probabilities are clipped below 0, where the odds are infinite.
    ORPO, Hong et al. 2024, eq. 7. https://arxiv.org/abs/2403.07691
    """
    return -jax.nn.log_sigmoid(_log_odds(chosen) - _log_odds(rejected))


def orpo_loss(
    chosen: Float[Array, " N"], rejected: Float[Array, " N"], weight: ScalarLike = 0.1
) -> Float[Array, " N"]:
    """-chosen + weight `odds_ratio_loss`, both MEAN log-probabilities; there is no reference.

    `weight` is the paper's lambda, TRL's beta. The first term averages over a response's tokens, then over responses;
    TRL's averages over all tokens of the batch.
    Hong et al. 2024, eq. 6. https://arxiv.org/abs/2403.07691
    """
    return -chosen + jnp.asarray(weight) * odds_ratio_loss(chosen, rejected)


def bradley_terry_loss(
    chosen: Float[Array, " N"],
    rejected: Float[Array, " N"],
    margin: Float[Array, " N"] | ScalarLike = 0.0,
    centre: ScalarLike = 0.0,
) -> Float[Array, " N"]:
    """-log sigmoid(chosen - rejected - margin) + centre (chosen + rejected)^2, both scores of a reward model.

    Without `centre` (0.01 is usual) the loss does not see a constant added to all scores of a prompt.
    With a margin: Touvron et al. 2023, eq. 2, https://arxiv.org/abs/2307.09288; centred: Eisenstein et al. 2023,
    https://arxiv.org/abs/2312.09244
    """
    loss = -jax.nn.log_sigmoid(chosen - rejected - jnp.asarray(margin))
    return loss + jnp.asarray(centre) * jnp.square(chosen + rejected)


def comparison_loss(
    first: Float[Array, " N"],
    second: Float[Array, " N"],
    label: Float[Array, " N"],
    error: float = 0.0,
) -> Float[Array, " N"]:
    """-label log P - (1 - label) log(1 - P), with P = (1 - error) sigmoid(first - second) + error / 2.

    `first` and `second` are sums of rewards over segments. `label` is the probability that the first is better: 1 or 0,
    and 1/2 where neither is. `error` is the share of labels that are taken for chance, whatever the segments: it bounds
    the loss of a wrong label. With 0 and labels of 1 it is `bradley_terry_loss`.
    Christiano et al. 2017, eq. 1 and sec. 2.2.3. https://arxiv.org/abs/1706.03741
    """
    lead = first - second

    def log_probability(x: Float[Array, " N"]) -> Float[Array, " N"]:
        certain = jax.nn.log_sigmoid(x)
        if error == 0.0:
            return certain
        return jnp.logaddexp(jnp.log1p(-error) + certain, jnp.log(error / 2.0))

    return -label * log_probability(lead) - (1.0 - label) * log_probability(-lead)


def preference_metrics(
    chosen_logp: Float[Array, " N"],
    rejected_logp: Float[Array, " N"],
    chosen_ref_logp: Float[Array, " N"],
    rejected_ref_logp: Float[Array, " N"],
    beta: ScalarLike = 0.1,
    mask: Bool[Array, " N"] | None = None,
) -> PreferenceMetrics:
    """Rewards, margin, accuracy and log-probabilities, averaged over the unmasked pairs, without gradient."""
    rewards = [
        jnp.asarray(beta) * (chosen_logp - chosen_ref_logp),
        jnp.asarray(beta) * (rejected_logp - rejected_ref_logp),
    ]
    margin = rewards[0] - rewards[1]
    right = (margin > 0).astype(margin.dtype)
    means = [masked_mean(x, mask) for x in (*rewards, margin, right, chosen_logp, rejected_logp)]
    return jax.lax.stop_gradient(PreferenceMetrics(*means))


def _log_odds(logp):
    """log(p / (1 - p)); expm1 keeps the digits of 1 - p where p is near 1."""
    logp = jnp.minimum(logp, MAX_MEAN_LOGP)
    return logp - jnp.log(-jnp.expm1(logp))
