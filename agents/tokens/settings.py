"""Settings shared by learners of token tasks."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

from agents.settings import require
from agents.tokens.generation import Sampling
from agents.tokens.lora_config import TARGETS, Lora, LoraTarget
from agents.tokens.task import TokenTask
from agents.tokens.transformer import TransformerConfig
from agents.tokens.turns import turns_of

CutResponses = Literal["keep", "mask", "penalise"]


class RewardShaping(NamedTuple):
    """Changes of rewards before they are learnt from; fields as in `ResponseConfig` and `RewardConfig`."""

    cut_responses: CutResponses = "keep"
    cut_score: float = 0.0
    kl_in_reward: float = 0.0
    kl_in_reward_target: float | None = None
    kl_horizon: int = 1
    overlong_buffer: int | None = None


@dataclasses.dataclass(frozen=True)
class TokenConfig(Sampling):
    """Fields of every learner of token tasks. Raises ValueError, in one line, for impossible values."""

    total_steps: int = 716_800
    """tokens of the whole run, every response counted at full length; the learning rate's schedule ends there"""
    num_responses: int = 512
    """responses per iteration"""
    learning_rate: float = 1.5e-3
    """initial learning rate of Adam"""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """linear: falls to zero at total_steps"""
    warmup: float = 0.05
    """share of total_steps over which the learning rate rises from zero; Adam's first steps have full size, and would
    undo the imitation"""
    max_grad_norm: float | None = 1.0
    """largest norm of the gradient, which is clipped to it; None: no clipping"""
    imitation_steps: int = 30
    """gradient steps of imitation before training; the result is the reference policy"""
    imitation_responses: int = 128
    """responses per gradient step of imitation"""
    imitation_learning_rate: float = 1.5e-3
    """learning rate of Adam during imitation"""
    layers: int = 2
    """blocks of the transformer"""
    width: int = 64
    """embedding dimension"""
    heads: int = 8
    """attention heads"""
    kv_heads: int = 8
    """key and value heads, each shared by a group of attention heads (grouped-query attention)"""
    mlp_width: int = 192
    """units of each block's SwiGLU"""
    rope_base: float = 100.0
    """base of the wavelengths of rotary position embeddings; about ten times the sequence length"""
    tied: bool = False
    """tie the output layer to the transposed embedding"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """dtype of activations; parameters are float32"""
    lora: int = 0
    """rank of low-rank adapters, which are trained while all other parameters stay; 0: all parameters are trained"""
    lora_alpha: float = 32.0
    """adapters are multiplied by lora_alpha / lora (LoRA)"""
    lora_targets: tuple[LoraTarget, ...] = TARGETS
    """matrices that have an adapter (LoRA)"""
    remat: bool = False
    """compute each layer again in the backward pass: less memory, about a third more time"""
    eval_prompts: int | None = None
    """held-out prompts of each evaluation, eight samples each; the first and the last have four times as many; None:
    128"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("total_steps", "num_responses", "imitation_responses")
        self.require_not_negative("imitation_steps")
        self.require_share("warmup")
        self.require_positive("learning_rate", "max_grad_norm", "imitation_learning_rate")
        self.require_not_negative("lora")
        self.require_positive("eval_prompts")
        self.transformer(1)

    @property
    def adapters(self) -> Lora | None:
        """Returns the low-rank adapters that these settings ask for."""
        return Lora(self.lora, self.lora_alpha, self.lora_targets) if self.lora else None

    @property
    def shaping(self) -> RewardShaping:
        """Returns the changes to rewards that these settings ask for."""
        return RewardShaping()

    def transformer(self, vocabulary: int) -> TransformerConfig:
        """Returns the configuration of the transformer over `vocabulary` tokens."""
        return TransformerConfig(
            vocabulary=vocabulary,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            kv_heads=self.kv_heads,
            mlp_width=self.mlp_width,
            rope_base=self.rope_base,
            tied=self.tied,
            dtype=self.dtype,
            lora=self.adapters,
            remat=self.remat,
        )


@dataclasses.dataclass(frozen=True)
class ResponseConfig(TokenConfig):
    """Further fields of learners from sampled responses."""

    cut_responses: CutResponses = "keep"
    """responses truncated at the maximum length: treated like any other (keep); excluded from the loss, but included in
    the baseline of the others (mask: DAPO's overlong filtering); or given cut_score as their reward (penalise)"""
    measure_kl: bool = False
    """measure the KL to the reference policy in each iteration, exactly and by the k3 estimate, at the cost of forward
    passes of both networks; evaluations always measure it"""

    @property
    def shaping(self) -> RewardShaping:
        """Returns the changes to rewards that these settings ask for."""
        return RewardShaping(self.cut_responses)


