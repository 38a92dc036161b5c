"""IPO for token tasks. Azar et al. 2023, https://arxiv.org/abs/2310.12036"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float, PRNGKeyArray

from agents.core.preference_losses import ipo_loss
from agents.tokens.preference import (
    PairLogps,
    PreferenceConfig,
    PreferencePolicy,
    PreferenceState,
    preference_step,
)


@dataclasses.dataclass(frozen=True)
class IPOConfig(PreferenceConfig):
    """Settings of `IPO`."""

    normalise: bool = True
    """divide log-ratios by the response's length, as TRL does; else sums, as the paper and OpenRLHF have them"""


class IPO(PreferencePolicy):
    """Identity preference optimisation: the difference of log-ratios is fitted to 1 / (2 beta), and stays finite.

    Azar et al. 2023, https://arxiv.org/abs/2310.12036; `agents.core.preference_losses.ipo_loss`.
    """

    Config: ClassVar[type] = IPOConfig

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
        return ipo_loss(
            pairs.chosen_ratio,
            pairs.rejected_ratio,
            pairs.chosen_length,
            pairs.rejected_length,
            self.config.beta,
            normalise=self.config.normalise,
        )
