"""A token task as an environment: the state is the prompt and the tokens so far, an action the next token."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from envs.base import Env, static
from envs.tokens import task as tasks
from envs.tokens.task import PAD, RewardKind, Split, Task, token_rewards


class Writing(NamedTuple):
    sequence: Any  # int32 [P + R]: prompt, response, padding
    length: Any  # int32 [], tokens of the response


@flax.struct.dataclass
class TokenEnv(Env[Writing]):
    """One episode is one response. It can be stepped like any environment; learners of token tasks do not step it but
    take whole responses at once (`prompts`, `score`), which comes to the same.

    A response without an end that reaches its greatest length is terminated, not truncated: the limit is part of the
    task. `info` tells `correct` and `cut`. Raises ValueError for an unknown kind of reward, or split.
    """

    task: Task = static()
    reward_kind: RewardKind = static("exact")
    split: Split = static("train")
    max_episode_steps: int = static(0)

    def __post_init__(self):
        for name, value, kind in (
            ("reward", self.reward_kind, RewardKind),
            ("split", self.split, Split),
        ):
            if value not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        object.__setattr__(self, "max_episode_steps", self.task.response_length)

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        size = self.prompt_length + self.response_length
        return gymnasium.spaces.Box(0, self.vocabulary_size - 1, (size,), np.int32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return gymnasium.spaces.Discrete(self.vocabulary_size)

    def initial(self, key: PRNGKeyArray) -> Writing:
        prompt = tasks.prompts(self.task, key, 1, self.split)[0]
        room = jnp.full(self.response_length, PAD, jnp.int32)
        return Writing(jnp.concatenate([prompt, room]), jnp.zeros((), jnp.int32))

    def transition(self, state: Writing, action: Array, key: PRNGKeyArray) -> Writing:
        place = self.prompt_length + state.length
        return Writing(state.sequence.at[place].set(action.astype(jnp.int32)), state.length + 1)

    def observation(self, state: Writing) -> Int[Array, " L"]:
        return state.sequence

    def reward(self, state: Writing, action: Array, next_state: Writing) -> Float[Array, ""]:
        rewards = token_rewards(self.reward_kind, self._verdict(next_state), next_state.length)
        known = self.terminal(next_state) | (self.reward_kind == "process")
        return jnp.where(known, rewards[next_state.length - 1], 0.0)

    def terminal(self, state: Writing) -> Bool[Array, ""]:
        return self._ended(state) | (state.length >= self.response_length)

    def info(self, state: Writing, action: Array, next_state: Writing) -> dict[str, Array]:
        correct = self.terminal(next_state) & self._verdict(next_state).correct
        cut = self.terminal(next_state) & ~self._ended(next_state) & (self.stop is not None)
        return {"correct": correct.astype(jnp.float32), "cut": cut.astype(jnp.float32)}

    # What learners that write whole responses want: `agents.tokens.task.TokenTask`.

    @property
    def vocabulary_size(self) -> int:
        return len(self.task.vocabulary)

    @property
    def prompt_length(self) -> int:
        return self.task.prompt_length

    @property
    def response_length(self) -> int:
        return self.task.response_length

    @property
    def pad(self) -> int:
        return PAD

    @property
    def stop(self) -> int | None:
        return self.task.stop

    def prompts(self, key: PRNGKeyArray, n: int) -> Int[Array, "n P"]:
        return tasks.prompts(self.task, key, n, self.split)

    def held_out(self, key: PRNGKeyArray, n: int) -> Int[Array, "n P"]:
        return tasks.prompts(self.task, key, n, "held-out")

    def solutions(self, prompts: Int[Array, "n P"]) -> Int[Array, "n R"]:
        return jax.vmap(self.task.solution)(prompts)

    def score(
        self, prompts: Int[Array, "n P"], responses: Int[Array, "n R"], lengths: Int[Array, " n"]
    ) -> tuple[Float[Array, "n R"], Bool[Array, " n"]]:
        """The reward of each token of responses that have come to their end, and whether they are right."""
        verdict = jax.vmap(self.task.verify)(prompts, responses, lengths)
        rewards = jax.vmap(lambda v, n: token_rewards(self.reward_kind, v, n))(verdict, lengths)
        return rewards, verdict.correct

    @property
    def holds_out(self) -> bool:
        """True where `held_out` asks questions that `prompts` never asks in training."""
        return self.task.splits

    @property
    def has_solutions(self) -> bool:
        return self.task.has_solution

    def decode(self, tokens: Any, length: int | None = None) -> str:
        return tasks.decode(self.task, tokens, length)

    def _verdict(self, state: Writing) -> tasks.Verdict:
        prompt, response = jnp.split(state.sequence, [self.prompt_length])
        return self.task.verify(prompt, response, state.length)

    def _ended(self, state: Writing) -> Bool[Array, ""]:
        last = state.sequence[self.prompt_length + jnp.maximum(state.length - 1, 0)]
        return (state.length > 0) & (last == (-1 if self.stop is None else self.stop))
