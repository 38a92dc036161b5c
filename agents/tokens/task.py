"""The part of a token environment that learners of whole responses use."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


@runtime_checkable
class TokenTask(Protocol):
    """An environment whose episodes are responses to prompts. P: length of prompts, R: most tokens of a response."""

    vocabulary_size: int
    prompt_length: int
    response_length: int
    pad: int  # the token that fills prompts on the left and responses on the right
    # The token that ends a response, or several that do; None: all have R tokens.
    stop: int | tuple[int, ...] | None
    has_solutions: bool  # True where `solutions` can be called

    def prompts(self, key: PRNGKeyArray, n: int) -> Int[Array, "n P"]:
        """Returns prompts for training; padding on the left."""

    def solutions(self, prompts: Int[Array, "n P"]) -> Int[Array, "n R"]:
        """Returns an expert's responses, padding on the right."""

    def score(
        self, prompts: Int[Array, "n P"], responses: Int[Array, "n R"], lengths: Int[Array, " n"]
    ) -> tuple[Float[Array, "n R"], Bool[Array, " n"]]:
        """Returns the verifier's reward of each token, and True for each correct response."""
