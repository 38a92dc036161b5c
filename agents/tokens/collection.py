"""Collects a learner's responses: generated and scored, and drawn again where a group of them has no spread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from agents.batch import Batch
from agents.core import across, kl, returns, surrogates
from agents.core.reward_scores import soft_overlong_penalty
from agents.tokens import lora
from agents.tokens.generation import Generated
from agents.tokens.reward import training_rewards
from agents.tokens.rollout import (
    Params,
    TokenRollout,
    TokenState,
    align_to_steps,
    at_last_token,
    ends_with_stop,
    sequences,
)
from agents.tokens.settings import RewardShaping
from agents.tokens.turns import next_own_values

# Metrics that add up over rounds of generation; the others are means.
_COUNTS = ("train/episodes", "train/env_steps_taken", "train/nonfinite")


class Collection(NamedTuple):
    """The needs of a learner's update, from which follow the passes through networks that are made."""

    # Rounds in which groups without spread are drawn again, at most; None: one round, and all groups are kept.
    max_rounds: int | None = None
    # The update is one gradient step on-policy, and its own pass has the old log-probs.
    single_step: bool = False
    # The old log-probs come from a pass of the learner's own; False: they are the sampler's.
    old_pass: bool = True
    # The update needs the reference's log-probs.
    reference: bool = False
    # Greatest weight of a token where weights correct the sampler; None: there are no weights.
    importance_bound: float | None = None

    @property
    def has_old_pass(self) -> bool:
        """True where the learner's own log-probs are needed before the update. Weights that correct the sampler need
        them."""
        return self.importance_bound is not None or (self.old_pass and not self.single_step)


EVERYTHING_KEPT = Collection()


class Responses(NamedTuple):
    """N responses, groups contiguous; an empty row has length 0."""

    prompts: Array  # int32 [N, P]
    generated: Generated
    verified: Array  # float32 [N, R] the verifier's rewards
    rewards: Array  # float32 [N, R] those that are learnt from
    correct: Array  # bool [N], by the verifier
    ended: Array  # bool [N], by the stop token


Drawn = tuple[Responses, dict[str, Array], Array]  # responses, metrics, int32 [] tokens written


def response_metrics(responses: Responses, broken: Bool[Array, " N"]) -> dict[str, Array]:
    """Returns metrics of all responses of a round; `broken` is True for rewards that were not finite."""
    length = responses.generated.written.astype(jnp.float32)
    return {
        "train/return": jnp.mean(jnp.sum(responses.verified, axis=1)),
        "train/length": jnp.mean(length),
        "train/episodes": jnp.asarray(length.shape[0], jnp.float32),
        "train/correct": jnp.mean(responses.correct.astype(jnp.float32)),
        "train/cut": 1.0 - jnp.mean(responses.ended.astype(jnp.float32)),
        "train/env_steps_taken": jnp.sum(length),
        "train/nonfinite": jnp.sum(broken).astype(jnp.float32),
    }


