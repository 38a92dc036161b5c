"""Learners of token tasks. Each is a choice of targets for an `update` that robots learn by, too.

SFT        imitation of an expert                              reinforce.update, weight 1
Rejection  imitation of oneself where one was right            reinforce.update, weight 1 or 0
REINFORCE  return-to-go, mean of the other responses off       reinforce.update
RLOO       return, mean of the others of its prompt off        reinforce.update
PPO        a critic, GAE, the clipped surrogate                ppo.update
GRPO       return relative to its group, the surrogate         grpo.update
Dr. GRPO   the same without two divisions that favour          grpo.update, other settings
           easy prompts and long wrong answers
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from agents import grpo, ppo, reinforce
from agents.batch import Targets
from agents.core import kl
from agents.core.policy_losses import Aggregation
from agents.groups import group_targets, leave_one_out_targets
from agents.on_policy import gae_targets
from agents.settings import require
from agents.tokens.policy import TokenPolicy
from agents.tokens.settings import ResponseConfig, RewardConfig, TokenConfig
from agents.tokens.task import TokenState, Written


@dataclasses.dataclass(frozen=True)
class SFTConfig(TokenConfig):
    imitation_steps: int = 0
    """gradient steps before training begins: here they are the training"""


class SFT(TokenPolicy):
    """Supervised fine-tuning: imitation of the expert, and nothing else."""

    Config: ClassVar[type] = SFTConfig
    imitates: ClassVar[bool] = True

    def init(self, key: PRNGKeyArray) -> TokenState:
        return TokenState(**self.start(key))

    def step(self, state: TokenState, data: None = None) -> tuple[TokenState, dict[str, Array]]:
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


@dataclasses.dataclass(frozen=True)
class TokenReinforceConfig(reinforce.ReinforceSettings, RewardConfig):
    gamma: float = 1.0
    """discount"""
    baseline: Literal["none", "mean"] = "mean"
    """what is subtracted from the return: nothing (none), or the mean over the other responses (mean)"""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.baseline != "mean" or self.num_responses >= 2,
            'baseline "mean" is over the other responses: num_responses must be at least 2, got 1',
        )


class TokenReinforce(TokenPolicy):
    """REINFORCE: one gradient step, every token weighted with what is earned from it on."""

    Config: ClassVar[type] = TokenReinforceConfig

    def init(self, key: PRNGKeyArray) -> TokenState:
        return TokenState(**self.start(key))

    def step(self, state: TokenState, data: None = None) -> tuple[TokenState, dict[str, Array]]:
        state, (written, metrics) = self.collect(state)
        targets = reinforce.targets(written.batch, 0.0, self.config)
        return policy_gradient_step(self, state, written, targets, metrics, self.config)


@dataclasses.dataclass(frozen=True)
class RLOOConfig(RewardConfig):
    group_size: int = 8
    """responses to the same prompt, which are compared with one another"""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.group_size >= 2,
            f"group_size must be at least 2, got {self.group_size}: a response is compared with others",
        )
        require_whole_groups(self)


class RLOO(TokenPolicy):
    """REINFORCE leave-one-out. Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740"""

    Config: ClassVar[type] = RLOOConfig

    def __init__(self, config: RLOOConfig, env: Any):
        super().__init__(config, env, group_size=config.group_size)

    def init(self, key: PRNGKeyArray) -> TokenState:
        return TokenState(**self.start(key))

    def step(self, state: TokenState, data: None = None) -> tuple[TokenState, dict[str, Array]]:
        state, (written, metrics) = self.collect(state)
        targets, spread = leave_one_out_targets(written.batch, self.config.group_size)
        return policy_gradient_step(self, state, written, targets, {**metrics, **spread})


@dataclasses.dataclass(frozen=True)
class RejectionConfig(ResponseConfig):
    group_size: int = 8
    """responses to the same prompt"""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.cut_responses != "penalise",
            "cut_responses penalise changes nothing here: only what was right is learnt from; take keep or mask",
        )
        self.require_at_least_one("group_size")
        require_whole_groups(self)


class Rejection(TokenPolicy):
    """Rejection sampling, the documents' "selective imitation": what was right is imitated, the rest is forgotten."""

    Config: ClassVar[type] = RejectionConfig

    def __init__(self, config: RejectionConfig, env: Any):
        super().__init__(config, env, group_size=config.group_size)

    def init(self, key: PRNGKeyArray) -> TokenState:
        return TokenState(**self.start(key))

    def step(self, state: TokenState, data: None = None) -> tuple[TokenState, dict[str, Array]]:
        state, (written, metrics) = self.collect(state)
        # The others do not exist: neither in the sum nor in the number that it is divided by.
        kept = written._replace(learnt=written.learnt & written.correct)
        ones = jnp.where(kept.learnt, 1.0, 0.0)
        targets = Targets(ones)
        return policy_gradient_step(self, state, kept, targets, metrics)


