"""Direct preference optimisation for token tasks. Rafailov et al. 2023, https://arxiv.org/abs/2305.18290"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float, PRNGKeyArray

from agents.core.preference_losses import dpo_loss
from agents.settings import require
from agents.tokens.preference import (
    PairLogps,
    PreferenceConfig,
    PreferencePolicy,
    PreferenceState,
    preference_step,
)


@dataclasses.dataclass(frozen=True)
class DPOConfig(PreferenceConfig):
    """Settings of `DPO`."""

    label_smoothing: float = 0.0
    """probability that a label is taken to be wrong (conservative DPO): the margin stays finite"""

    def __post_init__(self):
        super().__post_init__()
        require_smoothing(self.label_smoothing)


class DPO(PreferencePolicy):
    """Direct preference optimisation: a classifier of pairs whose score is the log-ratio to the reference.

    Rafailov et al. 2023, https://arxiv.org/abs/2305.18290; `agents.core.preference_losses.dpo_loss`.
    """

    Config: ClassVar[type] = DPOConfig

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
        config = self.config
        return dpo_loss(
            pairs.chosen_ratio, pairs.rejected_ratio, config.beta, config.label_smoothing
        )


def require_smoothing(share: float) -> None:
    """Raises ValueError for a label smoothing outside [0, 0.5)."""
    require(0 <= share < 0.5, f"label_smoothing must be at least 0 and below 0.5, got {share}")
