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
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from agents import reinforce
from agents.batch import Batch, Evaluation, Targets
from agents.core import kl, returns
from agents.settings import require
from agents.tokens.generation import Generated, Sampling, generate, log_probs, token_positions
from agents.tokens.settings import ResponseConfig, RewardConfig
from agents.tokens.task import Params, TokenState, Written
from agents.tokens.transformer import token_model

# Logits of a batch beyond this many numbers are computed in parts, and again in the backward pass.
_MOST_LOGITS = 2**26


State = TypeVar("State", bound=TokenState)


class TokenPolicy:
    """The part of a learner that writes. It calls nothing of its subclasses; they write `init` and `step`.

    Two distributions over the next token: the one that responses are drawn from (temperature, top-k, top-p), which is
    the policy of every ratio, loss and entropy; and the reference's, over the whole vocabulary at the same
    temperature. The KL is that of the first to the second, KL(pi || ref): a divergence, for the second leaves out
    nothing that the first may draw. A reference truncated by itself would leave such tokens out, and give them, kept
    by force, probabilities that do not add up to 1.

    Under top-k or top-p k1 still estimates KL(pi || ref) without bias; the mean of k3 lies below it by the
    reference's mass outside of the policy's choice, and is never negative.
    """

    imitates: ClassVar[bool] = False  # whether training itself needs an expert

    warmup_steps = 0

    def __init__(self, config: Any, env: Any, *, critic: bool = False, group_size: int = 1):
        require(
            all(hasattr(env, name) for name in ("prompts", "score", "has_solutions")),
            f"{type(self).__name__} learns token tasks, and this environment is none",
        )
        require(
            config.top_k is None or config.top_k <= env.vocabulary_size,
            f"top_k = {config.top_k} is more than the vocabulary has: {env.vocabulary_size}",
        )
        require(
            env.has_solutions or not self.imitates,
            f"{type(self).__name__} imitates an expert, and the task has none: write its solution",
        )
        require(
            env.has_solutions or not config.imitation_steps,
            f"imitation_steps = {config.imitation_steps} needs an expert, and the task has none: write its solution, "
            "or set imitation_steps to 0",
        )
        self.cut_responses = config.cut_responses if isinstance(config, ResponseConfig) else "keep"
        require(
            env.stop is not None or self.cut_responses == "keep",
            f"cut_responses {self.cut_responses} has nothing to act on: no token ends a response of this task, all "
            "have full length",
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
        if not config.imitation_steps:
            return params

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
            Targets(ones),
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

    def respond(
        self,
        params: Params,
        prompts: Int[Array, "N P"],
        key: PRNGKeyArray,
        sampling: Sampling | None = None,
    ) -> Generated:
        """Samples of the policy; `sampling`: as in training, if None."""
        return generate(
            self.network.module(params).policy,
            prompts,
            key,
            self.env.response_length,
            sampling or self.config.sampling,
            pad=self.env.pad,
            stop=self.env.stop,
        )

    def score(
        self, prompts: Int[Array, "N P"], written: Generated
    ) -> tuple[Float[Array, "N R"], Bool[Array, " N"], Bool[Array, " N"]]:
        """Rewards of each token, whether responses are correct, and whether their rewards are broken: not finite.
        Broken responses earn 0 and are wrong: one of them would spoil the gradient of all."""
        rewards, correct = self.env.score(prompts, written.tokens, written.length)
        rewards = rewards.astype(jnp.float32)
        broken = ~jnp.all(jnp.isfinite(rewards), axis=1)
        return jnp.where(broken[:, None], 0.0, rewards), correct & ~broken, broken

    def collect(self, state: State) -> tuple[State, tuple[Written, dict[str, Array]]]:
        """Responses of the present policy to fresh prompts, those to one prompt side by side; and their rewards."""
        prompt_key, sample_key, key = jax.random.split(state.key, 3)
        config, env = self.config, self.env
        prompts = env.prompts(prompt_key, config.num_responses // self.group_size)
        prompts = jnp.repeat(prompts, self.group_size, axis=0)
        found = self.respond(state.params, prompts, sample_key)
        rewards, correct, broken = self.score(prompts, found)
        ended = _ends_with(found, env.stop)
        batch = self.batch(
            prompts, found.tokens, found.length, self.learnt_rewards(rewards, found, ended)
        )
        # The old policy's view once more, in the learner's own arithmetic: the first ratio is exactly 1.
        old = self.evaluate(state.params, batch.obs, batch.action)
        reference = self.reference_logp(state.reference, batch.obs, batch.action)
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
        metrics = {
            "train/return": jnp.mean(jnp.sum(rewards, axis=1)),
            "train/length": jnp.mean(length),
            "train/episodes": jnp.asarray(config.num_responses, jnp.float32),
            "train/correct": jnp.mean(correct.astype(jnp.float32)),
            "train/cut": 1.0 - jnp.mean(ended.astype(jnp.float32)),
            "train/env_steps_taken": jnp.sum(length),
            "train/nonfinite": jnp.sum(broken).astype(jnp.float32),
            "logp_diff_max": jnp.max(difference),
            "kl_reference": returns.masked_mean(kl.k3(old.logp, reference), batch.mask),
            "kl_in_reward": state.kl_in_reward,
        }
        state = dataclasses.replace(
            state, key=key, tokens=state.tokens + jnp.sum(found.length, dtype=jnp.int32)
        )
        learnt = batch.mask & ended if self.cut_responses == "mask" else batch.mask
        return state, (Written(batch, correct, jnp.sum(penalty, axis=0), learnt), metrics)

    def learnt_rewards(
        self, rewards: Float[Array, "N R"], written: Generated, ended: Bool[Array, " N"]
    ) -> Float[Array, "N R"]:
        """The task's rewards, but for responses that were cut off and are to be penalised."""
        if self.cut_responses != "penalise":
            return rewards
        last = jnp.arange(rewards.shape[1]) == written.length[:, None] - 1
        penalty = jnp.where(last, self.config.cut_score, 0.0)
        return jnp.where(ended[:, None], rewards, penalty)

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

    def reference_logp(
        self, reference: Params, obs: Any, action: Array, sampling: Sampling | None = None
    ) -> Float[Array, "T N"]:
        """Log-probabilities of the reference over the whole vocabulary, at the temperature of `sampling`."""
        sampling = (sampling or self.config).untruncated
        return self.evaluate(reference, obs, action, sampling).logp

    def evaluate(
        self, params: Params, obs: Any, action: Array, sampling: Sampling | None = None
    ) -> Evaluation:
        """One pass over whole sequences; obs and action [T, N]. `sampling`: as in training, if None."""
        sampling = sampling or self.config.sampling
        model = self.network.module(params)
        sequence = obs["token"].T, obs["position"].T
        hidden = model.policy.hidden(*sequence)
        chosen = action.T

        def of_tokens(part):
            hidden, chosen = part
            logp = log_probs(model.policy.logits(hidden), sampling, chosen)
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
