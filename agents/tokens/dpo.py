"""Direct preference optimisation for token tasks. Rafailov et al. 2023, https://arxiv.org/abs/2305.18290"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar

from jaxtyping import Array, Float

from agents.core.preference_losses import dpo_loss
from agents.settings import require
from agents.tokens.pairs import Pairs
from agents.tokens.preference import PairLogps, PreferenceConfig, PreferencePolicy
from agents.tokens.reward import Reward


@dataclasses.dataclass(frozen=True)
class DPOConfig(PreferenceConfig):
    """Settings of `DPO`."""

    label_smoothing: float = 0.0
    """assumed probability of a wrong label (conservative DPO), which keeps the margin finite"""

    def __post_init__(self):
        super().__post_init__()
        require_smoothing(self.label_smoothing)


class DPO(PreferencePolicy):
    """Direct preference optimisation: a classifier of pairs whose score is the log-ratio to the reference.

    Rafailov et al. 2023, https://arxiv.org/abs/2305.18290; `agents.core.preference_losses.dpo_loss`.
    """

    Config: ClassVar[type] = DPOConfig

    def __init__(
        self,
        config: DPOConfig,
        env: Any,
        reward: Reward | None = None,
        pairs: Pairs | None = None,
    ):
        super().__init__(config, env, partial(loss, config=config), reward, pairs)


def loss(pairs: PairLogps, config: DPOConfig) -> Float[Array, " N"]:
    """Returns the loss of each pair."""
    return dpo_loss(pairs.chosen_ratio, pairs.rejected_ratio, config.beta, config.label_smoothing)


def require_smoothing(share: float) -> None:
    """Raises ValueError for a label smoothing outside [0, 0.5)."""
    require(0 <= share < 0.5, f"label_smoothing must be at least 0 and below 0.5, got {share}")
