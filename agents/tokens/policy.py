"""Shared by learners of token tasks: a transformer, its start by imitation, and the rollout that they learn from.

    state, (rollout, metrics) = self.collect(state)   # prompts, responses, rewards, as a Batch
    ...                                               # targets and update: the functions that control learns by
    state = self.finish(state, rollout, ...)

A state is a prompt and the tokens so far, an action the next token, an episode one response.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from agents import reinforce, schedules
from agents.batch import Batch, Evaluation, Targets
from agents.core import across, kl
from agents.settings import require
from agents.tokens import lora
from agents.tokens.collection import (
    EVERYTHING_KEPT,
    Collection,
    draw_groups_with_spread,
    draw_responses,
    of_all_devices,
    view,
)
from agents.tokens.generation import Generated, Sampling, chosen_log_probs, exact_kl, generate
from agents.tokens.pretrained import start_from
from agents.tokens.reward import Reward, without_nonfinite
from agents.tokens.rollout import (
    Params,
    TokenRollout,
    TokenState,
    choice_at,
    response_batch,
    sequences,
    solution_lengths,
)
from agents.tokens.settings import require_task_fits
from agents.tokens.task import TokenTask
from agents.tokens.transformer import TransformerConfig, token_model
from agents.tokens.turns import own_tokens, turns_of

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
      collection: what the learner needs of an iteration's responses.

    Raises ValueError for an environment that is no token task, and for settings that the task cannot have.
    """

    imitates: ClassVar[bool] = False  # whether training itself needs an expert
    takes_reward: ClassVar[bool] = True  # whether there is an argument `reward`

    warmup_steps = 0

    def __init__(
        self,
        config: Any,
        env: Any,
        *,
        reward: Reward | None = None,
        critic: bool = False,
        group_size: int = 1,
        collection: Collection = EVERYTHING_KEPT,
    ):
        require(
            isinstance(env, TokenTask),
            f"{type(self).__name__} learns token tasks, and this environment is none",
        )
        self.shaping = config.shaping
        require_task_fits(config, env, type(self).__name__ if self.imitates else None)
        self.config = config
        self.env = env
        self.reward = reward
        self.group_size = group_size
        self.collection = collection
        self.iteration_steps = config.num_responses * env.response_length
        self.model_config = config.transformer(env.vocabulary_size)
        self.critic = critic
        self.network = token_model(self.model_config, critic=critic)
        clip = config.max_grad_norm
        self.optimizer = optax.chain(
            optax.identity() if clip is None else optax.clip_by_global_norm(clip),
            optax.scale_by_adam(b2=0.99),
        )
        if self.model_config.lora:
            self.network = lora.adapted(self.network)
            self.optimizer = lora.of_adapters(self.optimizer)

    def starting_from(
        self,
        model: TransformerConfig,
        params: Params,
        adapter: Mapping[str, np.ndarray] | None = None,
    ) -> TokenPolicy:
        """Returns the same learner with another transformer, whose first parameters are given; a critic begins with
        its layers. Activations have the learner's own dtype; low-rank adapters are those of its settings.

        Args:
          params, adapter: see `pretrained_model`.

        Raises ValueError, in one line, for a model of another vocabulary, too short a context, another's adapter.
        """
        return start_from(self, model, params, adapter)

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
            "reference": lora.kept_reference(self.model_config, params),
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
        length = solution_lengths(responses, self.env.stop)
        return self.batch(prompts, responses, length, jnp.zeros(responses.shape))

    def respond(
        self,
        params: Params,
        prompts: Int[Array, "N P"],
        key: PRNGKeyArray,
        sampling: Sampling | None = None,
        repeats: int = 1,
    ) -> Generated:
        """Returns `repeats` responses to each prompt, contiguous; `sampling` None: as in training."""
        return generate(
            self.network.module(params).policy,
            prompts,
            key,
            self.env.response_length,
            sampling or self.config.sampling,
            pad=self.env.pad,
            stop=self.env.stop,
            repeats=repeats,
            turns=turns_of(self.env),
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

        Responses to the same prompt are contiguous in N. Every token that was written is counted in the state, those of
        groups that were drawn again too.
        """
        prompt_key, sample_key, key = jax.random.split(state.key, 3)
        draw, keys = partial(draw_responses, self, state.params), (prompt_key, sample_key)
        keys = jax.tree.map(across.own_key, keys)
        rounds = self.collection.max_rounds
        if rounds is None:
            responses, metrics, tokens = draw(keys)
        else:
            responses, metrics, tokens = draw_groups_with_spread(
                draw, keys, self.group_size, rounds
            )
        rollout, measured = view(self, state, responses)
        state = dataclasses.replace(state, key=key, tokens=state.tokens + across.total(tokens))
        return state, (rollout, of_all_devices({**metrics, **measured}))

    def batch(
        self,
        prompts: Int[Array, "N P"],
        responses: Int[Array, "N R"],
        length: Int[Array, " N"],
        rewards: Float[Array, "N R"],
    ) -> Batch:
        """Returns sequences as steps [P + R - 1, N], see `response_batch`."""
        own = own_tokens(self.env, prompts, responses, length)
        return response_batch(prompts, responses, length, rewards, self.env.pad, own)

    def finish(
        self, state: State, rollout: TokenRollout, params: Params, opt_state: Any, **changes: Any
    ) -> State:
        """Returns the state after an iteration, the KL's weight in the reward adapted. `changes` are further fields."""
        weight, shaping = state.kl_in_reward, self.shaping
        if shaping.kl_in_reward_target is not None:
            weight = kl.adaptive_coefficient_proportional(
                weight,
                across.mean(jnp.mean(rollout.kl)),
                shaping.kl_in_reward_target,
                self.config.num_responses * across.devices(),
                shaping.kl_horizon,
            )
        return dataclasses.replace(
            state,
            params=params,
            opt_state=opt_state,
            kl_in_reward=weight,
            env_steps=state.env_steps + self.iteration_steps * across.devices(),
            **changes,
        )

    def reference_logp(
        self,
        reference: Params,
        obs: Any,
        action: Array,
        sampling: Sampling | None = None,
        repeats: int = 1,
    ) -> Float[Array, "T N"]:
        """Returns log-probs by the reference over the whole vocabulary, at the temperature of `sampling`.

        `repeats` as of `evaluate`.
        """
        sampling = (sampling or self.config).untruncated
        return self.evaluate(reference, obs, action, sampling, repeats).logp

    def evaluate(
        self,
        params: Params,
        obs: Any,
        action: Array,
        sampling: Sampling | None = None,
        repeats: int = 1,
    ) -> Evaluation:
        """Returns log-probs, entropies and values from one pass over sequences; obs and action [T, N].

        Where the sampler was truncated, `obs["allowed"]` keeps its choice of tokens while the policy moves. At the
        prompt's steps, where nothing was chosen, all three are 0.

        Args:
          sampling: None: as in training.
          repeats: contiguous sequences with the same prompt, which is read once for all of them.
        """
        sampling = sampling or self.config.sampling
        model = self.network.module(params)
        start = self.env.prompt_length - 1
        hidden = model.policy.hidden(*sequences(obs), start, repeats)
        allowed = choice_at(start, obs, sampling)
        found = chosen_log_probs(model.policy, hidden, action.T[:, start:], sampling, allowed)
        logp, entropy = (jnp.pad(x.T, ((start, 0), (0, 0))) for x in found)
        return Evaluation(logp, entropy, model.value(*sequences(obs), start).T)

    def exact_kl(
        self, params: Params, reference: Params, obs: Any, action: Array
    ) -> Float[Array, "T N"]:
        """Returns KL(policy || reference) of the next token, by the sum over the vocabulary."""
        models = [self.network.module(p).policy for p in (params, reference)]
        sampling, start = self.config.sampling, self.env.prompt_length - 1
        hidden = [m.hidden(*sequences(obs), start, self.group_size) for m in models]
        allowed = choice_at(start, obs, sampling)
        found = exact_kl(models, hidden, action.T[:, start:], sampling, allowed)
        return jnp.pad(found.T, ((start, 0), (0, 0)))

    def learning_rate(self, env_steps: Array) -> Float[Array, ""]:
        """Returns Adam's step size, which rises for a share `warmup` of the run and then follows its schedule."""
        config = self.config
        done = env_steps + self.iteration_steps * across.devices()
        done = jnp.minimum(done / config.total_steps, 1.0)
        rise = jnp.minimum(done / config.warmup, 1.0) if config.warmup else jnp.ones(())
        if config.learning_rate_schedule == "constant":
            return config.learning_rate * rise
        return config.learning_rate * rise * self.remaining_fraction(env_steps)

    def remaining_fraction(self, env_steps: Array) -> Float[Array, ""]:
        """Returns the share of the run that is still to come, from 1 to 0."""
        return schedules.remaining_fraction(env_steps, self.config.total_steps)
