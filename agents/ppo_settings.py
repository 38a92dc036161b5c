"""Settings of PPO's update, for control and tokens."""

from __future__ import annotations

import dataclasses
from typing import Literal

from agents.settings import EntropySettings, require, require_clip_range, require_dual_clip


@dataclasses.dataclass(frozen=True)
class PPOSettings(EntropySettings):
    """Settings of `update`, shared by control and tokens."""

    num_epochs: int = 8
    """epochs over the data of a rollout"""
    num_minibatches: int = 8
    """minibatches per epoch, one gradient step each"""
    micro_batches: int = 1
    """parts of a minibatch whose gradients are accumulated in sequence: less memory, the same step"""
    gae_lambda: float = 0.95
    """trace decay of generalised advantage estimation"""
    objective: Literal["clip", "kl"] = "clip"
    """clipped surrogate, or surrogate with an adaptive KL penalty"""
    clip_ratio: float = 0.2
    """the surrogate's clip range (clip objective)"""
    clip_high: float | None = None
    """the surrogate's clip range above a ratio of 1 (DAPO: 0.28); None: clip_ratio on both sides"""
    dual_clip: float | None = None
    """bound on the loss of a negative advantage, as a multiple of the advantage, usually 3 (clip objective); None: no
    bound"""
    kl_coefficient: float = 1.0
    """initial coefficient of the KL penalty (kl objective)"""
    kl_target: float = 0.01
    """target of KL(old || new) per update, in nats, for the adaptive coefficient (kl objective)"""
    value_coefficient: float = 0.5
    """weight of the value loss"""
    clip_value: float | None = None
    """clip range of the value loss, in normalised returns; None: not clipped"""
    stop_kl: float | None = None
    """early stopping: no further epoch if the k3 estimate of KL(old || new) exceeds this in the last minibatch of an
    epoch, before its gradient step; None: never"""
    whiten_advantages: bool = True
    """whiten the advantages of each minibatch to mean 0 and variance 1"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("num_epochs", "num_minibatches", "micro_batches")
        self.require_positive("clip_ratio", "kl_target", "clip_value", "stop_kl")
        require_clip_range("clip_ratio", self.clip_ratio, self.upper_clip)
        require_dual_clip(self.dual_clip, "the upper clip range", self.upper_clip)
        require(
            self.objective == "clip" or (self.clip_high is None and self.dual_clip is None),
            "clip_high and dual_clip belong to objective clip, which is kl",
        )
        self.require_not_negative("kl_coefficient", "value_coefficient")
        self.require_share("gae_lambda")

    @property
    def upper_clip(self) -> float:
        """The surrogate's clip range above a ratio of 1."""
        return self.clip_ratio if self.clip_high is None else self.clip_high

    def require_parts(self, name: str, columns: int) -> None:
        """Raises ValueError where `columns` do not divide into minibatches and micro-batches."""
        parts = self.micro_batches
        cut = f"num_minibatches = {self.num_minibatches}" + (
            f" times micro_batches = {parts}" if parts > 1 else ""
        )
        require(
            columns % (self.num_minibatches * parts) == 0,
            f"{name} = {columns} does not divide into {cut}",
        )
