"""ORPO for token tasks. Hong et al. 2024, https://arxiv.org/abs/2403.07691"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float, PRNGKeyArray

from agents.core.preference_losses import orpo_loss
from agents.tokens.preference import (
    PairLogps,
    PreferenceConfig,
    PreferencePolicy,
    PreferenceState,
    preference_step,
)


@dataclasses.dataclass(frozen=True)
class ORPOConfig(PreferenceConfig):
    """Settings of `ORPO`."""

    beta: float = 0.1
    """weight of the odds ratio beside imitation (the paper's lambda), and scale of the rewards in the metrics"""


class ORPO(PreferencePolicy):
    """Odds ratio preference optimisation: imitation of the chosen response, and its odds against the rejected one's.

    Hong et al. 2024, https://arxiv.org/abs/2403.07691; `agents.core.preference_losses.orpo_loss`. The loss has no
    reference.
    """

    Config: ClassVar[type] = ORPOConfig

    def init(self, key: PRNGKeyArray) -> PreferenceState:
        """Returns the first state, after imitation of the expert, with the set of pairs."""
        return self.start_with_pairs(key)

    def step(
        self, state: PreferenceState, data: None = None
    ) -> tuple[PreferenceState, dict[str, Array]]:
        """Returns the state after one gradient step, and its metrics."""
        return preference_step(self, state, self.loss)

    def loss(self, pairs: PairLogps) -> Float[Array, " N"]:
        """Returns the loss of each pair."""
        return orpo_loss(pairs.chosen_mean, pairs.rejected_mean, self.config.beta)
