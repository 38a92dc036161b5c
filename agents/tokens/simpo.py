"""SimPO for token tasks. Meng et al. 2024, https://arxiv.org/abs/2405.14734"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar

from jaxtyping import Array, Float

from agents.core.preference_losses import simpo_loss
from agents.tokens.dpo import require_smoothing
from agents.tokens.pairs import Pairs
from agents.tokens.preference import PairLogps, PreferenceConfig, PreferencePolicy
from agents.tokens.reward import Reward


@dataclasses.dataclass(frozen=True)
class SimPOConfig(PreferenceConfig):
    """Settings of `SimPO`."""

    beta: float = 2.0
    """scale of the mean log-probabilities in the loss, and of log-ratios in the rewards of the metrics"""
    gamma: float = 1.0
    """target margin between chosen and rejected response, absolute as in the paper and TRL"""
    label_smoothing: float = 0.0
    """assumed probability of a wrong label"""

    def __post_init__(self):
        super().__post_init__()
        self.require_not_negative("gamma")
        require_smoothing(self.label_smoothing)


class SimPO(PreferencePolicy):
    """Simple preference optimisation: mean log-probabilities in place of log-ratios, so the loss has no reference.

    Meng et al. 2024, https://arxiv.org/abs/2405.14734; `agents.core.preference_losses.simpo_loss`.
    """

    Config: ClassVar[type] = SimPOConfig

    def __init__(
        self,
        config: SimPOConfig,
        env: Any,
        reward: Reward | None = None,
        pairs: Pairs | None = None,
    ):
        super().__init__(config, env, partial(loss, config=config), reward, pairs)


def loss(pairs: PairLogps, config: SimPOConfig) -> Float[Array, " N"]:
    """Returns the loss of each pair."""
    return simpo_loss(
        pairs.chosen_mean,
        pairs.rejected_mean,
        config.beta,
        config.gamma,
        config.label_smoothing,
    )
