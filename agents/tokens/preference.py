"""Shared by learners from pairs of responses: the set of pairs, made once, and the gradient step on a part of it.

Offline: the reference policy writes the pairs, or a file has them; epochs pass over them in new random orders. A pair's
log-probabilities by the reference are computed once.

    class DPO(PreferencePolicy):      # a learner is a loss, PairLogps to [N]: super().__init__(config, env, loss)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from agents import optimisers
from agents.batch import random_order
from agents.core.preference_losses import preference_metrics, sequence_logp
from agents.settings import require
from agents.tokens import lora
from agents.tokens.generation import Generated
from agents.tokens.pairs import Pairs, corrupted, map_parts, ranked_pairs
from agents.tokens.policy import TokenPolicy
from agents.tokens.reward import Reward, training_rewards
from agents.tokens.rollout import Params, TokenState, solution_lengths
from agents.tokens.settings import TokenConfig

OWN_PAIRS = ("samples", "expert")
FILE_OF_PAIRS = ".jsonl"


@dataclasses.dataclass(frozen=True)
class PreferenceConfig(TokenConfig):
    """Fields of every learner from pairs."""

    total_steps: int = 179_200
    """tokens of the whole run, both responses of a pair counted at full length; the learning rate's schedule ends
    there"""
    num_responses: int = 128
    """responses per gradient step, two per pair"""
    learning_rate: float = 3e-4
    """initial learning rate of Adam"""
    beta: float = 0.1
    """scale of log-ratios to the reference, in the loss and in the rewards of the metrics"""
    pairs: str = dataclasses.field(default="samples", metadata={"file": FILE_OF_PAIRS})
    """samples: two responses of the reference policy per prompt, ranked by the reward, without ties; expert: an
    expert's response, and the same with one token changed; FILE.jsonl: one object a line, with prompt, chosen and
    rejected in the task's notation"""
    num_pairs: int = 2048
    """pairs in the data set, which is generated once before training; a file is used in full"""
    label_temperature: float = 0.0
    """temperature of the Bradley-Terry model that draws labels from scores; 0: the higher score is chosen"""
    label_flips: float = 0.0
    """probability that the label of a pair of samples is flipped"""
    sft_weight: float = 0.0
    """weight of the mean negative log-probability of the chosen responses' tokens, added to the loss"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("num_pairs")
        self.require_positive("beta")
        self.require_not_negative("label_temperature", "sft_weight")
        require(
            0 <= self.label_flips < 0.5,
            f"label_flips must be at least 0 and below 0.5, got {self.label_flips}",
        )
        require(
            self.pairs in OWN_PAIRS or self.pairs.endswith(FILE_OF_PAIRS),
            f"pairs must be samples, expert or a file FILE.jsonl, got {self.pairs!r}",
        )
        require(
            self.pairs == "samples" or not (self.label_temperature or self.label_flips),
            f"label_temperature and label_flips are noise of ranked samples, and pairs is {self.pairs}",
        )
        require(
            self.num_responses % 2 == 0,
            f"num_responses must be even, two a pair, got {self.num_responses}",
        )


class PairLogps(NamedTuple):
    """Sums of log-probabilities over the tokens of responses, each [N]."""

    chosen: Array
    rejected: Array
    chosen_ref: Array  # by the reference
    rejected_ref: Array
    chosen_length: Array  # int32
    rejected_length: Array
    weight: Array  # 0: the pair trains nothing
    # Log-ratio of the prompt with the next pair's chosen response, without gradient.
    mismatched: Array | Any = None

    @property
    def chosen_ratio(self) -> Array:
        """Log-ratio of the chosen response to the reference."""
        return self.chosen - self.chosen_ref

    @property
    def rejected_ratio(self) -> Array:
        """Log-ratio of the rejected response to the reference."""
        return self.rejected - self.rejected_ref

    @property
    def chosen_mean(self) -> Array:
        """Log-probability of a chosen response's token."""
        return self.chosen / jnp.maximum(self.chosen_length, 1)

    @property
    def rejected_mean(self) -> Array:
        """Log-probability of a rejected response's token."""
        return self.rejected / jnp.maximum(self.rejected_length, 1)


@flax.struct.dataclass
class PreferenceState(TokenState):
    """The state of a learner from pairs: the set travels with it, so that a resumed run has the same one."""

    pairs: Pairs | Any
    reference_logp: Array | Any  # float32 [2, pairs], of chosen and rejected responses


