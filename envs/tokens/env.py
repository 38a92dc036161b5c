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
from envs.tokens.task import RewardKind, Split, Task, token_rewards
from envs.tokens.turns import TurnTask, replay


class TokenState(NamedTuple):
    """A prompt and the response so far."""

    sequence: Any  # int32 [P + R]: prompt, response, padding
    length: Any  # int32 [], tokens of the response


@flax.struct.dataclass
class TokenEnv(Env[TokenState]):
    """A token task as an environment: an episode is one response.

    It can be stepped like any environment. Learners of token tasks do not step it, but process whole responses at once
    (`prompts`, `score`), with the same result. A response that reaches the length limit without an end token is
    terminated, not truncated: the limit is part of the task. `info` has `correct` and `cut`. Raises ValueError for an
    unknown kind of reward or split, and for reward share of a task with several correct responses.
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
        if self.reward_kind == "share":
            self._require_share()
        object.__setattr__(self, "max_episode_steps", self.task.response_length)

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The sequence of tokens, with padding."""
        size = self.prompt_length + self.response_length
        return gymnasium.spaces.Box(0, self.vocabulary_size - 1, (size,), np.int32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """The next token."""
        return gymnasium.spaces.Discrete(self.vocabulary_size)

    def initial(self, key: PRNGKeyArray) -> TokenState:
        """A random prompt of the split, and no response."""
        prompt = tasks.prompts(self.task, key, 1, self.split)[0]
        room = jnp.full(self.response_length, self.pad, jnp.int32)
        return TokenState(jnp.concatenate([prompt, room]), jnp.zeros((), jnp.int32))

    def transition(self, state: TokenState, action: Array, key: PRNGKeyArray) -> TokenState:
        """Appends a token to the response, and what the environment replies."""
        place = self.prompt_length + state.length
        after = TokenState(state.sequence.at[place].set(action.astype(jnp.int32)), state.length + 1)
        turns = self.turns
        return after if turns is None else self._with_reply(turns, after)

    def observation(self, state: TokenState) -> Int[Array, " L"]:
        """The sequence: prompt, response so far, padding."""
        return state.sequence

    def reward(self, state: TokenState, action: Array, next_state: TokenState) -> Float[Array, ""]:
        """The token's reward, see `token_rewards`; of kinds "exact" and "rule" the last token has it all."""
        rewards = token_rewards(self.reward_kind, self._verdict(next_state), next_state.length)
        known = self.terminal(next_state) | (self.reward_kind in ("process", "share"))
        place = jnp.arange(self.response_length)
        # More than one token where the environment replied.
        fresh = (place >= state.length) & (place < next_state.length)
        return jnp.where(known, jnp.sum(jnp.where(fresh, rewards, 0.0)), 0.0)

    def terminal(self, state: TokenState) -> Bool[Array, ""]:
        """True if the response has its end, or its greatest length."""
        return self._ended(state) | (state.length >= self.response_length)

    def info(self, state: TokenState, action: Array, next_state: TokenState) -> dict[str, Array]:
        """`correct` and `cut` (no end within the greatest length), 1 or 0, at the end of an episode."""
        correct = self.terminal(next_state) & self._verdict(next_state).correct
        cut = self.terminal(next_state) & ~self._ended(next_state) & (self.stop is not None)
        return {"correct": correct.astype(jnp.float32), "cut": cut.astype(jnp.float32)}

    # For learners that write whole responses: `agents.tokens.task.TokenTask`.

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return len(self.task.vocabulary)

    @property
    def prompt_length(self) -> int:
        """Length of a prompt, in tokens."""
        return self.task.prompt_length

    @property
    def response_length(self) -> int:
        """Greatest length of a response, in tokens, the end included."""
        return self.task.response_length

    @property
    def pad(self) -> int:
        """The padding token."""
        return self.task.pad

    @property
    def stop(self) -> int | tuple[int, ...] | None:
        """The token that ends a response, or several that do; None: all have full length."""
        stops = self.task.stops
        return stops if len(stops) > 1 else next(iter(stops), None)

    def prompts(self, key: PRNGKeyArray, n: int) -> Int[Array, "n P"]:
        """`n` random prompts of the environment's split."""
        return tasks.prompts(self.task, key, n, self.split)

    def held_out(self, key: PRNGKeyArray, n: int) -> Int[Array, "n P"]:
        """`n` random prompts of the held-out split."""
        return tasks.prompts(self.task, key, n, "held-out")

    def solutions(self, prompts: Int[Array, "n P"]) -> Int[Array, "n R"]:
        """An expert's response to each prompt. Raises NotImplementedError where the task has none."""
        return jax.vmap(self.task.solution)(prompts)

    def score(
        self, prompts: Int[Array, "n P"], responses: Int[Array, "n R"], lengths: Int[Array, " n"]
    ) -> tuple[Float[Array, "n R"], Bool[Array, " n"]]:
        """The reward of each token of finished responses, and True for each correct one."""
        verdict = jax.vmap(self.task.verify)(prompts, responses, lengths)
        rewards = jax.vmap(lambda v, n: token_rewards(self.reward_kind, v, n))(verdict, lengths)
        return rewards, verdict.correct

    @property
    def turns(self) -> TurnTask | None:
        """The task, where its environment replies in responses; else None."""
        return self.task if isinstance(self.task, TurnTask) else None

    def own_tokens(
        self, prompts: Int[Array, "n P"], responses: Int[Array, "n R"], lengths: Int[Array, " n"]
    ) -> Bool[Array, "n R"]:
        """True for the policy's tokens, False for replies of the environment and behind the end."""
        turns = self.turns
        if turns is None:
            return jnp.arange(self.response_length) < lengths[:, None]
        return jax.vmap(lambda *x: replay(turns, *x).own)(prompts, responses, lengths)

    @property
    def holds_out(self) -> bool:
        """True where `held_out` asks questions that `prompts` never asks in training."""
        return self.task.splits

    @property
    def has_solutions(self) -> bool:
        """True where the task writes `solution`."""
        return self.task.has_solution

    def decode(self, tokens: Any, length: int | None = None) -> str:
        """Names of tokens; see `envs.tokens.task.decode`."""
        return tasks.decode(self.task, tokens, length)

    def encode_prompt(self, text: str) -> Int[np.ndarray, " P"]:
        """The prompt that `text` writes in the task's notation, padded on the left. Raises ValueError in one line."""
        ids, pad = self.task.read_prompt(text), self.pad
        # Published models pad with a token that ends turns of a chat.
        padded = ids[:1] == [pad] or (pad in ids and pad not in self.task.stops)
        if not ids or len(ids) > self.prompt_length or padded:
            most = self.prompt_length
            raise ValueError(
                f"a prompt has 1 to {most} tokens, none of them padding; got {len(ids)}: {text!r}"
            )
        return np.array([pad] * (self.prompt_length - len(ids)) + ids, np.int32)

    def encode_response(self, text: str) -> tuple[Int[np.ndarray, " R"], int]:
        """The response that `text` writes, padded on the right, and its length; the stop token is added where it is
        left out and there is room. Raises ValueError in one line."""
        ids, stops = tasks.encode(self.task, text), self.task.stops
        if stops and not {*stops} & {*ids} and len(ids) < self.response_length:
            ids.append(stops[0])
        if not ids or len(ids) > self.response_length or {*stops} & {*ids[:-1]}:
            most = self.response_length
            raise ValueError(
                f"a response has 1 to {most} tokens, and nothing follows the stop token; got {len(ids)}: {text!r}"
            )
        return np.array(ids + [self.pad] * (self.response_length - len(ids)), np.int32), len(ids)

    def _require_share(self) -> None:
        shapes = [
            jax.ShapeDtypeStruct(shape, jnp.int32)
            for shape in ((self.task.prompt_length,), (self.task.response_length,), ())
        ]
        verdict = jax.eval_shape(self.task.verify, *shapes)
        jax.eval_shape(lambda v, n: token_rewards("share", v, n), verdict, shapes[-1])

    def _with_reply(self, turns: TurnTask, state: TokenState) -> TokenState:
        """The state after the environment has said what it has to say."""
        prompt, response = jnp.split(state.sequence, [self.prompt_length])
        queue = replay(turns, prompt, response, state.length).queue
        place = jnp.arange(self.response_length) - state.length
        said = (place >= 0) & (place < jnp.sum(queue != self.pad))
        reply = queue[jnp.clip(place, 0, queue.shape[0] - 1)]
        sequence = jnp.concatenate([prompt, jnp.where(said, reply, response)])
        return TokenState(sequence, state.length + jnp.sum(said, dtype=jnp.int32))

    def _verdict(self, state: TokenState) -> tasks.Verdict:
        prompt, response = jnp.split(state.sequence, [self.prompt_length])
        return self.task.verify(prompt, response, state.length)

    def _ended(self, state: TokenState) -> Bool[Array, ""]:
        last = state.sequence[self.prompt_length + jnp.maximum(state.length - 1, 0)]
        return (state.length > 0) & jnp.any(last == jnp.array(self.task.stops, jnp.int32))
