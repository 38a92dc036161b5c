"""GSPO for token tasks: the ratio of a whole response, and a clip of it. Zheng et al. 2025, https://arxiv.org/abs/2507.18071"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from agents.objectives import SurrogateName
from agents.tokens.grpo import TokenGRPO, TokenGRPOConfig


@dataclasses.dataclass(frozen=True)
class GSPOConfig(TokenGRPOConfig):
    """Settings of `GSPO`."""

    surrogate: SurrogateName = "gspo"
    """importance ratio of the loss: the geometric mean over the tokens of a response"""
    clip_low: float = 3e-4
    """the surrogate's clip range below a ratio of 1; small, because a mean over tokens varies less than a token's
    ratio"""
    clip_high: float = 4e-4
    """the surrogate's clip range above a ratio of 1"""


class GSPO(TokenGRPO):
    """GRPO with the ratio of whole responses. Zheng et al. 2025, https://arxiv.org/abs/2507.18071"""

    Config: ClassVar[type] = GSPOConfig
