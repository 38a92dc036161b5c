"""Shared by learners of token tasks: a transformer, its start by imitation, and the rollout that they learn from.

    state, (rollout, metrics) = self.collect(state)   # prompts, responses, rewards, as a Batch
    ...                                               # targets and update: the functions that control learns by
    state = self.finish(state, rollout, ...)

A state is a prompt and the tokens so far, an action the next token, an episode one response.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from agents import reinforce, schedules
from agents.batch import Batch, Evaluation, Targets
from agents.core import kl, returns
from agents.settings import require
from agents.tokens.generation import Generated, Sampling, chosen_log_probs, generate
from agents.tokens.reward import Reward, training_rewards, without_nonfinite
from agents.tokens.rollout import (
    Params,
    TokenRollout,
    TokenState,
    align_to_steps,
    at_last_token,
    ends_with_stop,
    response_batch,
)
from agents.tokens.settings import TokenConfig
from agents.tokens.task import TokenTask
from agents.tokens.transformer import token_model

# Imitation steps towards given actions: no baseline, nothing whitened.
PLAIN_GRADIENT = reinforce.ReinforceSettings(baseline="none")

State = TypeVar("State", bound=TokenState)


class TokenPolicy:
    """The part of a learner that generates responses. It calls nothing of its subclasses; they write `init` and `step`.

    Two distributions over the next token: the one that responses are drawn from (temperature, top-k, top-p), which is
    the policy of every ratio, loss and entropy; and the reference's, over the whole vocabulary at the same
    temperature. The KL is that of the first to the second, KL(pi || ref): a divergence, for the second leaves out
    nothing that the first may draw. A reference truncated by itself would leave such tokens out, and give them, kept
    by force, probabilities that do not add up to 1.

    Under top-k or top-p k1 still estimates KL(pi || ref) without bias; the mean of k3 lies below it by the
    reference's mass outside of the policy's choice, and is never negative.

    Args:
      env: a `TokenTask`.
      reward: learnt from in place of the verifier's score, which is measured beside it; None: the verifier's score.
      critic: True for a second transformer that values states.
      group_size: responses to each prompt.

    Raises ValueError for an environment that is no token task, and for settings that the task cannot have.
    """

    imitates: ClassVar[bool] = False  # whether training itself needs an expert

    warmup_steps = 0

    def __init__(
        self,
        config: Any,
        env: Any,
        *,
        reward: Reward | None = None,
        critic: bool = False,
        group_size: int = 1,
    ):
        require(
            isinstance(env, TokenTask),
            f"{type(self).__name__} learns token tasks, and this environment is none",
        )
        self.shaping = config.shaping
        self._require_task_fits(config, env)
        self.config = config
        self.env = env
        self.reward = reward
        self.group_size = group_size
        self.iteration_steps = config.num_responses * env.response_length
        self.model_config = config.transformer(env.vocabulary_size)
        self.network = token_model(self.model_config, critic=critic)
        clip = config.max_grad_norm
        self.optimizer = optax.chain(
            optax.identity() if clip is None else optax.clip_by_global_norm(clip),
            optax.scale_by_adam(b2=0.99),
        )

    def _require_task_fits(self, config: TokenConfig, env: TokenTask) -> None:
        """Raises ValueError, in one line, for settings that the task cannot have."""
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
        cut = self.shaping.cut_responses
        require(
            env.stop is not None or cut == "keep",
            f"cut_responses {cut} has nothing to act on: no token ends a response of this task, all have full length",
        )

    def learned(self, state: TokenState) -> Params:
        """Returns the parameters of policy and critic."""
        return state.params

    def buffer_bytes(self) -> int:
        """Returns 0: there is no replay buffer."""
        return 0

    def collect_only(self, state: State) -> State:
        """Returns the state after the generation of an iteration, with nothing learned."""
        return self.collect(state)[0]

    def start(self, key: PRNGKeyArray) -> dict[str, Any]:
        """Returns the fields of the first `TokenState`, after `imitation_steps` of imitation."""
        params_key, imitation_key, key = jax.random.split(key, 3)
        params = self.imitate(self.network.init(params_key), imitation_key)
        return {
            "params": params,
            "opt_state": self.optimizer.init(params),
            # A copy: the driver donates the state's buffers, and none may be there twice.
            "reference": jax.tree.map(jnp.copy, params),
            "kl_in_reward": jnp.asarray(self.shaping.kl_in_reward, jnp.float32),
            "key": key,
            "env_steps": jnp.zeros((), jnp.int32),
            "tokens": jnp.zeros((), jnp.int32),
        }

    def imitate(self, params: Params, key: PRNGKeyArray) -> Params:
        """Returns parameters after `imitation_steps` gradient steps towards the expert's responses."""
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
        """Returns params, opt_state, metrics after a step of the policy gradient with weight 1 on each action."""
        ones = jnp.where(batch.mask, 1.0, 0.0)
        return reinforce.update(
            params,
            opt_state,
            batch,
            Targets(ones),
            evaluate=self.evaluate,
            optimizer=self.optimizer,
            learning_rate=rate,
            config=PLAIN_GRADIENT,
        )

    def expert_batch(self, key: PRNGKeyArray, n: int) -> Batch:
        """Returns the expert's responses to `n` fresh prompts."""
        prompts = self.env.prompts(key, n)
        responses = self.env.solutions(prompts)
        length = self.solution_lengths(responses)
        return self.batch(prompts, responses, length, jnp.zeros(responses.shape))

    def solution_lengths(self, responses: Int[Array, "N R"]) -> Int[Array, " N"]:
        """Returns lengths of correct responses: up to the stop token, and with it."""
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
        """Returns one response to each prompt; `sampling` None: as in training."""
        return generate(
            self.network.module(params).policy,
            prompts,
            key,
            self.env.response_length,
            sampling or self.config.sampling,
            pad=self.env.pad,
            stop=self.env.stop,
        )

    def verify(
        self, prompts: Int[Array, "N P"], generated: Generated
    ) -> tuple[Float[Array, "N R"], Bool[Array, " N"], Bool[Array, " N"]]:
        """Returns the verifier's reward of each token, True for correct responses, True for nonfinite rewards.

        Responses with a reward that is not finite earn 0 and are wrong.
        """
        rewards, correct = self.env.score(prompts, generated.tokens, generated.length)
        rewards, broken = without_nonfinite(rewards.astype(jnp.float32))
        return rewards, correct & ~broken, broken

    def collect(self, state: State) -> tuple[State, tuple[TokenRollout, dict[str, Array]]]:
        """Returns the state, and responses of the present policy to fresh prompts with their rewards and metrics.

        Responses to the same prompt are contiguous in N.
        """
        prompt_key, sample_key, key = jax.random.split(state.key, 3)
        config, env = self.config, self.env
        prompts = env.prompts(prompt_key, config.num_responses // self.group_size)
        prompts = jnp.repeat(prompts, self.group_size, axis=0)
        generated = self.respond(state.params, prompts, sample_key)
        verified, correct, broken = self.verify(prompts, generated)
        rewards, broken, reward_metrics = training_rewards(
            self.reward, prompts, generated, verified, broken
        )
        ended = ends_with_stop(generated, env.stop)
        rewards = self.shaped_rewards(rewards, generated, ended)
        batch = self.batch(prompts, generated.tokens, generated.length, rewards)
        # The old policy's view once more, in the learner's own arithmetic: the first ratio is exactly 1.
        old = self.evaluate(state.params, batch.obs, batch.action)
        reference = self.reference_logp(state.reference, batch.obs, batch.action)
        next_value = jnp.concatenate([old.value[1:], old.value[-1:]])
        sampled = align_to_steps(generated.logp, env.prompt_length)
        penalty = jnp.where(batch.mask, kl.k1(old.logp, reference), 0.0)
        batch = batch._replace(
            logp=old.logp,
            value=old.value,
            next_value=next_value,
            reward=batch.reward - state.kl_in_reward * penalty,
            ref_logp=reference,
        )
        difference = jnp.where(batch.mask, jnp.abs(sampled - old.logp), 0.0)
        length = generated.length.astype(jnp.float32)
        metrics = {
            "train/return": jnp.mean(jnp.sum(verified, axis=1)),
            "train/length": jnp.mean(length),
            "train/episodes": jnp.asarray(config.num_responses, jnp.float32),
            "train/correct": jnp.mean(correct.astype(jnp.float32)),
            "train/cut": 1.0 - jnp.mean(ended.astype(jnp.float32)),
            "train/env_steps_taken": jnp.sum(length),
            "train/nonfinite": jnp.sum(broken).astype(jnp.float32),
            "logp_diff_max": jnp.max(difference),
            "kl_reference": returns.masked_mean(kl.k3(old.logp, reference), batch.mask),
            "kl_in_reward": state.kl_in_reward,
            **reward_metrics,
        }
        state = dataclasses.replace(
            state, key=key, tokens=state.tokens + jnp.sum(generated.length, dtype=jnp.int32)
        )
        masks_cut = self.shaping.cut_responses == "mask"
        loss_mask = batch.mask & ended if masks_cut else batch.mask
        rollout = TokenRollout(batch, correct, jnp.sum(penalty, axis=0), loss_mask)
        return state, (rollout, metrics)

    def shaped_rewards(
        self, rewards: Float[Array, "N R"], generated: Generated, ended: Bool[Array, " N"]
    ) -> Float[Array, "N R"]:
        """Returns the rewards, with those of responses without an end replaced where they are to be penalised."""
        if self.shaping.cut_responses != "penalise":
            return rewards
        score = jnp.full(ended.shape, self.shaping.cut_score)
        penalty = at_last_token(score, generated.length, rewards.shape[1])
        return jnp.where(ended[:, None], rewards, penalty)

    def batch(
        self,
        prompts: Int[Array, "N P"],
        responses: Int[Array, "N R"],
        length: Int[Array, " N"],
        rewards: Float[Array, "N R"],
    ) -> Batch:
        """Returns sequences as steps [P + R - 1, N], see `response_batch`."""
        return response_batch(prompts, responses, length, rewards, self.env.pad)

    def finish(
        self, state: State, rollout: TokenRollout, params: Params, opt_state: Any, **changes: Any
    ) -> State:
        """Returns the state after an iteration, the KL's weight in the reward adapted. `changes` are further fields."""
        weight, shaping = state.kl_in_reward, self.shaping
        if shaping.kl_in_reward_target is not None:
            weight = kl.adaptive_coefficient_proportional(
                weight,
                jnp.mean(rollout.kl),
                shaping.kl_in_reward_target,
                self.config.num_responses,
                shaping.kl_horizon,
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
        """Returns log-probs by the reference over the whole vocabulary, at the temperature of `sampling`."""
        sampling = (sampling or self.config).untruncated
        return self.evaluate(reference, obs, action, sampling).logp

    def evaluate(
        self, params: Params, obs: Any, action: Array, sampling: Sampling | None = None
    ) -> Evaluation:
        """Returns log-probs, entropies and values from one pass over sequences; obs and action [T, N].

        `sampling` None: as in training.
        """
        sampling = sampling or self.config.sampling
        model = self.network.module(params)
        sequence = obs["token"].T, obs["position"].T
        hidden = model.policy.hidden(*sequence)
        logp, entropy = chosen_log_probs(model.policy, hidden, action.T, sampling)
        return Evaluation(logp.T, entropy.T, model.value(*sequence).T)

    def learning_rate(self, env_steps: Array) -> Float[Array, ""]:
        """Returns Adam's step size, which rises for a share `warmup` of the run and then follows its schedule."""
        config = self.config
        done = jnp.minimum((env_steps + self.iteration_steps) / config.total_steps, 1.0)
        rise = jnp.minimum(done / config.warmup, 1.0) if config.warmup else jnp.ones(())
        if config.learning_rate_schedule == "constant":
            return config.learning_rate * rise
        return config.learning_rate * rise * self.remaining_fraction(env_steps)

    def remaining_fraction(self, env_steps: Array) -> Float[Array, ""]:
        """Returns the share of the run that is still to come, from 1 to 0."""
        return schedules.remaining_fraction(env_steps, self.config.total_steps)
