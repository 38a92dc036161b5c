"""Proximal policy optimisation. Schulman et al. 2017, https://arxiv.org/abs/1707.06347

From the policy gradient to PPO, as the project's source document derives it:

    grad J = E[A log-grad pi(a|s)]                                        policy gradient, baseline in A
           = E_old[ratio A log-grad pi(a|s)],  ratio = pi(a|s) / pi_old(a|s)   importance sampling: data reused
    J^PPO  = E_old[ratio A] - beta KL(pi_old || pi)                       `objective="kl"`, beta adapted
    J^PPO2 = E_old[min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)]         `objective="clip"`, the default

`update` is what learns; it knows nothing of environments or networks, and trains transformers just as well.
Implementation details: Huang et al. 2022, "The 37 implementation details of PPO".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import distributions, optimisers, rollout
from agents.algorithm import Distribution, Evaluate, Params
from agents.batch import Batch, Targets, flatten_time, require_old_logp, sum_over_parts
from agents.core import across, kl, returns, surrogates, value_losses
from agents.objectives import Objective, aggregation, clip_objective, kl_between
from agents.on_policy import (
    OnPolicy,
    OnPolicyState,
    Policy,
    PolicyConfig,
    actor_critic,
    gae_targets,
)
from agents.ppo_settings import PPOSettings
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class PPOConfig(PPOSettings, PolicyConfig):
    """Settings of `PPO`."""

    def __post_init__(self):
        super().__post_init__()
        self.require_parts("num_envs x num_steps", self.num_envs * self.num_steps)


@flax.struct.dataclass
class PPOState(OnPolicyState):
    """The state of `PPO`."""

    kl_coefficient: Array | Any  # [], the kl objective's beta


State = TypeVar("State", bound=PPOState)


class PPO(OnPolicy):
    """PPO of control: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle.

    Args:
      policy: the networks; None: `actor_critic`.
    """

    Config: ClassVar[type] = PPOConfig

    def __init__(self, config: PPOConfig, env: Env, policy: Policy | None = None):
        super().__init__(config, env, policy or actor_critic(config, env))
        self.optimizer = optimisers.adam(config.max_grad_norm)

    def init(self, key: PRNGKeyArray) -> PPOState:
        """Returns the first state."""
        start = self.start(key)
        return PPOState(
            opt_state=self.optimizer.init(start["params"]),
            kl_coefficient=jnp.asarray(self.config.kl_coefficient, jnp.float32),
            **start,
        )

    def step(self, state: PPOState, data: None = None) -> tuple[PPOState, dict[str, Array]]:
        """Returns the state after one iteration: a rollout, its targets, an update, the statistics."""
        rollout_key, key = jax.random.split(state.key)
        stream, steps, rollout_metrics = self.collect(state.actor, state.stream, rollout_key)
        state, metrics = self.improve(dataclasses.replace(state, stream=stream, key=key), steps)
        return state, {**rollout_metrics, **metrics}

    def improve(self, state: State, steps: rollout.Steps) -> tuple[State, dict[str, Array]]:
        """Returns the state after an update by the steps of a rollout, and the update's metrics."""
        batch = self.batch(state, steps)
        update_key, key = jax.random.split(state.key)
        learning_rate = self.learning_rate(state.env_steps)
        remaining = self.remaining_fraction(state.env_steps)
        params, opt_state, kl_coefficient, metrics = update_and_adapt(
            state.params,
            state.opt_state,
            update_key,
            *flatten_time((batch, targets(batch, self.config))),
            evaluate=self.policy.evaluate,
            distribution=self.policy.distribution,
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            kl_coefficient=state.kl_coefficient,
            entropy_coefficient=self.config.entropy_weight(remaining),
            config=self.config,
        )
        state = self.finish(state, steps, params, opt_state, key=key, kl_coefficient=kl_coefficient)
        return state, {**metrics, "learning_rate": learning_rate}


def targets(batch: Batch, config: Any) -> Targets:
    """Returns generalised advantages, and TD(lambda) targets for the value, [T, N] both."""
    return gae_targets(batch, config.gamma, config.gae_lambda)


def objective_of(config: PPOSettings) -> Objective:
    """Returns the clipped surrogate (eq. 7), or the unclipped one, to which the KL penalty is added (eq. 8)."""
    objective = clip_objective(
        config.clip_ratio, config.upper_clip, aggregation("token-mean"), config.dual_clip
    )
    return (
        objective
        if config.objective == "clip"
        else objective._replace(surrogate=surrogates.unclipped)
    )


