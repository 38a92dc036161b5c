"""CISPO for token tasks: the ratio is a clipped, constant weight. MiniMax 2025, https://arxiv.org/abs/2506.13585"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from agents.core.policy_losses import Aggregation
from agents.objectives import SurrogateName
from agents.tokens.grpo import TokenGRPO, TokenGRPOConfig


@dataclasses.dataclass(frozen=True)
class CISPOConfig(TokenGRPOConfig):
    """Settings of `CISPO`."""

    surrogate: SurrogateName = "cispo"
    """importance ratio of the loss: per token, as a clipped weight without gradient, so that clipped tokens still have
    a gradient"""
    clip_low: float = 1.0
    """the weight's clip range below 1; 1: no lower bound, as in the paper"""
    clip_high: float = 4.0
    """the weight's clip range above 1: weights are at most 5"""
    aggregation: Aggregation = "token-mean"
    """average of the loss: over all tokens of the batch"""


class CISPO(TokenGRPO):
    """GRPO with clipped ratios as weights of the policy gradient. MiniMax 2025, https://arxiv.org/abs/2506.13585"""

    Config: ClassVar[type] = CISPOConfig
