"""Rejection sampling for token tasks: imitation of one's own correct responses."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from agents.batch import Targets
from agents.settings import require
from agents.tokens.policy import PLAIN_GRADIENT, TokenPolicy
from agents.tokens.reinforce import ONE_STEP, policy_gradient_step
from agents.tokens.rollout import TokenState
from agents.tokens.settings import ResponseConfig, require_whole_groups


@dataclasses.dataclass(frozen=True)
class RejectionConfig(ResponseConfig):
    """Settings of `Rejection`."""

    group_size: int = 8
    """responses per prompt"""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.cut_responses != "penalise",
            "cut_responses penalise changes nothing here: only what was right is learnt from; take keep or mask",
        )
        self.require_at_least_one("group_size")
        require_whole_groups(self)


class Rejection(TokenPolicy):
    """Rejection sampling: one imitation step on those of the policy's responses that the verifier calls correct.

    Takes no other reward: nothing but the verdict is learnt from.
    """

    Config: ClassVar[type] = RejectionConfig
    takes_reward: ClassVar[bool] = False

    def __init__(self, config: RejectionConfig, env: Any):
        super().__init__(config, env, group_size=config.group_size, collection=ONE_STEP)

    def init(self, key: PRNGKeyArray) -> TokenState:
        """Returns the first state, after imitation of the expert."""
        return TokenState(**self.start(key))

    def step(self, state: TokenState, data: None = None) -> tuple[TokenState, dict[str, Array]]:
        """Returns the state after one iteration, and its metrics: responses, targets, one update."""
        state, (rollout, metrics) = self.collect(state)
        # Wrong responses are in neither the sum nor the number that it is divided by.
        rollout = rollout._replace(loss_mask=rollout.loss_mask & rollout.correct)
        targets = Targets(jnp.where(rollout.loss_mask, 1.0, 0.0))
        return policy_gradient_step(self, state, rollout, targets, metrics, PLAIN_GRADIENT)
