"""ORPO for token tasks. Hong et al. 2024, https://arxiv.org/abs/2403.07691"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar

from jaxtyping import Array, Float

from agents.core.preference_losses import orpo_loss
from agents.tokens.pairs import Pairs
from agents.tokens.preference import PairLogps, PreferenceConfig, PreferencePolicy
from agents.tokens.reward import Reward


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

    def __init__(
        self,
        config: ORPOConfig,
        env: Any,
        reward: Reward | None = None,
        pairs: Pairs | None = None,
    ):
        super().__init__(config, env, partial(loss, config=config), reward, pairs)


def loss(pairs: PairLogps, config: ORPOConfig) -> Float[Array, " N"]:
    """Returns the loss of each pair."""
    return orpo_loss(pairs.chosen_mean, pairs.rejected_mean, config.beta)