@dataclasses.dataclass(frozen=True)
class TokenPPOConfig(ppo.PPOSettings, RewardConfig):
    num_epochs: int = 1
    """passes over the responses of one iteration"""
    num_minibatches: int = 4
    """parts the responses are dealt into, one gradient step each"""
    gamma: float = 1.0
    """discount"""
    gae_lambda: float = 1.0
    """trace decay of generalised advantage estimation; at 1 the critic is a baseline alone, and its errors bias
    nothing: on sorting, the median of three seeds is 0.91, and 0.83 with 0.95"""
    clip_value: float | None = 0.2
    """clip range of the value loss; None: not clipped"""

    def __post_init__(self):
        super().__post_init__()
        self.require_share("gamma")
        self.require_parts("num_responses", self.num_responses)


@flax.struct.dataclass
class TokenPPOState(TokenState):
    kl_coefficient: Array | Any  # [], the kl objective's beta


class TokenPPO(TokenPolicy):
    """PPO; its critic is a second transformer."""

    Config: ClassVar[type] = TokenPPOConfig

    def __init__(self, config: TokenPPOConfig, env: Any):
        super().__init__(config, env, critic=True)

    def init(self, key: PRNGKeyArray) -> TokenPPOState:
        return TokenPPOState(
            kl_coefficient=jnp.asarray(self.config.kl_coefficient, jnp.float32), **self.start(key)
        )

    def step(
        self, state: TokenPPOState, data: None = None
    ) -> tuple[TokenPPOState, dict[str, Array]]:
        state, (written, metrics) = self.collect(state)
        config, batch = self.config, written.batch
        update_key, key = jax.random.split(state.key)
        rate = self.learning_rate(state.env_steps)
        params, opt_state, found = ppo.update(
            state.params,
            state.opt_state,
            update_key,
            written.kept,
            gae_targets(batch, config.gamma, config.gae_lambda),
            evaluate=self.evaluate,
            optimizer=self.optimizer,
            learning_rate=rate,
            kl_coefficient=state.kl_coefficient,
            entropy_coefficient=config.entropy_weight(self.left(state.env_steps)),
            config=config,
        )
        kl_coefficient = kl.adaptive_coefficient_double_halve(
            state.kl_coefficient, found["kl"], config.kl_target
        )
        state = self.finish(
            state, written, params, opt_state, key=key, kl_coefficient=kl_coefficient
        )
        return state, {**metrics, **found, "learning_rate": rate}


@dataclasses.dataclass(frozen=True)
class TokenGRPOConfig(grpo.GRPOSettings, RewardConfig):
    num_epochs: int = 1
    """passes over the responses of one iteration"""
    num_minibatches: int = 4
    """parts the responses are dealt into, one gradient step each"""

    def __post_init__(self):
        super().__post_init__()
        self.require_groups("num_responses", self.num_responses)


class TokenGRPO(TokenPolicy):
    """Group relative policy optimisation: `agents.grpo` has the formulas."""

    Config: ClassVar[type] = TokenGRPOConfig

    def __init__(self, config: TokenGRPOConfig, env: Any):
        super().__init__(config, env, group_size=config.group_size)

    def init(self, key: PRNGKeyArray) -> TokenState:
        return TokenState(**self.start(key))

    def step(self, state: TokenState, data: None = None) -> tuple[TokenState, dict[str, Array]]:
        state, (written, metrics) = self.collect(state)
        config, batch = self.config, written.batch
        targets, spread = group_targets(batch, config.group_size, scale=config.scale_advantages)
        update_key, key = jax.random.split(state.key)
        rate = self.learning_rate(state.env_steps)
        params, opt_state, found = grpo.update(
            state.params,
            state.opt_state,
            update_key,
            written.kept,
            targets,
            evaluate=self.evaluate,
            optimizer=self.optimizer,
            learning_rate=rate,
            entropy_coefficient=config.entropy_weight(self.left(state.env_steps)),
            config=config,
            longest=self.env.response_length,
        )
        state = self.finish(state, written, params, opt_state, key=key)
        return state, {**metrics, **spread, **found, "learning_rate": rate}


@dataclasses.dataclass(frozen=True)
class DrGRPOConfig(TokenGRPOConfig):
    scale_advantages: bool = False
    """advantages divided by the standard deviation of their group; Dr. GRPO does not"""
    aggregation: Aggregation = "token-sum-constant"
    """how the loss is averaged: summed over tokens and divided by the longest response's, a constant"""


class DrGRPO(TokenGRPO):
    """GRPO done right. Liu et al. 2025, https://arxiv.org/abs/2503.20783"""

    Config: ClassVar[type] = DrGRPOConfig


def policy_gradient_step(
    learner: TokenPolicy,
    state: TokenState,
    written: Written,
    targets: Targets,
    metrics: dict[str, Array],
    config: reinforce.ReinforceSettings | None = None,
) -> tuple[TokenState, dict[str, Array]]:
    """The end of an iteration: one gradient step on all that was written."""
    rate = learner.learning_rate(state.env_steps)
    params, opt_state, found = reinforce.update(
        state.params,
        state.opt_state,
        written.kept,
        targets,
        evaluate=learner.evaluate,
        optimizer=learner.optimizer,
        learning_rate=rate,
        config=config or reinforce.ReinforceSettings(baseline="none"),
    )
    state = learner.finish(state, written, params, opt_state)
    return state, {**metrics, **found, "learning_rate": rate}


def require_whole_groups(config: Any) -> None:
    require(
        config.num_responses % config.group_size == 0,
        f"num_responses = {config.num_responses} does not divide into groups of group_size = {config.group_size}",
    )
