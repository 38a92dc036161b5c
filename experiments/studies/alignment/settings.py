"""Sizes of the alignment study."""

from __future__ import annotations

import dataclasses

from envs.tokens import TokenEnv
from envs.tokens.digits import Sort
from envs.tokens.task import RewardKind


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of all experiments; a cell of numbers is computed anew where they have changed."""

    digits: int = 6
    """digits to be sorted"""
    seeds: int = 3
    """policies, each with sets of pairs and reward models of its own; computed side by side"""
    imitation_steps: int = 30
    """gradient steps of the policy that everything begins with"""
    width: int = 64
    """numbers that represent a token, in policies and reward models"""
    mlp_width: int = 192
    """units of each block's SwiGLU"""
    heads: int = 8
    """attention heads"""
    pairs: int = 8192
    """pairs of a reward model, where the experiment is not about their number"""
    few_pairs: int = 1024
    """the same, for a model that is easier to fool"""
    model_steps: int = 512
    """gradient steps of a reward model, at most"""
    model_epochs: int = 12
    """passes of a reward model over its pairs, at most: after more it knows few pairs by heart"""
    step_pairs: int = 64
    """pairs of a gradient step"""
    responses: int = 192
    """responses of an iteration of reinforcement learning"""
    learning_rate: float = 4e-4
    """Adam's step size in reinforcement learning on a reward; larger ones spend more KL on the same gold"""
    marks: tuple[int, ...] = (0, 4, 8, 12, 16, 20, 25, 30, 40, 60)
    """iterations after which a policy is measured; the last one ends the training"""
    step_learning_rate: float = 1e-3
    """the same, where rewards of outcomes and steps are compared"""
    step_marks: tuple[int, ...] = (0, 10, 20, 30, 45, 60, 80)
    """the marks there"""
    prompts: int = 256
    """held-out prompts of a measurement, one sample each"""
    best_of: int = 256
    """samples of each prompt for best-of-n"""
    best_prompts: int = 48
    """held-out prompts for best-of-n"""
    offline_pairs: int = 2048
    """pairs of the learners from pairs, in the comparison of their losses"""
    offline_marks: tuple[int, ...] = (0, 5, 10, 20, 40, 60, 90, 120, 150)
    """gradient steps after which they are measured; the last one ends the training"""
    family_responses: int = 192
    """responses of an iteration, for the table of learners"""
    family_iterations: int = 300
    """iterations of each learner in the table; of one that draws groups again, as many as have that many tokens"""
    family_prompts: int = 256
    """held-out prompts of the table's evaluation, eight samples each"""

    def env(self, reward: RewardKind = "share") -> TokenEnv:
        """Returns the task; gold is the share of positions that are right."""
        # Not by `make_tokens`, which looks at the splits: environments are made while programs are traced.
        return TokenEnv(Sort(self.digits), reward)


# Fields that every cell depends on.
COMMON = (
    *("digits", "seeds", "imitation_steps", "width", "mlp_width", "heads", "step_pairs", "prompts"),
)
# Those of cells with reward models, with best-of-n by them, and with reinforcement on them.
MODELS = ("pairs", "few_pairs", "model_steps", "model_epochs")
BEST = ("best_of", "best_prompts")
LEARNT = ("responses", "learning_rate", "marks")

FULL = Sizes()
QUICK = Sizes(
    digits=3,
    seeds=2,
    imitation_steps=2,
    width=16,
    mlp_width=16,
    heads=2,
    pairs=32,
    few_pairs=16,
    model_steps=4,
    step_pairs=8,
    responses=16,
    marks=(0, 1, 2),
    step_marks=(0, 1, 2),
    prompts=8,
    best_of=8,
    best_prompts=4,
    offline_pairs=16,
    offline_marks=(0, 1, 2),
    family_responses=16,
    family_iterations=2,
    family_prompts=8,
)
