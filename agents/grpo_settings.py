"""Settings of GRPO's update, for control and tokens."""

from __future__ import annotations

import dataclasses

from agents.core.policy_losses import Aggregation
from agents.objectives import KLEstimator, SurrogateName
from agents.settings import EntropySettings, require, require_dual_clip


@dataclasses.dataclass(frozen=True)
class GRPOSettings(EntropySettings):
    """Settings of `update`, shared by control and tokens."""

    group_size: int = 8
    """episodes from the same start, which are compared with one another"""
    scale_advantages: bool = True
    """advantages divided by the standard deviation of their group; Dr. GRPO does not"""
    num_epochs: int = 4
    """passes over the episodes of one rollout"""
    num_minibatches: int = 4
    """parts the episodes are dealt into, one gradient step each"""
    micro_batches: int = 1
    """parts of a minibatch that pass through the network one after another: less memory, the same step"""
    clip_low: float = 0.2
    """the surrogate's clip range below a ratio of 1"""
    clip_high: float = 0.2
    """the surrogate's clip range above a ratio of 1"""
    surrogate: SurrogateName = "clip"
    """ratio and clip of the loss: of each step (clip: PPO's); of a whole episode, its geometric mean (gspo, and
    gspo-token for advantages that differ along it); or of each step as a constant weight, so that clipped steps still
    learn (cispo)"""
    dual_clip: float | None = None
    """bound on the loss of a negative advantage, in multiples of it, 3 as a rule (surrogate clip); None: no bound"""
    aggregation: Aggregation = "seq-mean-token-mean"
    """how the loss is averaged: over steps, then episodes (GRPO); over all steps (DAPO); or summed over steps and
    divided by the longest episode's, a constant (Dr. GRPO)"""
    kl_coefficient: float = 0.0
    """weight of the KL to the reference policy in the loss; 0: no such term"""
    kl_estimator: KLEstimator = "k3"
    """estimate of the KL in the loss. k3: GRPO's; unbiased in value, with the gradient of KL(ref || pi). k2: on-policy
    its mean gradient is exactly that of KL(pi || ref). k3-plus: value of k3, gradient of k2. weighted-k3: ratio times
    k3, exact in value and gradient also after the first gradient step, with the ratio's variance. k1: refused, its mean
    gradient is 0"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("num_epochs", "num_minibatches", "micro_batches")
        self.require_positive("clip_low", "clip_high")
        require_dual_clip(self.dual_clip, "clip_high", self.clip_high)
        require(
            self.dual_clip is None or self.surrogate == "clip",
            f"dual_clip belongs to surrogate clip, which is {self.surrogate}",
        )
        self.require_not_negative("kl_coefficient")
        require(
            self.group_size >= 2,
            f"group_size must be at least 2, got {self.group_size}: an episode is compared with others of its group",
        )
        require(
            self.kl_estimator != "k1",
            "kl_estimator k1 in the loss has an expected gradient of zero on-policy: take k2, k3, k3-plus or "
            "weighted-k3",
        )

    def require_groups(self, name: str, episodes: int) -> None:
        """Raises ValueError where `episodes` do not divide into groups and parts."""
        require(
            episodes % self.group_size == 0,
            f"{name} = {episodes} does not divide into groups of group_size = {self.group_size}",
        )
        self.require_parts(episodes)

    def require_parts(self, episodes: int) -> None:
        """Raises ValueError where `episodes` do not divide into minibatches and micro-batches."""
        parts = self.num_minibatches * self.micro_batches
        require(
            episodes % parts == 0,
            f"{episodes} episodes do not divide into num_minibatches x micro_batches = {parts} parts",
        )