def update_and_adapt(
    params: Params,
    opt_state: optax.OptState,
    key: PRNGKeyArray,
    batch: Batch,
    targets: Targets,
    *,
    evaluate: Evaluate,
    kl_coefficient: Float[Array, ""],
    config: PPOSettings,
    distribution: Distribution | None = None,
    objective: Objective | None = None,
    **update_arguments: Any,
) -> tuple[Params, optax.OptState, Float[Array, ""], dict[str, Array]]:
    """Returns params, opt_state, the KL penalty's next coefficient, and metrics, after one `update`.

    With the kl objective the metric `kl` is KL(pi_old || pi) of the final params over the whole batch, to which the
    coefficient is adapted; with the clip objective that of `update`.

    Args:
      distribution: (params, obs) to the action distribution, for the exact KL of the kl objective. None: the k3
        estimate from the batch's samples takes its place.
      objective: None: that of the config.
      update_arguments: further ones of `update`.
    """
    penalised = config.objective == "kl"
    exact = distribution if penalised else None
    new_params, opt_state, metrics = update(
        params,
        opt_state,
        key,
        batch,
        targets,
        evaluate=evaluate,
        objective=objective or objective_of(config),
        kl_coefficient=kl_coefficient if penalised else None,
        distribution=exact,
        config=config,
        **update_arguments,
    )
    if penalised:
        # In parts no larger than those of a gradient step, which are known to fit into memory.
        parts = config.num_minibatches * config.micro_batches
        metrics["kl"] = kl_between(params, new_params, batch, evaluate, exact, parts)
    kl_coefficient = kl.adaptive_coefficient_double_halve(
        kl_coefficient, metrics["kl"], config.kl_target
    )
    return new_params, opt_state, kl_coefficient, metrics


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
    config: PPOSettings,
    kl_coefficient: Float[Array, ""] | None = None,
    distribution: Distribution | None = None,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Returns parameters after epochs of minibatch gradient steps on one batch.

    Args:
      batch, targets: leaves [T, N, ...]; minibatches split N, so what lies along T stays together. `batch.logp` may be
        None where one gradient step is made, which has them itself; `batch.weight`, if any, multiplies the surrogate.
      evaluate: (params, obs, action) to log-probs, entropies and values [T, N].
      optimizer: everything but the learning rate.
      learning_rate, entropy_coefficient: of this update; the config's are those at first.
      objective: the policy's loss of each step, and its mean.
      kl_coefficient: weight of KL(pi_old || pi) in the loss; None: no such term.
      distribution: (params, obs) to the action distribution, for an exact KL in the loss; None: the k3 estimate.

    Returns:
      params, opt_state, and metrics: means over all gradient steps, except `kl`, which is KL(pi_old || pi) by k3 in the
      last epoch's gradient steps, each before its own step.
    """
    require_old_logp(batch, config.num_epochs * config.num_minibatches)
    loss = _loss(evaluate, objective, config, entropy_coefficient, kl_coefficient, distribution)
    old = None
    if distribution is not None:
        old = distributions.repeated(distribution(params, batch.obs), batch.mask.shape)

    def gradient_step(carry, data):
        params, opt_state, stopped = carry
        batch, targets, old = data
        if config.whiten_advantages:
            white = returns.masked_whiten(targets.advantage, batch.mask)
            targets = targets._replace(advantage=white)
        sizes = objective.sizes(batch.mask)
        grads, metrics = sum_over_parts(
            lambda part: jax.grad(loss, has_aux=True)(params, *part, sizes),
            (batch, targets, old),
            config.micro_batches,
        )
        grads, metrics = across.total((grads, metrics))
        new = optimisers.descend(params, opt_state, grads, optimizer, learning_rate)
        if config.stop_kl is not None:
            # A selection, not a branch: under vmap a branch on one seed's value is paid for by all.
            new = jax.tree.map(partial(jnp.where, stopped), (params, opt_state), new)
        return (*new, stopped), {**metrics, "grad_norm": optax.tree.norm(grads)}

    def after_epoch(carry, metrics):
        params, opt_state, stopped = carry
        if config.stop_kl is not None:
            stopped = stopped | (metrics["kl"][-1] > config.stop_kl)
        return params, opt_state, stopped

    (params, opt_state, _), metrics = optimisers.epochs(
        gradient_step,
        (params, opt_state, jnp.zeros((), bool)),
        (batch, targets, old),
        key,
        config.num_epochs,
        config.num_minibatches,
        after_epoch,
    )
    explained = value_losses.explained_variance(batch.value, targets.value, batch.mask)
    last = {"kl": jnp.mean(metrics["kl"][-1]), "explained_variance": explained}
    return params, opt_state, jax.tree.map(jnp.mean, metrics) | last


def _loss(
    evaluate: Evaluate,
    objective: Objective,
    config: PPOSettings,
    entropy_coefficient: Float[Array, ""] | float,
    kl_coefficient: Float[Array, ""] | None,
    distribution: Distribution | None,
) -> Callable[..., tuple[Array, dict[str, Array]]]:
    """Returns the loss of a part of a minibatch: (params, batch, targets, old, sizes) to (loss, metrics).

    Loss and metrics are shares of the minibatch's: they add up over its parts, and over devices. `sizes` are the
    minibatch's own.
    """

    def loss(params: Params, batch: Batch, targets: Targets, old: Any, sizes: tuple[Array, Array]):
        denominator, steps = sizes
        new = evaluate(params, batch.obs, batch.action)
        old_logp = jax.lax.stop_gradient(new.logp) if batch.logp is None else batch.logp
        # Samples come from pi_old, so k3 estimates KL(pi_old || pi).
        kl_estimate = kl.k3(old_logp, new.logp)
        policy_loss = objective.surrogate(new.logp, old_logp, targets.advantage, batch.mask)
        if batch.weight is not None:
            policy_loss *= batch.weight
        if kl_coefficient is not None:
            exact = old.kl(distribution(params, batch.obs)) if distribution else kl_estimate
            policy_loss += kl_coefficient * exact
        each = {
            "loss/value": value_losses.clipped_value_loss(
                new.value, batch.value, targets.value, config.clip_value
            ),
            "entropy": new.entropy,
            "kl": kl_estimate,
            **objective.measure(new.logp, old_logp, batch.mask),
        }
        means = {name: jnp.sum(jnp.where(batch.mask, x, 0.0)) / steps for name, x in each.items()}
        means["loss/policy"] = objective.aggregate(policy_loss, batch.mask)[0] / denominator
        total = (
            means["loss/policy"]
            + config.value_coefficient * means["loss/value"]
            - entropy_coefficient * means["entropy"]
        )
        sides = [means.get(f"clip_fraction_{side}", jnp.zeros(())) for side in ("low", "high")]
        return total, means | {"clip_fraction": sides[0] + sides[1]}

    return loss
