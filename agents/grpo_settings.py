"""Settings of GRPO's update, for control and tokens."""

from __future__ import annotations

import dataclasses

from agents.core.policy_losses import Aggregation
from agents.groups import Credit
from agents.objectives import KLEstimator, SurrogateName
from agents.settings import EntropySettings, require, require_dual_clip


@dataclasses.dataclass(frozen=True)
class GRPOSettings(EntropySettings):
    """Settings of `update`, shared by control and tokens."""

    group_size: int = 8
    """episodes per group; they share the start state"""
    scale_advantages: bool = True
    """divide advantages by the standard deviation of their group; Dr. GRPO does not"""
    credit: Credit = "episode"
    """weight of a step: the return of its whole episode relative to the group (GRPO's outcome supervision); the return
    from that step on relative to the group at the same step (reward-to-go); or the sum of the later rewards, each
    relative to all rewards of the group (process: GRPO's process supervision, for rewards of every step)"""
    num_epochs: int = 4
    """epochs over the episodes of a rollout"""
    num_minibatches: int = 4
    """minibatches of episodes per epoch, one gradient step each"""
    micro_batches: int = 1
    """parts of a minibatch whose gradients are accumulated in sequence: less memory, the same step"""
    clip_low: float = 0.2
    """the surrogate's clip range below a ratio of 1"""
    clip_high: float = 0.2
    """the surrogate's clip range above a ratio of 1"""
    surrogate: SurrogateName = "clip"
    """importance ratio of the loss: per step, clipped (clip: PPO); geometric mean over the episode, clipped (gspo, and
    gspo-token for advantages that differ within an episode); or per step as a clipped weight without gradient, so that
    clipped steps still have a gradient (cispo)"""
    dual_clip: float | None = None
    """bound on the loss of a negative advantage, as a multiple of the advantage, usually 3 (surrogate clip); None: no
    bound"""
    aggregation: Aggregation = "seq-mean-token-mean"
    """average of the loss: over steps, then episodes (GRPO); over all steps (DAPO); or a sum over steps divided by the
    maximum episode length (Dr. GRPO)"""
    kl_coefficient: float = 0.0
    """weight of the KL to the reference policy in the loss; 0: no KL"""
    kl_estimator: KLEstimator = "k3"
    """estimator of the KL in the loss. k3 (GRPO): unbiased value, gradient of KL(ref || pi). k2: on-policy, unbiased
    gradient of KL(pi || ref). k3-plus: value of k3, gradient of k2. weighted-k3: ratio times k3, unbiased in value and
    gradient also off-policy, with the variance of the ratio. k1: refused, its expected gradient is 0"""

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
