"""What learners of token tasks share: a transformer, its start by imitation, and the batch that they learn from.

    state, (written, metrics) = self.collect(state)   # prompts, responses, rewards: a Batch, and what was written
    ...                                               # targets and update: the learner's own, those of the robots
    state = self.finish(state, written, ...)

A state is a prompt and the tokens so far, an action the next token, an episode one response. In a Batch, T runs over
prompt and response: `obs` at t is token t and its position, `action` at t is token t + 1, and the mask is True where
that token was the policy's to choose.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from agents import reinforce
from agents.batch import Batch, Evaluation, Targets
from agents.core import kl, returns
from agents.generation import Generated, generate, log_probs, token_positions
from agents.settings import require
from agents.token_settings import RewardConfig
from agents.transformer import token_model

Params = Any

# Logits of a batch beyond this many numbers are computed in parts, and again in the backward pass.
_MOST_LOGITS = 2**26


class TokenTask(Protocol):
    """What a learner wants of an environment of tokens. P: length of prompts, R: most tokens of a response."""

    vocabulary_size: int
    prompt_length: int
    response_length: int
    pad: int
    stop: int | None  # the token that ends a response; None: all have R tokens

    def prompts(self, key: PRNGKeyArray, n: int) -> Int[Array, "n P"]:
        """For training; padding on the left."""

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


State = TypeVar("State", bound=TokenState)


class TokenPolicy:
    """The part of a learner that writes. It calls nothing of its subclasses; they write `init` and `step`."""

    warmup_steps = 0

    def __init__(self, config: Any, env: Any, *, critic: bool = False, group_size: int = 1):
        require(
            all(hasattr(env, name) for name in ("prompts", "solutions", "score")),
            f"{type(self).__name__} learns token tasks, and this environment is none",
        )
        require(
            config.top_k is None or config.top_k <= env.vocabulary_size,
            f"top_k = {config.top_k} is more than the vocabulary has: {env.vocabulary_size}",
        )
        self.config = config
        self.env = env
        self.group_size = group_size
        self.iteration_steps = config.num_responses * env.response_length
        self.model_config = config.transformer(env.vocabulary_size)
        self.network = token_model(self.model_config, critic=critic)
        clip = config.max_grad_norm
        self.optimizer = optax.chain(
            optax.identity() if clip is None else optax.clip_by_global_norm(clip),
            optax.scale_by_adam(b2=0.99),
        )

    def learned(self, state: TokenState) -> Params:
        return state.params

    def buffer_bytes(self) -> int:
        return 0

    def collect_only(self, state: State) -> State:
        """Returns the state after the generation of an iteration, with nothing learned."""
        return self.collect(state)[0]

    def start(self, key: PRNGKeyArray) -> dict[str, Any]:
        """The fields of the first `TokenState`: the policy has imitated the expert for a while."""
        params_key, imitation_key, key = jax.random.split(key, 3)
        params = self.imitate(self.network.init(params_key), imitation_key)
        config = self.config
        kl_in_reward = config.kl_in_reward if isinstance(config, RewardConfig) else 0.0
        return {
            "params": params,
            "opt_state": self.optimizer.init(params),
            # A copy: the driver donates the state's buffers, and none may be there twice.
            "reference": jax.tree.map(jnp.copy, params),
            "kl_in_reward": jnp.asarray(kl_in_reward, jnp.float32),
            "key": key,
            "env_steps": jnp.zeros((), jnp.int32),
            "tokens": jnp.zeros((), jnp.int32),
        }

    def imitate(self, params: Params, key: PRNGKeyArray) -> Params:
        """`imitation_steps` gradient steps towards the expert's responses."""
        config = self.config

        def body(carry, key):
            batch = self.expert_batch(key, config.imitation_responses)
            rate = jnp.asarray(config.imitation_learning_rate)
            params, opt_state, _ = self.imitation_step(*carry, batch, rate)
            return (params, opt_state), None

        keys = jax.random.split(key, config.imitation_steps)
        carry = (params, self.optimizer.init(params))
        return jax.lax.scan(body, carry, keys)[0][0]

    def imitation_step(
        self, params: Params, opt_state: Any, batch: Batch, rate: Float[Array, ""]
    ) -> tuple[Params, Any, dict[str, Array]]:
        """Imitation is the policy gradient with weight 1 on what the expert did."""
        ones = jnp.where(batch.mask, 1.0, 0.0)
        return reinforce.update(
            params,
            opt_state,
            batch,
            Targets(ones, jnp.zeros_like(ones)),
            evaluate=self.evaluate,
            optimizer=self.optimizer,
            learning_rate=rate,
            config=_PLAIN,
        )

    def expert_batch(self, key: PRNGKeyArray, n: int) -> Batch:
        prompts = self.env.prompts(key, n)
        responses = self.env.solutions(prompts)
        length = self.response_lengths(responses)
        return self.batch(prompts, responses, length, jnp.zeros(responses.shape))

    def response_lengths(self, responses: Int[Array, "N R"]) -> Int[Array, " N"]:
        """Of responses that are right: up to and with the stop token."""
        if self.env.stop is None:
            return jnp.full(responses.shape[0], self.env.response_length, jnp.int32)
        return jnp.argmax(responses == self.env.stop, axis=1).astype(jnp.int32) + 1

    def respond(self, params: Params, prompts: Int[Array, "N P"], key: PRNGKeyArray) -> Generated:
        """Samples of the policy."""
        return generate(
            self.network.module(params).policy,
            prompts,
            key,
            self.env.response_length,
            self.config.sampling,
            pad=self.env.pad,
            stop=self.env.stop,
        )

    def collect(self, state: State) -> tuple[State, tuple[Written, dict[str, Array]]]:
        """Responses of the present policy to fresh prompts, those to one prompt side by side; and their rewards."""
        prompt_key, sample_key, key = jax.random.split(state.key, 3)
        config, env = self.config, self.env
        prompts = env.prompts(prompt_key, config.num_responses // self.group_size)
        prompts = jnp.repeat(prompts, self.group_size, axis=0)
        found = self.respond(state.params, prompts, sample_key)
        rewards, correct = env.score(prompts, found.tokens, found.length)
        rewards = rewards.astype(jnp.float32)
        batch = self.batch(prompts, found.tokens, found.length, rewards)
        # The old policy's view once more, in the learner's own arithmetic: the first ratio is exactly 1.
        old = self.evaluate(state.params, batch.obs, batch.action)
        reference = self.evaluate(state.reference, batch.obs, batch.action).logp
        behind = jnp.concatenate([old.value[1:], old.value[-1:]])
        sampled = self.placed(found.logp)
        penalty = jnp.where(batch.mask, kl.k1(old.logp, reference), 0.0)
        batch = batch._replace(
            logp=old.logp,
            value=old.value,
            next_value=behind,
            reward=batch.reward - state.kl_in_reward * penalty,
            ref_logp=reference,
        )
        difference = jnp.where(batch.mask, jnp.abs(sampled - old.logp), 0.0)
        length = found.length.astype(jnp.float32)
        ended = _ends_with(found, env.stop)
        metrics = {
            "train/return": jnp.mean(jnp.sum(rewards, axis=1)),
            "train/length": jnp.mean(length),
            "train/episodes": jnp.asarray(config.num_responses, jnp.float32),
            "train/correct": jnp.mean(correct.astype(jnp.float32)),
            "train/cut": 1.0 - jnp.mean(ended.astype(jnp.float32)),
            "train/env_steps_taken": jnp.sum(length),
            "logp_diff_max": jnp.max(difference),
            "kl_reference": returns.masked_mean(kl.k3(old.logp, reference), batch.mask),
            "kl_in_reward": state.kl_in_reward,
        }
        state = dataclasses.replace(
            state, key=key, tokens=state.tokens + jnp.sum(found.length, dtype=jnp.int32)
        )
        return state, (Written(batch, correct, jnp.sum(penalty, axis=0)), metrics)

    def batch(
        self,
        prompts: Int[Array, "N P"],
        responses: Int[Array, "N R"],
        length: Int[Array, " N"],
        rewards: Float[Array, "N R"],
    ) -> Batch:
        """The sequences as steps [P + R - 1, N], time first."""
        size = prompts.shape[1]
        real = jnp.arange(responses.shape[1]) < length[:, None]
        positions = token_positions(prompts, self.env.pad)
        following = positions[:, -1:] + 1 + jnp.arange(responses.shape[1])
        tokens = jnp.concatenate([prompts, responses], axis=1)
        positions = jnp.concatenate([positions, jnp.where(real, following, -1)], axis=1)
        mask = self.placed(real)
        zeros = jnp.zeros(mask.shape)
        last = jnp.arange(mask.shape[0])[:, None] == size - 2 + length
        return Batch(
            obs={"token": tokens[:, :-1].T, "position": positions[:, :-1].T.astype(jnp.int32)},
            action=tokens[:, 1:].T,
            logp=zeros,
            value=zeros,
            next_value=zeros,
            reward=jnp.where(mask, self.placed(rewards), 0.0),
            terminated=last,
            truncated=jnp.zeros_like(last),
            mask=mask,
        )

    def placed(self, x: Array) -> Array:
        """What belongs to the tokens of responses [N, R], at the steps [T, N] at which they were chosen."""
        return jnp.pad(x.T, ((self.env.prompt_length - 1, 0), (0, 0)))

    def finish(
        self, state: State, written: Written, params: Params, opt_state: Any, **changes: Any
    ) -> State:
        config = self.config
        weight = state.kl_in_reward
        if isinstance(config, RewardConfig) and config.kl_in_reward_target is not None:
            weight = kl.adaptive_coefficient_proportional(
                weight,
                jnp.mean(written.kl),
                config.kl_in_reward_target,
                config.num_responses,
                config.kl_horizon,
            )
        return dataclasses.replace(
            state,
            params=params,
            opt_state=opt_state,
            kl_in_reward=weight,
            env_steps=state.env_steps + self.iteration_steps,
            **changes,
        )

    def evaluate(self, params: Params, obs: Any, action: Array) -> Evaluation:
        """One pass over whole sequences; obs and action [T, N]."""
        model = self.network.module(params)
        sequence = obs["token"].T, obs["position"].T
        hidden = model.policy.hidden(*sequence)
        chosen = action.T

        def of_tokens(part):
            hidden, chosen = part
            logp = log_probs(model.policy.logits(hidden), self.config.sampling, chosen)
            entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
            return jnp.take_along_axis(logp, chosen[..., None], axis=-1)[..., 0], entropy

        if chosen.size * self.env.vocabulary_size > _MOST_LOGITS:
            logp, entropy = jax.lax.map(jax.checkpoint(of_tokens), (hidden, chosen))
        else:
            logp, entropy = of_tokens((hidden, chosen))
        return Evaluation(logp.T, entropy.T, model.value(*sequence).T)

    def learning_rate(self, env_steps: Array) -> Float[Array, ""]:
        config = self.config
        done = jnp.minimum((env_steps + self.iteration_steps) / config.total_steps, 1.0)
        rise = jnp.minimum(done / config.warmup, 1.0) if config.warmup else jnp.ones(())
        if config.learning_rate_schedule == "constant":
            return config.learning_rate * rise
        return config.learning_rate * rise * self.left(env_steps)

    def left(self, env_steps: Array) -> Float[Array, ""]:
        """The share of the run that is still to come."""
        return 1.0 - jnp.minimum(env_steps / self.config.total_steps, 1.0)


# A step towards given actions: no baseline, nothing whitened.
_PLAIN = reinforce.ReinforceSettings(baseline="none")


def _ends_with(found: Generated, stop: int | None) -> Array:
    if stop is None:
        return jnp.ones(found.length.shape, bool)
    last = jnp.take_along_axis(found.tokens, found.length[:, None] - 1, axis=1)[:, 0]
    return last == stop
