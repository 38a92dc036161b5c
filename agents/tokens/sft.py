"""Supervised fine-tuning of token policies: imitation of an expert."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
from jaxtyping import Array, PRNGKeyArray

from agents.tokens.policy import TokenPolicy
from agents.tokens.rollout import TokenState
from agents.tokens.settings import TokenConfig


@dataclasses.dataclass(frozen=True)
class SFTConfig(TokenConfig):
    """Settings of `SFT`."""

    imitation_steps: int = 0
    """gradient steps of imitation before training; SFT itself is imitation"""


class SFT(TokenPolicy):
    """Supervised fine-tuning: `imitation_step` on the expert's responses, for the whole run. Takes no reward."""

    Config: ClassVar[type] = SFTConfig
    imitates: ClassVar[bool] = True
    takes_reward: ClassVar[bool] = False
    collect_only: ClassVar[None] = None  # type: ignore[assignment]  # no rollout could be timed

    def __init__(self, config: SFTConfig, env: Any):
        super().__init__(config, env)

    def init(self, key: PRNGKeyArray) -> TokenState:
        """Returns the first state, after imitation of the expert."""
        return TokenState(**self.start(key))

    def step(self, state: TokenState, data: None = None) -> tuple[TokenState, dict[str, Array]]:
        """Returns the state after one gradient step on fresh responses of the expert, and its metrics."""
        batch_key, key = jax.random.split(state.key)
        batch = self.expert_batch(batch_key, self.config.num_responses)
        rate = self.learning_rate(state.env_steps)
        params, opt_state, metrics = self.imitation_step(state.params, state.opt_state, batch, rate)
        state = dataclasses.replace(
            state,
            params=params,
            opt_state=opt_state,
            key=key,
            env_steps=state.env_steps + self.iteration_steps,
        )
        return state, {**metrics, "learning_rate": rate}
