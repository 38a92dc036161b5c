"""REINFORCE++ for token tasks: advantages whitened over the whole batch, no critic. Hu 2025, https://arxiv.org/abs/2501.03262"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from agents import grpo
from agents.batch import Batch, Targets
from agents.core import returns
from agents.core.policy_losses import Aggregation
from agents.groups import episode_returns
from agents.objectives import KLEstimator, Objective
from agents.settings import require
from agents.tokens.grpo import TokenGRPOConfig, collection_of, surrogate_step
from agents.tokens.policy import TokenPolicy
from agents.tokens.reward import Reward
from agents.tokens.rollout import TokenState


@dataclasses.dataclass(frozen=True)
class ReinforcePlusPlusConfig(TokenGRPOConfig):
    """Settings of `ReinforcePlusPlus`."""

    baseline: Literal["none", "group"] = "none"
    """baseline of the returns before whitening: none, with one response per prompt; or group, the mean over the
    responses to the same prompt (REINFORCE++-baseline)"""
    gamma: float = 1.0
    """discount (baseline none)"""
    scale_advantages: bool = False
    """divide advantages by the standard deviation of their group (always off: REINFORCE++ whitens over the batch)"""
    aggregation: Aggregation = "token-mean"
    """average of the loss: over all tokens of the batch"""
    kl_estimator: KLEstimator = "k2"
    """estimator of the KL in the loss, if kl_coefficient is not 0 (the paper, with baseline group); without it,
    kl_in_reward subtracts the KL from the rewards"""

    def __post_init__(self):
        super().__post_init__()
        self.require_share("gamma")
        require(
            not self.scale_advantages,
            "scale_advantages divides by the deviation of a group; reinforce++ divides by that of the batch",
        )
        require(
            self.baseline == "group" or not self.dynamic_sampling,
            "dynamic_sampling needs groups: baseline group",
        )


class ReinforcePlusPlus(TokenPolicy):
    """REINFORCE++: the clipped surrogate with returns-to-go that are whitened over all tokens of the batch.

    Hu 2025, https://arxiv.org/abs/2501.03262

    Args:
      reward: learnt from in place of the verifier's score; None: the verifier's score.
      objective: of `grpo.update`; None: that of the config.
    """

    Config: ClassVar[type] = ReinforcePlusPlusConfig

    def __init__(
        self,
        config: ReinforcePlusPlusConfig,
        env: Any,
        reward: Reward | None = None,
        objective: Objective | None = None,
    ):
        size = config.group_size if config.baseline == "group" else 1
        super().__init__(
            config, env, reward=reward, group_size=size, collection=collection_of(config)
        )
        self.objective = objective or grpo.objective_of(config, env.response_length)

    def init(self, key: PRNGKeyArray) -> TokenState:
        """Returns the first state, after imitation of the expert."""
        return TokenState(**self.start(key))

    def step(self, state: TokenState, data: None = None) -> tuple[TokenState, dict[str, Array]]:
        """Returns the state after one iteration, and its metrics: responses, targets, one update."""
        state, (rollout, metrics) = self.collect(state)
        estimates = targets(rollout.batch, self.config)
        return surrogate_step(self, state, rollout, estimates, metrics, self.objective)


def targets(batch: Batch, config: ReinforcePlusPlusConfig) -> Targets:
    """Returns advantages whitened over all unmasked tokens of a batch, [T, N].

    Args:
      batch: its rewards are charged for the KL already, where there is such a charge.
    """
    if config.baseline == "group":
        score = episode_returns(batch.reward, batch.mask, 1.0)
        return Targets(
            returns.reinforce_plus_plus_baseline_advantages(score, batch.mask, config.group_size)
        )
    charged = jnp.zeros_like(batch.reward)
    return Targets(
        returns.reinforce_plus_plus_advantages(batch.reward, charged, batch.mask, 0.0, config.gamma)
    )
