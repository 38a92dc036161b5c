"""The data of token learners: the task they ask for, their state, and a batch of responses."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import flax.struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from agents.batch import Batch

Params = Any


class TokenTask(Protocol):
    """What a learner wants of an environment of tokens. P: length of prompts, R: most tokens of a response."""

    vocabulary_size: int
    prompt_length: int
    response_length: int
    pad: int
    stop: int | None  # the token that ends a response; None: all have R tokens

    def prompts(self, key: PRNGKeyArray, n: int) -> Int[Array, "n P"]:
        """For training; padding on the left."""

    has_solutions: bool  # whether there is an expert

    def solutions(self, prompts: Int[Array, "n P"]) -> Int[Array, "n R"]:
        """An expert's responses, padding on the right."""

    def score(
        self, prompts: Int[Array, "n P"], responses: Int[Array, "n R"], lengths: Int[Array, " n"]
    ) -> tuple[Float[Array, "n R"], Array]:
        """The reward of each token, and whether the response is correct, bool [n]."""


@flax.struct.dataclass
class TokenState:
    params: Params
    opt_state: Any
    reference: Params  # parameters of the policy after imitation
    kl_in_reward: Array | Any  # float32 [], the present weight
    key: PRNGKeyArray | Any
    env_steps: Array | Any  # int32 [], every response counted in full length
    tokens: Array | Any  # int32 [], those really written


class Written(NamedTuple):
    """A batch, and what only the makers of targets want to know of it."""

    batch: Batch
    correct: Array  # [N] bool
    kl: Array  # [N] KL to the reference over the response, k1, in nats
    learnt: Array  # [T, N] bool: of the batch's mask, the steps that go into the loss

    @property
    def kept(self) -> Batch:
        """What an update gets. Targets are made of `batch`: responses that are masked still count in baselines."""
        return self.batch._replace(mask=self.learnt)