@dataclasses.dataclass(frozen=True)
class RewardConfig(ResponseConfig):
    """Further fields of learners that use the value of the reward, minus a KL or a penalty."""

    cut_score: float = -1.0
    """total reward of a truncated response (cut_responses penalise)"""
    kl_in_reward: float = 0.0
    """initial weight of the KL to the reference policy (k1 estimate) that is subtracted from the rewards"""
    kl_in_reward_target: float | None = None
    """target KL per response, in nats, for an adaptive weight, which starts at kl_in_reward (above 0); None: constant
    weight"""
    kl_horizon: int = 10_000
    """responses over which the weight changes by at most about 20%"""
    overlong_buffer: int | None = None
    """number of tokens before the maximum length over which a length penalty grows linearly from 0 to -1 (DAPO's soft
    overlong punishment); None: no penalty"""

    def __post_init__(self):
        super().__post_init__()
        require(self.cut_score <= 0, f"cut_score must not be positive, got {self.cut_score}")
        require(
            self.cut_score == -1.0 or self.cut_responses == "penalise",
            f"cut_score = {self.cut_score} needs cut_responses penalise, which is {self.cut_responses}",
        )
        self.require_at_least_one("kl_horizon")
        self.require_not_negative("kl_in_reward")
        self.require_positive("kl_in_reward_target", "overlong_buffer")
        require(
            self.overlong_buffer is None or self.cut_responses != "penalise",
            "overlong_buffer and cut_responses penalise both charge for length: take one",
        )
        if self.kl_in_reward_target is None:
            return
        require(
            self.kl_in_reward > 0,
            "kl_in_reward_target needs kl_in_reward above 0: it is adapted by factors, and 0 stays 0",
        )
        require(
            self.kl_horizon > 0.2 * self.num_responses,
            f"kl_horizon must be more than a fifth of num_responses = {self.num_responses}, or the weight could "
            f"turn negative; got {self.kl_horizon}",
        )

    @property
    def shaping(self) -> RewardShaping:
        """Returns the changes to rewards that these settings ask for."""
        return RewardShaping(*(getattr(self, name) for name in RewardShaping._fields))


@dataclasses.dataclass(frozen=True)
class SurrogateConfig(RewardConfig):
    """A further field of learners with importance ratios."""

    importance_bound: float | None = None
    """bound on the importance weight of a token's loss, the ratio of the learner's probability to the sampler's
    (truncated importance sampling; usually 2 or 3); None: no weights"""
    old_pass: bool = False
    """compute the old policy's log-probs in an additional forward pass and compare them with the sampler's
    (logp_diff_max); otherwise the sampler's are used, which agree to 1e-6 in float32. In bfloat16 and with
    importance_bound the pass is always made"""

    @property
    def needs_old_pass(self) -> bool:
        """True where the sampler's log-probs do not serve as the old policy's."""
        return self.old_pass or self.importance_bound is not None or self.dtype != "float32"

    def __post_init__(self):
        super().__post_init__()
        bound = self.importance_bound
        require(
            bound is None or bound >= 1,
            f"importance_bound must be at least 1, the weight of a token on whose probability both agree; got {bound}",
        )


def require_whole_groups(config: Any) -> None:
    """Raises ValueError where `num_responses` does not divide into groups of `group_size`."""
    require(
        config.num_responses % config.group_size == 0,
        f"num_responses = {config.num_responses} does not divide into groups of group_size = {config.group_size}",
    )


def require_task_fits(config: TokenConfig, env: TokenTask, imitator: str | None) -> None:
    """Raises ValueError, in one line, for settings that the task cannot have.

    Args:
      imitator: the name of a learner whose training itself needs an expert; None: it does not.
    """
    require(
        config.top_k is None or config.top_k <= env.vocabulary_size,
        f"top_k = {config.top_k} is more than the vocabulary has: {env.vocabulary_size}",
    )
    require(
        env.has_solutions or imitator is None,
        f"{imitator} imitates an expert, and the task has none: write its solution",
    )
    require(
        env.has_solutions or not config.imitation_steps,
        f"imitation_steps = {config.imitation_steps} needs an expert, and the task has none: write its solution, "
        "or set imitation_steps to 0",
    )
    require(
        turns_of(env) is None or getattr(config, "pairs", "samples") == "samples",
        "the environment replies in responses of this task: pairs must be samples, for others hold replies of no game",
    )
    cut = config.shaping.cut_responses
    require(
        env.stop is not None or cut == "keep",
        f"cut_responses {cut} has nothing to act on: no token ends a response of this task, all have full length",
    )
    buffer = config.shaping.overlong_buffer
    require(
        buffer is None or env.stop is not None,
        "overlong_buffer has nothing to act on: no token ends a response of this task, all have full length",
    )
    require(
        buffer is None or buffer <= env.response_length,
        f"overlong_buffer = {buffer} is more than the greatest length: {env.response_length}",
    )
