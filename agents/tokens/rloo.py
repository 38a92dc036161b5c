"""REINFORCE leave-one-out for token tasks. Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array, PRNGKeyArray

from agents.groups import leave_one_out_targets
from agents.settings import require
from agents.tokens.policy import PLAIN_GRADIENT, TokenPolicy
from agents.tokens.reinforce import ONE_STEP, policy_gradient_step
from agents.tokens.reward import Reward
from agents.tokens.rollout import TokenState
from agents.tokens.settings import RewardConfig, require_whole_groups


@dataclasses.dataclass(frozen=True)
class RLOOConfig(RewardConfig):
    """Settings of `RLOO`."""

    group_size: int = 8
    """responses per prompt; they form a group"""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.group_size >= 2,
            f"group_size must be at least 2, got {self.group_size}: a response is compared with others",
        )
        require_whole_groups(self)


class RLOO(TokenPolicy):
    """REINFORCE leave-one-out: the baseline of a response is the mean of the others to its prompt.

    Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740

    Args:
      reward: learnt from in place of the verifier's score; None: the verifier's score.
    """

    Config: ClassVar[type] = RLOOConfig

    def __init__(self, config: RLOOConfig, env: Any, reward: Reward | None = None):
        super().__init__(
            config, env, reward=reward, group_size=config.group_size, collection=ONE_STEP
        )

    def init(self, key: PRNGKeyArray) -> TokenState:
        """Returns the first state, after imitation of the expert."""
        return TokenState(**self.start(key))

    def step(self, state: TokenState, data: None = None) -> tuple[TokenState, dict[str, Array]]:
        """Returns the state after one iteration, and its metrics: responses, targets, one update."""
        state, (rollout, metrics) = self.collect(state)
        targets, spread = leave_one_out_targets(rollout.batch, self.config.group_size)
        return policy_gradient_step(
            self, state, rollout, targets, {**metrics, **spread}, PLAIN_GRADIENT
        )
