"""Group relative policy optimisation: PPO without a critic. Shao et al. 2024, sec. 4.1, https://arxiv.org/abs/2402.03300

A group is G episodes from one and the same start (one prompt, for tokens). Its mean return is the baseline:

    A_i   = (R_i - mean(R_1 .. R_G)) / std(R_1 .. R_G)       the same at every step of episode i
    J     = E_old[min(ratio A, clip(ratio, 1 - eps_low, 1 + eps_high) A) - beta KL(pi || pi_ref)]
    KL    ~ pi_ref / pi - 1 - log(pi_ref / pi)               k3: unbiased for samples of pi, never negative

That is `credit="episode"`. With "reward-to-go" a step's return-to-go is compared with the group's at the same step;
with "process" each reward with all of the group's (process supervision, sec. 4.1.3): see `agents.core.group_credit`.
The former is meant for control, where a few of the many steps of an episode decide whether a robot falls.

Choices: `scale_advantages=False` with `aggregation="token-sum-constant"` is Dr. GRPO (Liu et al. 2025,
https://arxiv.org/abs/2503.20783); `clip_high > clip_low` with "token-mean" are two parts of DAPO (Yu et al. 2025,
https://arxiv.org/abs/2503.14476); `surrogate` is GRPO's, GSPO's or CISPO's.

`update` and `agents.groups.group_targets` are what learns; they know nothing of environments or networks, and train
transformers just as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import normalize, optimisers, rollout
from agents.algorithm import Evaluate, Params
from agents.batch import Batch, Targets, require_old_logp, sum_over_parts
from agents.core import across, kl, returns
from agents.groups import episode_returns, group_starts, group_targets
from agents.grpo_settings import GRPOSettings
from agents.objectives import Objective, aggregation, kl_in_loss, named_objective
from agents.on_policy import (
    ActorState,
    OnPolicyState,
    Policy,
    PolicyConfig,
    PolicyLearner,
    actor,
    first_fields,
)
from agents.settings import require
from agents.spaces import encode
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class GRPOConfig(GRPOSettings, PolicyConfig):
    """Settings of `GRPO`."""

    num_envs: int = 64
    """number of parallel episodes per iteration"""
    num_steps: int = 1_000
    """largest number of steps per episode; the environment's own limit may be lower"""
    gamma: float = 1.0
    """discount of the returns that are compared within a group"""
    normalize_returns: bool = False
    """divide returns by their running standard deviation; useful if scale_advantages is off"""
    reference_every: int | None = None
    """iterations between updates of the reference to the current policy; None: the reference stays the initial
    policy"""

    def __post_init__(self):
        super().__post_init__()
        self.require_positive("reference_every")
        self.require_groups("num_envs", self.num_envs)


@flax.struct.dataclass
class GRPOState(OnPolicyState):
    """The state of `GRPO`. `stream` is None: each iteration starts new episodes."""

    reference: Params  # parameters of the reference policy; None if kl_coefficient is 0
    # Those of the observations when that policy became the reference; None likewise.
    reference_statistics: normalize.RunningStatistics | Any


