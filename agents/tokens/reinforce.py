"""REINFORCE for token tasks, and the policy gradient step that it shares with RLOO and rejection sampling."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from agents import reinforce
from agents.batch import Evaluation, Targets
from agents.core import across
from agents.settings import require
from agents.tokens.collection import Collection
from agents.tokens.policy import TokenPolicy
from agents.tokens.reward import Reward
from agents.tokens.rollout import TokenRollout, TokenState
from agents.tokens.settings import RewardConfig

ONE_STEP = Collection(single_step=True)


@dataclasses.dataclass(frozen=True)
class TokenReinforceConfig(reinforce.ReinforceSettings, RewardConfig):
    """Settings of `TokenReinforce`."""

    gamma: float = 1.0
    """discount"""
    baseline: Literal["none", "mean"] = "mean"
    """baseline: none, or the mean over the other responses"""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.baseline != "mean" or self.num_responses >= 2,
            'baseline "mean" is over the other responses: num_responses must be at least 2, got 1',
        )


class TokenReinforce(TokenPolicy):
    """REINFORCE: one gradient step, each token weighted with the reward from it on, less a baseline.

    Williams 1992, https://doi.org/10.1007/BF00992696; `agents.reinforce` has the derivation.

    Args:
      reward: learnt from in place of the verifier's score; None: the verifier's score.
    """

    Config: ClassVar[type] = TokenReinforceConfig

    def __init__(self, config: TokenReinforceConfig, env: Any, reward: Reward | None = None):
        super().__init__(config, env, reward=reward, collection=ONE_STEP)

    def init(self, key: PRNGKeyArray) -> TokenState:
        """Returns the first state, after imitation of the expert."""
        return TokenState(**self.start(key))

    def step(self, state: TokenState, data: None = None) -> tuple[TokenState, dict[str, Array]]:
        """Returns the state after one iteration, and its metrics: responses, targets, one update."""
        state, (rollout, metrics) = self.collect(state)
        targets = reinforce.targets(rollout.batch, 0.0, self.config)
        return policy_gradient_step(self, state, rollout, targets, metrics, self.config)


def policy_gradient_step(
    learner: TokenPolicy,
    state: TokenState,
    rollout: TokenRollout,
    targets: Targets,
    metrics: dict[str, Array],
    config: reinforce.ReinforceSettings,
) -> tuple[TokenState, dict[str, Array]]:
    """Returns the state after one gradient step on a rollout, the end of an iteration, and all metrics.

    Args:
      rollout: of which `loss_batch` enters the loss.
      metrics: those of the iteration so far.
      config: whether advantages are whitened.
    """
    rate = learner.learning_rate(state.env_steps)
    mask = rollout.batch.mask

    def difference(new: Evaluation) -> dict[str, Array]:
        most = jnp.max(jnp.where(mask, jnp.abs(rollout.sampled - new.logp), 0.0))
        return {"logp_diff_max": across.largest(most)}

    params, opt_state, update_metrics = reinforce.update(
        state.params,
        state.opt_state,
        rollout.loss_batch,
        targets,
        evaluate=learner.evaluate,
        optimizer=learner.optimizer,
        learning_rate=rate,
        config=config,
        measure=difference,
    )
    state = learner.finish(state, rollout, params, opt_state)
    return state, {**metrics, **update_metrics, "learning_rate": rate}