def draw_responses(learner: Any, params: Params, keys: tuple[PRNGKeyArray, PRNGKeyArray]) -> Drawn:
    """Returns responses to fresh prompts and their rewards, metrics, and the number of tokens.

    Args:
      learner: a `TokenPolicy`.
      keys: of the prompts, and of the responses.
    """
    env, repeats = learner.env, learner.group_size
    prompts = env.prompts(keys[0], learner.config.num_responses // repeats)
    generated = learner.respond(params, prompts, keys[1], repeats=repeats)
    prompts = jnp.repeat(prompts, repeats, axis=0)
    verified, correct, broken = learner.verify(prompts, generated)
    rewards, broken, reward_metrics = training_rewards(
        learner.reward, prompts, generated, verified, broken
    )
    ended = ends_with_stop(generated, env.stop)
    responses = Responses(prompts, generated, verified, rewards, correct, ended)
    metrics = response_metrics(responses, broken) | reward_metrics
    return responses, metrics, jnp.sum(generated.written, dtype=jnp.int32)


def draw_groups_with_spread(
    draw: Callable[[Any], Drawn], keys: Any, group_size: int, max_rounds: int
) -> Drawn:
    """Returns as many responses as one draw has, from groups with unequal outcomes, and metrics of all responses drawn.

    Rounds of sampling fill the rows from the front until all rows are full, or `max_rounds` is reached. Empty rows have
    responses of length 0, whose steps are masked. The outcome of a response is the sum of its rewards before penalties
    for length and KL. Under `vmap` the loop continues until the rows of every seed are full; finished seeds do not
    change.

    Args:
      draw: keys to responses, metrics, number of tokens.
      keys: a pytree of keys, from which the keys of each round are derived.

    Returns:
      Responses; metrics, among them `frac_zero_std`, the share of drawn groups with equal outcomes, `train/rounds` and
      `train/groups_kept`; tokens of all rounds.

    DAPO, Yu et al. 2025, sec. 3.2. https://arxiv.org/abs/2503.14476
    """
    shapes = jax.eval_shape(draw, keys)
    empty, measured, tokens = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    size = empty.correct.shape[0]
    measured |= {"frac_zero_std": jnp.zeros(())}

    def unfinished(carry):
        rounds, filled, *_ = carry
        return (filled < size) & (rounds < max_rounds)

    def one_round(carry):
        rounds, filled, kept, measured, tokens = carry
        drawn, metrics, written = draw(jax.tree.map(lambda k: jax.random.fold_in(k, rounds), keys))
        spread = returns.groups_with_spread(jnp.sum(drawn.rewards, axis=1), group_size)
        metrics |= {"frac_zero_std": 1.0 - jnp.mean(spread.astype(jnp.float32))}
        # Beyond the last row is nowhere: of groups without spread, and of those that find no room.
        row = jnp.where(spread, filled + jnp.cumsum(spread) - 1, size)
        kept = jax.tree.map(lambda all_rows, x: all_rows.at[row].set(x, mode="drop"), kept, drawn)
        filled = jnp.minimum(filled + jnp.sum(spread, dtype=jnp.int32), size)
        return rounds + 1, filled, kept, jax.tree.map(jnp.add, measured, metrics), tokens + written

    nothing = jnp.zeros((), jnp.int32)
    start = (nothing, nothing, empty, measured, tokens)
    rounds, filled, kept, measured, tokens = jax.lax.while_loop(unfinished, one_round, start)
    metrics = {name: x if name in _COUNTS else x / rounds for name, x in measured.items()}
    metrics |= {
        "train/rounds": rounds.astype(jnp.float32),
        "train/groups_kept": filled.astype(jnp.float32) / group_size,
    }
    return kept, metrics, tokens


def of_all_devices(metrics: dict[str, Array]) -> dict[str, Array]:
    """Returns the metrics of a rollout of which each device has an equal part: counts added up, of others the mean."""

    def of_all(name: str, x: Array) -> Array:
        if name.endswith("max"):
            return across.largest(x)
        return across.total(x) if name in _COUNTS else across.mean(x)

    return {name: of_all(name, x) for name, x in metrics.items()}


def view(
    learner: Any, state: TokenState, responses: Responses
) -> tuple[TokenRollout, dict[str, Array]]:
    """Returns responses as a batch with all that the update needs to know of them, and metrics.

    Passes that nothing needs are not made. Without an old pass `batch.logp` are the sampler's log-probs; where the
    update is a single step on-policy it is None: the update's own pass has them. Without a weight of the KL there is no
    `batch.ref_logp` and no metric `kl_reference`, unless `measure_kl` asks for it.
    """
    generated, env, config = responses.generated, learner.env, learner.config
    rewards = shaped_rewards(learner.shaping, responses.rewards, generated, responses.ended)
    batch = learner.batch(responses.prompts, generated.tokens, generated.length, rewards)
    if generated.allowed is not None:
        batch.obs["allowed"] = align_to_steps(generated.allowed, env.prompt_length)
    sampled = align_to_steps(generated.logp, env.prompt_length)
    metrics = {"kl_in_reward": state.kl_in_reward}
    old_logp, value = old_view(learner, state.params, batch, sampled)
    logp, weight = sampled, None
    if learner.collection.has_old_pass:
        assert old_logp is not None
        # Evaluate the old policy with the learner's arithmetic, so that the first ratio is exactly 1.
        logp = old_logp
        difference = jnp.where(batch.mask, jnp.abs(sampled - logp), 0.0)
        metrics["logp_diff_max"] = jnp.max(difference)
    if learner.collection.importance_bound is not None:
        weight, importance = surrogates.truncated_importance_weight(
            logp, sampled, batch.mask, learner.collection.importance_bound
        )
        metrics |= {f"importance/{name}": x for name, x in importance._asdict().items()}
    penalty, reference = jnp.zeros(batch.mask.shape), None
    of_reference = lora.reference(learner.model_config, state.params, state.reference)
    if learner.collection.reference or learner.shaping.kl_in_reward or config.measure_kl:
        reference = learner.reference_logp(
            of_reference, batch.obs, batch.action, repeats=learner.group_size
        )
        penalty = jnp.where(batch.mask, kl.k1(logp, reference), 0.0)
        metrics["kl_reference"] = returns.masked_mean(kl.k3(logp, reference), batch.mask)
    if config.measure_kl:
        exact = learner.exact_kl(state.params, of_reference, batch.obs, batch.action)
        metrics["kl_exact"] = returns.masked_mean(exact, batch.mask)
    batch = batch._replace(
        logp=old_logp,
        value=value,
        next_value=next_own_values(value, batch.mask),
        reward=batch.reward - state.kl_in_reward * penalty,
        ref_logp=reference,
        weight=weight,
    )
    masks_cut = learner.shaping.cut_responses == "mask"
    loss_mask = batch.mask & responses.ended if masks_cut else batch.mask
    rollout = TokenRollout(batch, responses.correct, jnp.sum(penalty, axis=0), loss_mask, sampled)
    return rollout, metrics


def old_view(
    learner: Any, params: Params, batch: Batch, sampled: Float[Array, "T N"]
) -> tuple[Float[Array, "T N"] | None, Float[Array, "T N"]]:
    """Returns log-probs and values by the present policy; None for log-probs that the update's own pass has.

    Args:
      sampled: the sampler's log-probs, which are returned where no pass is made for them.
    """
    if learner.collection.has_old_pass:
        evaluation = learner.evaluate(params, batch.obs, batch.action, None, learner.group_size)
        return evaluation.logp, evaluation.value
    start = learner.env.prompt_length - 1
    value = learner.network.module(params).value(*sequences(batch.obs), start)
    return None if learner.collection.single_step else sampled, value.T


def shaped_rewards(
    shaping: RewardShaping,
    rewards: Float[Array, "N R"],
    generated: Generated,
    ended: Bool[Array, " N"],
) -> Float[Array, "N R"]:
    """Returns the rewards, charged for length, or replaced where responses without an end are to be penalised."""
    buffer, limit = shaping.overlong_buffer, rewards.shape[1]
    if buffer is not None:
        charge = soft_overlong_penalty(generated.length, limit, buffer)
        return rewards + at_last_token(charge, generated.length, limit)
    if shaping.cut_responses != "penalise":
        return rewards
    score = jnp.full(ended.shape, shaping.cut_score)
    penalty = at_last_token(score, generated.length, limit)
    return jnp.where(ended[:, None], rewards, penalty)
