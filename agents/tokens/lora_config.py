"""The settings of low-rank adapters."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from agents.settings import Settings, require

# The matrices of Llama and its kin that may have an adapter, by their published names; GPT-2's go by the same.
LoraTarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS: tuple[LoraTarget, ...] = get_args(LoraTarget)


@dataclasses.dataclass(frozen=True)
class Lora(Settings):
    """Low-rank adapters: beside a matrix W [inputs, outputs] that stays as it is, A [inputs, r] and B [r, outputs] are
    trained, and x W + (alpha / r) x A B is computed. B is 0 at first, and the model unchanged.

    Hu et al. 2021, https://arxiv.org/abs/2106.09685. Raises ValueError, in one line, for impossible values.
    """

    rank: int
    alpha: float
    targets: tuple[LoraTarget, ...]

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("rank")
        self.require_positive("alpha")
        known = ", ".join(TARGETS)
        require(bool(self.targets), f"lora_targets is empty: choose from {known}")
        for name in self.targets:
            require(name in TARGETS, f"lora_targets must be of {known}, got {name!r}")

    @property
    def scale(self) -> float:
        """Returns alpha / r."""
        return self.alpha / self.rank
