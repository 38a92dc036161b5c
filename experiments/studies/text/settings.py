"""Sizes of the study of text tasks."""

from __future__ import annotations

import dataclasses

# Settings of each data set: questions that a small model learns in minutes, and so many of them that it knows none by
# heart. On 1800 words it did: one run of GRPO ended right in 0.39 of its training words, and in 0.11 of those held out.
OPTIONS = {
    "spell_backward": {"max_word_len": 4},
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
    "gcd": {"max_numbers": 2, "max_value": 60},
}
# Those that GRPO learns, the one of them that learners are compared on, and these.
LEARNED = tuple(OPTIONS)
COMPARED = "spell_backward"
LEARNERS = ("grpo", "ppo", "dpo")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of all experiments; a cell of numbers is computed anew where they have changed."""

    seeds: int = 3
    """learners of each data set, all from the same base model"""
    bank: int = 16_384
    """questions of each data set that are drawn; repeated ones count once"""
    prompt_tokens: int = 12
    """most tokens of a question"""
    response_tokens: int = 5
    """most tokens of an answer, its end included"""
    layers: int = 3
    """blocks of the model"""
    width: int = 128
    """numbers that represent a token"""
    mlp_width: int = 320
    """units of each block's SwiGLU"""
    heads: int = 4
    """attention heads"""
    base_responses: int = 256
    """texts of a gradient step of the base model"""
    base_learning_rate: float = 2e-3
    """largest step size of the base model"""
    pretraining_steps: int = 25
    """gradient steps on whole texts, questions and answers"""
    tuning_steps: int = 700
    """gradient steps on the answers alone"""
    wrong: float = 0.25
    """share of wrong answers among those that the base model is trained on"""
    responses: int = 256
    """responses of an iteration of reinforcement learning"""
    iterations: int = 80
    """iterations of each learner"""
    learning_rate: float = 2e-4
    """largest step size there"""
    parts: int = 3
    """measurements after the first, at equal distances"""
    prompts: int = 256
    """held-out prompts of a measurement, eight samples each"""
    largest: int = 16
    """the largest number to be guessed"""
    guessing_imitation: int = 15
    """gradient steps of imitation of bisection, before the game is played"""
    guessing_iterations: int = 150
    """iterations of GRPO on the game"""
    guessing_learning_rate: float = 3e-4
    """largest step size there"""


# Fields that the base model depends on, and with it everything that is learned from it.
COMMON = (
    *("bank", "prompt_tokens", "response_tokens", "layers", "width", "mlp_width", "heads"),
    *("base_responses", "base_learning_rate", "pretraining_steps", "tuning_steps", "wrong"),
)
# Those of learners.
LEARNT = ("seeds", "responses", "iterations", "learning_rate", "parts", "prompts")
GUESSING = (
    *("largest", "guessing_imitation", "guessing_iterations", "guessing_learning_rate"),
    *("seeds", "responses", "parts", "prompts"),
)

FULL = Sizes()
QUICK = Sizes(
    seeds=2,
    bank=64,
    layers=1,
    width=16,
    mlp_width=16,
    heads=2,
    base_responses=8,
    pretraining_steps=2,
    tuning_steps=2,
    responses=16,
    iterations=2,
    parts=2,
    prompts=8,
    largest=4,
    guessing_imitation=2,
    guessing_iterations=2,
)
