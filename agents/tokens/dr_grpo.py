"""Dr. GRPO for token tasks: two divisions of GRPO left out. Liu et al. 2025, https://arxiv.org/abs/2503.20783"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from agents.core.policy_losses import Aggregation
from agents.tokens.grpo import TokenGRPO, TokenGRPOConfig


@dataclasses.dataclass(frozen=True)
class DrGRPOConfig(TokenGRPOConfig):
    """Settings of `DrGRPO`."""

    scale_advantages: bool = False
    """divide advantages by the standard deviation of their group; Dr. GRPO does not"""
    aggregation: Aggregation = "token-sum-constant"
    """average of the loss: a sum over tokens divided by the maximum response length"""


class DrGRPO(TokenGRPO):
    """GRPO without its two divisions, by a group's spread and a response's length.

    Liu et al. 2025, https://arxiv.org/abs/2503.20783
    """

    Config: ClassVar[type] = DrGRPOConfig
