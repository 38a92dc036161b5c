"""Behaviour cloning of the best episodes alone ("10% BC"). Chen et al. 2021, sec. 5.1, https://arxiv.org/abs/2106.01345

Selective imitation in its simplest form: a filter by return, then `bc`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from agents.offline.bc import BC, BCConfig
from agents.settings import require
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class PercentBCConfig(BCConfig):
    """Settings of `PercentBC`."""

    best_fraction: float = 0.1
    """share of the transitions that is imitated: those of the episodes of the highest returns"""

    def __post_init__(self):
        super().__post_init__()
        require(
            0 < self.best_fraction <= 1,
            f"best_fraction must be above 0 and at most 1, got {self.best_fraction}",
        )


class PercentBC(BC):
    """`BC` on the best share of the transitions."""

    Config: ClassVar[type] = PercentBCConfig

    def __init__(self, config: PercentBCConfig, env: Env):
        super().__init__(config, env)
        self.best_fraction = config.best_fraction
