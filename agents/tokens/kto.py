"""KTO for token tasks. Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from agents.core.preference_losses import kto_loss, kto_reference_point
from agents.settings import require
from agents.tokens.pairs import Pairs
from agents.tokens.preference import PairLogps, PreferenceConfig, PreferencePolicy
from agents.tokens.reward import Reward


@dataclasses.dataclass(frozen=True)
class KTOConfig(PreferenceConfig):
    """Settings of `KTO`."""

    desirable_weight: float = 1.0
    """weight of chosen responses"""
    undesirable_weight: float = 1.0
    """weight of rejected responses"""

    def __post_init__(self):
        super().__post_init__()
        self.require_positive("desirable_weight", "undesirable_weight")
        require(
            self.num_responses >= 4,
            f"num_responses must be at least 4, two pairs, for mismatched ones, got {self.num_responses}",
        )


class KTO(PreferencePolicy):
    """Kahneman-Tversky optimisation: every response by itself is desirable or not; the two of a pair are one each.

    Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306; `agents.core.preference_losses.kto_loss`. The reference
    point is estimated from each prompt with the chosen response of the next pair.
    """

    Config: ClassVar[type] = KTOConfig

    def __init__(
        self,
        config: KTOConfig,
        env: Any,
        reward: Reward | None = None,
        pairs: Pairs | None = None,
    ):
        super().__init__(config, env, partial(loss, config=config), reward, pairs, mismatched=True)


def loss(pairs: PairLogps, config: KTOConfig) -> Float[Array, " N"]:
    """Returns the mean loss of each pair's two responses."""
    point = kto_reference_point(pairs.mismatched, pairs.weight > 0)
    desirable = jnp.ones(pairs.chosen.shape, bool)
    weights = config.desirable_weight, config.undesirable_weight
    chosen = kto_loss(pairs.chosen_ratio, desirable, point, config.beta, *weights)
    rejected = kto_loss(pairs.rejected_ratio, ~desirable, point, config.beta, *weights)
    return 0.5 * (chosen + rejected)
