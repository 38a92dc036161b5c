"""Group relative policy optimisation for token tasks. `agents.grpo` has the formulas."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
from jaxtyping import Array, PRNGKeyArray

from agents import grpo
from agents.groups import group_targets
from agents.objectives import Objective
from agents.tokens.policy import TokenPolicy
from agents.tokens.reward import Reward
from agents.tokens.rollout import TokenState
from agents.tokens.settings import RewardConfig


@dataclasses.dataclass(frozen=True)
class TokenGRPOConfig(grpo.GRPOSettings, RewardConfig):
    """Settings of `TokenGRPO`."""

    num_epochs: int = 1
    """passes over the responses of one iteration"""
    num_minibatches: int = 4
    """parts the responses are dealt into, one gradient step each"""

    def __post_init__(self):
        super().__post_init__()
        self.require_groups("num_responses", self.num_responses)


class TokenGRPO(TokenPolicy):
    """Group relative policy optimisation: `agents.grpo` has the formulas.

    Args:
      reward: learnt from in place of the verifier's score; None: the verifier's score.
      objective: of `grpo.update`; None: that of the config.
    """

    Config: ClassVar[type] = TokenGRPOConfig

    def __init__(
        self,
        config: TokenGRPOConfig,
        env: Any,
        reward: Reward | None = None,
        objective: Objective | None = None,
    ):
        super().__init__(config, env, reward=reward, group_size=config.group_size)
        self.objective = objective or grpo.objective_of(config, env.response_length)

    def init(self, key: PRNGKeyArray) -> TokenState:
        """Returns the first state, after imitation of the expert."""
        return TokenState(**self.start(key))

    def step(self, state: TokenState, data: None = None) -> tuple[TokenState, dict[str, Array]]:
        """Returns the state after one iteration, and its metrics: responses, targets, one update."""
        state, (rollout, metrics) = self.collect(state)
        config, batch = self.config, rollout.batch
        targets, spread = group_targets(batch, config.group_size, scale=config.scale_advantages)
        update_key, key = jax.random.split(state.key)
        rate = self.learning_rate(state.env_steps)
        params, opt_state, update_metrics = grpo.update(
            state.params,
            state.opt_state,
            update_key,
            rollout.loss_batch,
            targets,
            evaluate=self.evaluate,
            optimizer=self.optimizer,
            learning_rate=rate,
            entropy_coefficient=config.entropy_weight(self.remaining_fraction(state.env_steps)),
            objective=self.objective,
            config=config,
        )
        state = self.finish(state, rollout, params, opt_state, key=key)
        return state, {**metrics, **spread, **update_metrics, "learning_rate": rate}
