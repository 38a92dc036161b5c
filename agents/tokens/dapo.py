"""DAPO for token tasks: GRPO with a wider upper clip, the mean over tokens, and groups drawn again that teach nothing.

Yu et al. 2025, https://arxiv.org/abs/2503.14476
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from agents.core.policy_losses import Aggregation
from agents.tokens.grpo import TokenGRPO, TokenGRPOConfig


@dataclasses.dataclass(frozen=True)
class DAPOConfig(TokenGRPOConfig):
    """Settings of `DAPO`."""

    clip_high: float = 0.28
    """the surrogate's clip range above a ratio of 1: wider, so that unlikely tokens can become likely"""
    aggregation: Aggregation = "token-mean"
    """average of the loss: over all tokens of the batch, so that tokens of long responses have full weight"""
    dynamic_sampling: bool = True
    """replace groups whose outcomes are all equal by newly sampled groups"""


class DAPO(TokenGRPO):
    """GRPO with clip-higher, the mean over tokens and dynamic sampling. Yu et al. 2025, https://arxiv.org/abs/2503.14476

    The fourth part, a charge for length, depends on the task and is off: `overlong_buffer`, or `cut_responses` mask.
    """

    Config: ClassVar[type] = DAPOConfig
