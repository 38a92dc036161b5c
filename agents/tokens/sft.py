"""Supervised fine-tuning of token policies: imitation of an expert."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from agents import reinforce
from agents.algorithm import Evaluate
from agents.batch import Evaluation, Targets
from agents.tokens.generation import chosen_log_probs
from agents.tokens.policy import PLAIN_GRADIENT, TokenPolicy
from agents.tokens.rollout import Params, TokenState, sequences
from agents.tokens.settings import TokenConfig


@dataclasses.dataclass(frozen=True)
class SFTConfig(TokenConfig):
    """Settings of `SFT`."""

    imitation_steps: int = 0
    """gradient steps of imitation before training; SFT itself is imitation"""
    learn_prompts: bool = False
    """learn to predict the prompts' tokens, too, as in pre-training; without it the responses' alone"""


class SFT(TokenPolicy):
    """Supervised fine-tuning: imitation of the expert's responses, for the whole run. Takes no reward."""

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
        evaluate: Evaluate = self.evaluate
        if self.config.learn_prompts:
            real = batch.obs["position"] >= 0
            batch = batch._replace(mask=real & jnp.concatenate([real[1:], batch.mask[-1:]]))
            evaluate = self.evaluate_all
        rate = self.learning_rate(state.env_steps)
        params, opt_state, metrics = reinforce.update(
            state.params,
            state.opt_state,
            batch,
            Targets(jnp.where(batch.mask, 1.0, 0.0)),
            evaluate=evaluate,
            optimizer=self.optimizer,
            learning_rate=rate,
            config=PLAIN_GRADIENT,
        )
        state = dataclasses.replace(
            state,
            params=params,
            opt_state=opt_state,
            key=key,
            env_steps=state.env_steps + self.iteration_steps,
        )
        return state, {**metrics, "learning_rate": rate}

    def evaluate_all(self, params: Params, obs: Any, action: Array) -> Evaluation:
        """Returns log-probs and entropies of every token, the prompts' too; obs and action [T, N]."""
        policy = self.network.module(params).policy
        hidden = policy.hidden(*sequences(obs))
        logp, entropy = chosen_log_probs(policy, hidden, action.T, self.config.sampling)
        return Evaluation(logp.T, entropy.T, jnp.zeros(action.shape))
