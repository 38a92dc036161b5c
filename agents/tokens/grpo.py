"""Group relative policy optimisation for token tasks. `agents.grpo` has the formulas."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
from jaxtyping import Array, PRNGKeyArray

from agents import grpo
from agents.batch import Targets
from agents.groups import group_targets
from agents.grpo_settings import GRPOSettings
from agents.objectives import Objective
from agents.settings import require, require_clip_range
from agents.tokens.collection import Collection
from agents.tokens.policy import TokenPolicy
from agents.tokens.reward import Reward
from agents.tokens.rollout import TokenRollout, TokenState
from agents.tokens.settings import SurrogateConfig


@dataclasses.dataclass(frozen=True)
class TokenGRPOConfig(GRPOSettings, SurrogateConfig):
    """Settings of `TokenGRPO`."""

    num_epochs: int = 1
    """epochs over the responses of an iteration"""
    num_minibatches: int = 4
    """minibatches of responses per epoch, one gradient step each"""
    dynamic_sampling: bool = False
    """replace groups whose outcomes are all equal by newly sampled groups"""
    max_rounds: int = 4
    """largest number of sampling rounds of num_responses responses; the update uses the groups that were obtained
    (dynamic_sampling)"""

    def __post_init__(self):
        super().__post_init__()
        self.require_groups("num_responses", self.num_responses)
        self.require_at_least_one("max_rounds")
        require(
            not self.dynamic_sampling or self.kl_in_reward_target is None,
            "dynamic_sampling leaves batches short, and kl_in_reward_target adapts to whole ones: take one",
        )
        require_clip_range("clip_low", self.clip_low, self.clip_high)


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
        super().__init__(
            config,
            env,
            reward=reward,
            group_size=config.group_size,
            collection=collection_of(config),
        )
        self.objective = objective or grpo.objective_of(config, env.response_length)

    def init(self, key: PRNGKeyArray) -> TokenState:
        """Returns the first state, after imitation of the expert."""
        return TokenState(**self.start(key))

    def step(self, state: TokenState, data: None = None) -> tuple[TokenState, dict[str, Array]]:
        """Returns the state after one iteration, and its metrics: responses, targets, one update."""
        state, (rollout, metrics) = self.collect(state)
        config = self.config
        targets, spread = group_targets(
            rollout.batch,
            config.group_size,
            scale=config.scale_advantages,
            credit=config.credit,
        )
        # With dynamic sampling `metrics` has the share without spread of all groups that were drawn.
        return surrogate_step(self, state, rollout, targets, {**spread, **metrics}, self.objective)


def collection_of(config: TokenGRPOConfig) -> Collection:
    """Returns what `surrogate_step` needs of an iteration's responses."""
    return Collection(
        max_rounds=config.max_rounds if config.dynamic_sampling else None,
        single_step=config.num_epochs * config.num_minibatches == 1,
        old_pass=config.needs_old_pass,
        reference=config.kl_coefficient > 0,
        importance_bound=config.importance_bound,
    )


def shared_prompts(learner: TokenPolicy) -> int:
    """Returns the number of contiguous responses to the same prompt in each part of a batch that a gradient is computed
    of. A single minibatch keeps groups together; several are shuffled, response by response."""
    config = learner.config
    size = config.num_responses // config.micro_batches
    whole = config.num_minibatches == 1 and size % learner.group_size == 0
    return learner.group_size if whole else 1


def surrogate_step(
    learner: TokenPolicy,
    state: TokenState,
    rollout: TokenRollout,
    targets: Targets,
    metrics: dict[str, Array],
    objective: Objective,
) -> tuple[TokenState, dict[str, Array]]:
    """Returns the state after one `grpo.update` on a rollout, the end of an iteration, and all metrics.

    Args:
      learner: its config has the settings of `grpo.update`.
      rollout: of which `loss_batch` enters the loss.
      metrics: those of the iteration so far.
    """
    config = learner.config
    update_key, key = jax.random.split(state.key)
    rate = learner.learning_rate(state.env_steps)
    params, opt_state, update_metrics = grpo.update(
        state.params,
        state.opt_state,
        update_key,
        rollout.loss_batch,
        targets,
        evaluate=partial(learner.evaluate, repeats=shared_prompts(learner)),
        optimizer=learner.optimizer,
        learning_rate=rate,
        entropy_coefficient=config.entropy_weight(learner.remaining_fraction(state.env_steps)),
        objective=objective,
        config=config,
        skip_empty=learner.collection.max_rounds is not None,
    )
    state = learner.finish(state, rollout, params, opt_state, key=key)
    return state, {**metrics, **update_metrics, "learning_rate": rate}
