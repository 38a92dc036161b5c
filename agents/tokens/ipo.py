"""IPO for token tasks. Azar et al. 2023, https://arxiv.org/abs/2310.12036"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar

from jaxtyping import Array, Float

from agents.core.preference_losses import ipo_loss
from agents.tokens.pairs import Pairs
from agents.tokens.preference import PairLogps, PreferenceConfig, PreferencePolicy
from agents.tokens.reward import Reward


@dataclasses.dataclass(frozen=True)
class IPOConfig(PreferenceConfig):
    """Settings of `IPO`."""

    normalise: bool = True
    """divide log-ratios by the response's length (TRL); else sum them (the paper, OpenRLHF)"""


class IPO(PreferencePolicy):
    """Identity preference optimisation: the difference of log-ratios is fitted to 1 / (2 beta), and stays finite.

    Azar et al. 2023, https://arxiv.org/abs/2310.12036; `agents.core.preference_losses.ipo_loss`.
    """

    Config: ClassVar[type] = IPOConfig

    def __init__(
        self,
        config: IPOConfig,
        env: Any,
        reward: Reward | None = None,
        pairs: Pairs | None = None,
    ):
        super().__init__(config, env, partial(loss, config=config), reward, pairs)


def loss(pairs: PairLogps, config: IPOConfig) -> Float[Array, " N"]:
    """Returns the loss of each pair."""
    return ipo_loss(
        pairs.chosen_ratio,
        pairs.rejected_ratio,
        pairs.chosen_length,
        pairs.rejected_length,
        config.beta,
        normalise=config.normalise,
    )