class PreferencePolicy(TokenPolicy):
    """A learner from pairs of responses, parametrised by its loss.

    Args:
      loss: the log-probabilities of pairs to one loss each, from `agents.core.preference_losses`.
      mismatched: also pass `loss` the log-ratios of each prompt with the next pair's chosen response.
      reward: ranks samples; None: the verifier's score ranks them.
      pairs: a data set from a file; None: the reference policy or the expert generates it.

    Raises ValueError for pairs of an expert if the task has no expert, and for fewer pairs than one step needs.
    """

    collect_only: ClassVar[None] = None  # type: ignore[assignment]  # no rollout could be timed

    def __init__(
        self,
        config: Any,
        env: Any,
        loss: Callable[[PairLogps], Float[Array, " N"]],
        reward: Reward | None = None,
        pairs: Pairs | None = None,
        *,
        mismatched: bool = False,
    ):
        super().__init__(config, env, reward=reward)
        self.loss = loss
        self.mismatched = mismatched
        require(
            (pairs is None) == (config.pairs in OWN_PAIRS),
            f"pairs = {config.pairs} needs the argument pairs, which is read from the file",
        )
        require(
            config.pairs != "expert" or env.has_solutions,
            "pairs expert needs an expert, and the task has none: write its solution",
        )
        require(
            reward is None or config.pairs == "samples",
            f"a reward ranks samples, and pairs is {config.pairs}",
        )
        self.given_pairs = pairs
        self.num_pairs = config.num_pairs if pairs is None else pairs.prompts.shape[0]
        self.step_pairs = config.num_responses // 2
        require(
            self.step_pairs <= self.num_pairs,
            f"there are {self.num_pairs} pairs, and num_responses = {config.num_responses} takes {self.step_pairs} of "
            "them at a time: lower num_responses",
        )

    def init(self, key: PRNGKeyArray) -> PreferenceState:
        """Returns the first state, after imitation of the expert, with the set of pairs, which follows from the key."""
        start = self.start(key)
        pairs_key, start["key"] = jax.random.split(start["key"])
        given = self.given_pairs
        reference = start["params"]  # as yet they are the same
        pairs = self.make_pairs(reference, pairs_key) if given is None else given
        if self.config.pairs == "samples":
            start["tokens"] = jnp.sum(pairs.lengths, dtype=jnp.int32)
        pairs = jax.tree.map(jnp.copy, pairs)  # for the driver donates the state's buffers
        logps = map_parts(
            lambda part: jnp.stack(self.sequence_logps(reference, part), axis=1),
            pairs,
            self.step_pairs,
        )
        return PreferenceState(pairs=pairs, reference_logp=logps.T, **start)

    def step(
        self, state: PreferenceState, data: None = None
    ) -> tuple[PreferenceState, dict[str, Array]]:
        """Returns the state after one gradient step, and its metrics."""
        return preference_step(self, state)

    def make_pairs(self, params: Params, key: PRNGKeyArray) -> Pairs:
        """Returns `num_pairs` pairs for fresh prompts of training."""
        prompt_key, key = jax.random.split(key)
        prompts = self.env.prompts(prompt_key, self.num_pairs)
        if self.config.pairs == "expert":
            return expert_pairs(self, prompts, key)
        config = self.config
        return sample_pairs(
            self,
            params,
            prompts,
            key,
            temperature=config.label_temperature,
            flips=config.label_flips,
            at_once=self.step_pairs,
        )

    def sequence_logps(
        self, params: Params, pairs: Pairs
    ) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """Returns sums of log-probabilities of chosen and of rejected responses, from one pass over both.

        Over the whole vocabulary: responses of a file may have tokens that top-k would leave out.
        """
        responses, lengths = pairs.responses, pairs.lengths
        batch = self.batch(pairs.prompts_twice, responses, lengths, jnp.zeros(responses.shape))
        logp = self.reference_logp(params, batch.obs, batch.action)
        chosen, rejected = jnp.split(sequence_logp(logp, batch.mask), 2)
        return chosen, rejected

    def pair_indices(self, state: PreferenceState) -> Int[Array, " n"]:
        """Returns the pairs of the present step: each epoch deals all of them in a new order, the rest left out."""
        steps = self.num_pairs // self.step_pairs
        epoch, place = jnp.divmod(state.env_steps // self.iteration_steps, steps)
        order = random_order(jax.random.fold_in(state.key, epoch), self.num_pairs)
        return jax.lax.dynamic_slice_in_dim(order, place * self.step_pairs, self.step_pairs)


def sample_pairs(
    policy: TokenPolicy,
    params: Params,
    prompts: Int[Array, "N P"],
    key: PRNGKeyArray,
    *,
    temperature: float = 0.0,
    flips: float = 0.0,
    at_once: int,
) -> Pairs:
    """Returns two responses of `params` to each prompt, ranked by what `policy` learns from: see `ranked_pairs`."""

    def part(rows: tuple[Array, Array]) -> Pairs:
        prompts, keys = rows
        first_key, second_key, label_key = jax.random.split(keys[0], 3)
        both = [policy.respond(params, prompts, k) for k in (first_key, second_key)]
        scores = jnp.stack([response_scores(policy, prompts, responses) for responses in both])
        return ranked_pairs(prompts, both[0], both[1], scores, label_key, temperature, flips)

    keys = jax.random.split(key, prompts.shape[0])
    return map_parts(part, (prompts, keys), min(at_once, prompts.shape[0]))


def response_scores(
    policy: TokenPolicy, prompts: Int[Array, "N P"], generated: Generated
) -> Float[Array, " N"]:
    """Returns what each response earns in all; NaN where a reward is not finite."""
    verified, _, broken = policy.verify(prompts, generated)
    rewards, broken, _ = training_rewards(policy.reward, prompts, generated, verified, broken)
    return jnp.where(broken, jnp.nan, jnp.sum(rewards, axis=1))


def expert_pairs(policy: TokenPolicy, prompts: Int[Array, "N P"], key: PRNGKeyArray) -> Pairs:
    """Returns the expert's response to each prompt against itself with one token changed.

    Where the changed one is right too, by the verifier, the weight is 0.
    """
    env = policy.env
    chosen = env.solutions(prompts)
    lengths = solution_lengths(chosen, policy.env.stop)
    rejected, can = corrupted(key, chosen, lengths, env.vocabulary_size, env.stop)
    trains = can & ~env.score(prompts, rejected, lengths)[1]
    return Pairs(prompts, chosen, rejected, lengths, lengths, trains.astype(jnp.float32))


def weighted_mean(x: Float[Array, " N"], weight: Float[Array, " N"]) -> Float[Array, ""]:
    """Returns the mean by weight, 0 where all weights are 0; entries of weight 0 may hold anything."""
    total = jnp.sum(jnp.where(weight > 0, weight * x, 0.0))
    return total / jnp.where(jnp.any(weight > 0), jnp.sum(weight), 1.0)


def preference_step(
    learner: PreferencePolicy, state: PreferenceState
) -> tuple[PreferenceState, dict[str, Array]]:
    """Returns the state after one gradient step on the pairs that are due, and its metrics."""
    config = learner.config
    index = learner.pair_indices(state)
    pairs = jax.tree.map(lambda x: x[index], state.pairs)
    reference = state.reference_logp[:, index]
    rest = _mismatched_ratio(learner, state, pairs) if learner.mismatched else None

    def objective(params: Params) -> tuple[Array, tuple[Array, Array, PairLogps]]:
        chosen, rejected = learner.sequence_logps(params, pairs)
        logps = PairLogps(
            chosen,
            rejected,
            reference[0],
            reference[1],
            pairs.chosen_length,
            pairs.rejected_length,
            pairs.weight,
            rest,
        )
        preference = weighted_mean(learner.loss(logps), pairs.weight)
        imitation = -weighted_mean(logps.chosen_mean, pairs.weight)
        return preference + config.sft_weight * imitation, (preference, imitation, logps)

    grads, (preference, imitation, logps) = jax.grad(objective, has_aux=True)(state.params)
    rate = learner.learning_rate(state.env_steps)
    params, opt_state = optimisers.descend(
        state.params, state.opt_state, grads, learner.optimizer, rate
    )
    trains = pairs.weight > 0
    measured = preference_metrics(
        logps.chosen, logps.rejected, logps.chosen_ref, logps.rejected_ref, config.beta, trains
    )
    metrics = {
        "loss/preference": preference,
        "loss/imitation": imitation,
        "rewards/chosen": measured.reward_chosen,
        "rewards/rejected": measured.reward_rejected,
        "rewards/margin": measured.margin,
        "rewards/accuracy": measured.accuracy,
        "logps/chosen": measured.logp_chosen,
        "logps/rejected": measured.logp_rejected,
        "frac_pairs": jnp.mean(trains.astype(jnp.float32)),
        "grad_norm": optax.tree.norm(grads),
        "learning_rate": rate,
    }
    steps = state.env_steps + learner.iteration_steps
    return dataclasses.replace(state, params=params, opt_state=opt_state, env_steps=steps), metrics


def _mismatched_ratio(
    learner: PreferencePolicy, state: PreferenceState, pairs: Pairs
) -> Float[Array, " N"]:
    """Returns log-ratios of each prompt with the next pair's chosen response, by policy and reference."""
    shifted = pairs._replace(
        chosen=jnp.roll(pairs.chosen, -1, axis=0), chosen_length=jnp.roll(pairs.chosen_length, -1)
    )
    policy, _ = learner.sequence_logps(state.params, shifted)
    kept = lora.reference(learner.model_config, state.params, state.reference)
    reference, _ = learner.sequence_logps(kept, shifted)
    return policy - reference