class GRPO(PolicyLearner):
    """GRPO of control: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle.

    `iteration_steps`, and with it `env_steps`, counts every episode in full length: an upper bound, reached when all
    last to the limit. The number of steps really taken is the metric `train/env_steps_taken`.

    Args:
      policy: the network; None: `actor`.
    """

    Config: ClassVar[type] = GRPOConfig

    def __init__(self, config: GRPOConfig, env: Env, policy: Policy | None = None):
        require(
            not env.on_host,
            "GRPO starts a group of episodes from one state, and an environment on the host cannot be copied",
        )
        limit = min(config.num_steps, env.max_episode_steps)
        config = dataclasses.replace(config, num_steps=limit)
        super().__init__(config, env, policy or actor(config, env))
        self.optimizer = optimisers.adam(config.max_grad_norm)

    def init(self, key: PRNGKeyArray) -> GRPOState:
        """Returns the first state."""
        params_key, _, key = jax.random.split(key, 3)
        start = first_fields(self, params_key, key)
        return GRPOState(
            opt_state=self.optimizer.init(start["params"]),
            reference=start["params"] if self.config.kl_coefficient else None,
            reference_statistics=start["obs_statistics"] if self.config.kl_coefficient else None,
            stream=None,
            **start,
        )

    def step(self, state: GRPOState, data: None = None) -> tuple[GRPOState, dict[str, Array]]:
        """Returns the state after one iteration: groups of episodes, their advantages, an update, the statistics."""
        state = self.refresh_reference(state)
        episodes, rollout_metrics, key = self.collect(state.actor, state.key)
        batch = self.batch(state, episodes)
        targets, target_metrics = group_targets(
            batch,
            self.config.group_size,
            self.config.gamma,
            scale=self.config.scale_advantages,
            credit=self.config.credit,
        )
        update_key, key = jax.random.split(key)
        learning_rate = self.learning_rate(state.env_steps)
        remaining = self.remaining_fraction(state.env_steps)
        params, opt_state, metrics = update(
            state.params,
            state.opt_state,
            update_key,
            batch,
            targets,
            evaluate=self.policy.evaluate,
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            entropy_coefficient=self.config.entropy_weight(remaining),
            objective=objective_of(self.config, self.config.num_steps),
            config=self.config,
        )
        obs = encode(self.env.observation_space, episodes.obs)
        scores = episode_returns(episodes.reward, episodes.mask, self.config.gamma)
        state = dataclasses.replace(
            state,
            params=params,
            opt_state=opt_state,
            obs_statistics=normalize.update(state.obs_statistics, obs, episodes.mask),
            return_statistics=normalize.update(state.return_statistics, scores),
            env_steps=state.env_steps + self.iteration_steps,
            key=key,
        )
        metrics |= {**rollout_metrics, **target_metrics, "learning_rate": learning_rate}
        return state, metrics

    def refresh_reference(self, state: GRPOState) -> GRPOState:
        """Returns the state with the present policy as the reference, where that is due."""
        every = self.config.reference_every
        if not self.config.kl_coefficient or every is None:
            return state
        due = (state.env_steps // self.iteration_steps) % every == 0
        reference, statistics = jax.tree.map(
            lambda new, old: jnp.where(due, new, old),
            (state.params, state.obs_statistics),
            (state.reference, state.reference_statistics),
        )
        return dataclasses.replace(state, reference=reference, reference_statistics=statistics)

    def collect(
        self, actor: ActorState, key: PRNGKeyArray
    ) -> tuple[rollout.Episodes, dict[str, Array], PRNGKeyArray]:
        """Returns episodes in groups, metrics of the rollout, and the next key."""
        start_key, rollout_key, key = jax.random.split(key, 3)
        env = self.env.at(actor.env_steps)
        running = group_starts(env, start_key, self.config.num_envs, self.config.group_size)
        episodes, metrics = rollout.collect_episodes(
            env, self.acting(actor), running, rollout_key, self.config.num_steps
        )
        return episodes, metrics, key

    def collect_only(self, state: GRPOState) -> GRPOState:
        """Returns the state after the rollout of an iteration, with nothing learned."""
        *_, key = self.collect(state.actor, state.key)
        return dataclasses.replace(state, key=key)

    def batch(self, state: GRPOState, episodes: rollout.Episodes) -> Batch:
        """Returns the episodes as the learner sees them, under the statistics that the policy acted with."""
        obs = self.preprocess(state.obs_statistics, episodes.obs)
        ref_logp = None
        if self.config.kl_coefficient:
            # With other statistics the same network would be another policy than the one that it was.
            reference_obs = self.preprocess(state.reference_statistics, episodes.obs)
            ref_logp = self.policy.evaluate(state.reference, reference_obs, episodes.action).logp
        reward = self.scaled_reward(state, episodes.reward)
        return Batch(
            **episodes._replace(obs=obs, reward=reward)._asdict(),
            ref_logp=ref_logp,
        )


def objective_of(config: GRPOSettings, longest: int) -> Objective:
    """Returns the config's surrogate with its mean; `longest` is the constant of "token-sum-constant"."""
    return named_objective(
        config.surrogate,
        config.clip_low,
        config.clip_high,
        aggregation(config.aggregation, longest),
        config.dual_clip,
    )


def update(
    params: Params,
    opt_state: optax.OptState,
    key: PRNGKeyArray,
    batch: Batch,
    targets: Targets,
    *,
    evaluate: Evaluate,
    optimizer: optax.GradientTransformation,
    learning_rate: Float[Array, ""],
    entropy_coefficient: Float[Array, ""] | float,
    objective: Objective,
    config: GRPOSettings,
    skip_empty: bool = False,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Returns parameters after epochs of minibatch gradient steps on one batch of episodes.

    Args:
      batch, targets: leaves [T, N, ...]; one column is one episode, and stays whole. `batch.ref_logp` is needed if
        `config.kl_coefficient` is not 0, and where it is there, the KL is measured. `batch.logp` may be None where one
        gradient step is made: the old log-probs are those of its own pass. `batch.weight`, where it is there,
        multiplies the surrogate. Values are ignored.
      evaluate: (params, obs, action) to log-probs and entropies [T, N], finite also where the mask is False.
      optimizer: everything but the learning rate.
      learning_rate, entropy_coefficient: of this update; the config's are those at first, and where
        `config.entropy_coefficient` is 0 there is no bonus.
      objective: the loss of each step, and its mean, in which the KL and entropy terms take part too.
      skip_empty: a minibatch of masked steps alone changes neither parameters nor optimiser state. (Otherwise Adam's
        momentum carries them on.)

    Returns:
      params, opt_state, and metrics over unmasked steps: means over all gradient steps; `kl` is KL(pi_old || pi), by
      k3, of the last epoch; `kl_reference` is KL(pi || pi_ref), by k3.

    Raises ValueError where columns do not divide into minibatches and micro-batches, and where `ref_logp` or `logp` is
      missing.
    """
    config.require_parts(batch.mask.shape[1])
    require(
        batch.ref_logp is not None or not config.kl_coefficient,
        f"kl_coefficient = {config.kl_coefficient} needs batch.ref_logp, which is None",
    )
    require_old_logp(batch, config.num_epochs * config.num_minibatches)

    loss = _loss(evaluate, objective, config, entropy_coefficient)

    def gradient_step(carry, data):
        params, opt_state = carry
        (total, (denominator, steps, metrics)), grads = sum_over_parts(
            lambda part: jax.value_and_grad(loss, has_aux=True)(params, *part),
            data,
            config.micro_batches,
        )
        sums = across.total((total, denominator, steps, metrics, grads))
        total, denominator, steps, metrics, grads = sums
        empty = steps == 0
        # An empty minibatch has sums and denominators of 0.
        denominator, steps = jnp.maximum(denominator, 1.0), jnp.maximum(steps, 1.0)
        grads = jax.tree.map(lambda x: x / denominator, grads)
        new = optimisers.descend(params, opt_state, grads, optimizer, learning_rate)
        metrics = {name: x / steps for name, x in metrics.items()}
        metrics |= {"loss/policy": total / denominator, "grad_norm": optax.tree.norm(grads)}
        if skip_empty:
            new = jax.tree.map(partial(jnp.where, empty), carry, new)
        return new, (metrics, ~empty)

    (params, opt_state), (metrics, taken) = optimisers.epochs(
        gradient_step,
        (params, opt_state),
        (batch, targets),
        key,
        config.num_epochs,
        config.num_minibatches,
    )

    def mean(x: Array, taken: Array) -> Array:
        return returns.masked_mean(x, taken) if skip_empty else jnp.mean(x)

    last = {"kl": mean(metrics["kl"][-1], taken[-1])}
    return params, opt_state, {name: mean(x, taken) for name, x in metrics.items()} | last


def _loss(
    evaluate: Evaluate,
    objective: Objective,
    config: GRPOSettings,
    entropy_coefficient: Float[Array, ""] | float,
) -> Callable[..., tuple[Array, tuple[Array, Array, dict[str, Array]]]]:
    """Returns the loss of a part of a minibatch: (params, batch, targets) to sums, which add up over its parts.

    These are the loss, and (its denominator, the number of steps, metrics).
    """

    def loss(params: Params, batch: Batch, targets: Targets):
        new = evaluate(params, batch.obs, batch.action)
        old_logp = jax.lax.stop_gradient(new.logp) if batch.logp is None else batch.logp
        each = objective.surrogate(new.logp, old_logp, targets.advantage, batch.mask)
        if batch.weight is not None:
            each *= batch.weight
        # Samples come from pi_old, so this is KL(pi_old || pi).
        measured = {"kl": kl.k3(old_logp, new.logp), "entropy": new.entropy}
        measured |= objective.measure(new.logp, old_logp, batch.mask)
        if batch.ref_logp is not None:
            measured["kl_reference"] = kl.k3(new.logp, batch.ref_logp)
        if config.kl_coefficient and batch.ref_logp is not None:
            each += config.kl_coefficient * kl_in_loss(
                config.kl_estimator, new.logp, batch.ref_logp, old_logp
            )
        if config.entropy_coefficient:
            each -= entropy_coefficient * new.entropy
        total, denominator = objective.aggregate(each, batch.mask)
        metrics = {name: returns.masked_mean(x, batch.mask) for name, x in measured.items()}
        steps = jnp.sum(batch.mask).astype(total.dtype)
        return total, (denominator, steps, jax.tree.map(lambda x: steps * x, metrics))

    return loss
