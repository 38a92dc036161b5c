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
from typing import Any, ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import optimisers
from agents.algorithm import Distribution, Evaluate, Params
from agents.batch import Batch, Evaluation, Targets, flatten_time, mean_over_parts
from agents.core import kl, policy_losses, returns, value_losses
from agents.on_policy import (
    OnPolicy,
    OnPolicyState,
    Policy,
    PolicyConfig,
    actor_critic,
    gae_targets,
)
from agents.settings import EntropySettings, require
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class PPOSettings(EntropySettings):
    """Settings of `update`, shared by control and tokens."""

    num_epochs: int = 8
    """passes over the data of one rollout"""
    num_minibatches: int = 8
    """parts the data is cut into, one gradient step each"""
    micro_batches: int = 1
    """parts of a minibatch that pass through the network one after another: less memory, the same step"""
    gae_lambda: float = 0.95
    """trace decay of generalised advantage estimation"""
    objective: Literal["clip", "kl"] = "clip"
    """clipped surrogate, or surrogate with an adaptive KL penalty"""
    clip_ratio: float = 0.2
    """the surrogate's clip range (clip objective)"""
    kl_coefficient: float = 1.0
    """the KL penalty's coefficient at first (kl objective)"""
    kl_target: float = 0.01
    """KL(old || new) of each update that the coefficient is adapted to (kl objective), in nats"""
    value_coefficient: float = 0.5
    """weight of the value loss"""
    clip_value: float | None = None
    """clip range of the value loss, in normalised returns; None: not clipped"""
    stop_kl: float | None = None
    """an epoch is the update's last if its last minibatch, before its own gradient step, shows a KL(old || new) above
    this, by the k3 estimate; None: never"""
    whiten_advantages: bool = True
    """advantages of each minibatch to mean 0 and variance 1"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("num_epochs", "num_minibatches", "micro_batches")
        self.require_positive("clip_ratio", "kl_target", "clip_value", "stop_kl")
        self.require_not_negative("kl_coefficient", "value_coefficient")
        self.require_share("gae_lambda")

    def require_parts(self, name: str, columns: int) -> None:
        parts = self.micro_batches
        cut = f"num_minibatches = {self.num_minibatches}" + (
            f" times micro_batches = {parts}" if parts > 1 else ""
        )
        require(
            columns % (self.num_minibatches * parts) == 0,
            f"{name} = {columns} does not divide into {cut}",
        )


@dataclasses.dataclass(frozen=True)
class PPOConfig(PPOSettings, PolicyConfig):
    def __post_init__(self):
        super().__post_init__()
        self.require_parts("num_envs x num_steps", self.num_envs * self.num_steps)


@flax.struct.dataclass
class PPOState(OnPolicyState):
    kl_coefficient: Array | Any  # [], the kl objective's beta


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
        batch = self.batch(state, steps)
        update_key, key = jax.random.split(key)
        learning_rate = self.learning_rate(state.env_steps)
        left = self.remaining_fraction(state.env_steps)
        params, opt_state, metrics = update(
            state.params,
            state.opt_state,
            update_key,
            *flatten_time((batch, targets(batch, self.config))),
            evaluate=self.policy.evaluate,
            distribution=self.policy.distribution,
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            kl_coefficient=state.kl_coefficient,
            entropy_coefficient=self.config.entropy_weight(left),
            config=self.config,
        )
        kl_coefficient = kl.adaptive_coefficient_double_halve(
            state.kl_coefficient, metrics["kl"], self.config.kl_target
        )
        state = self.finish(
            state, steps, params, opt_state, stream=stream, key=key, kl_coefficient=kl_coefficient
        )
        return state, {**rollout_metrics, **metrics, "learning_rate": learning_rate}


def targets(batch: Batch, config: Any) -> Targets:
    """Returns generalised advantages, and TD(lambda) targets for the value, [T, N] both."""
    return gae_targets(batch, config.gamma, config.gae_lambda)


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
    kl_coefficient: Float[Array, ""],
    entropy_coefficient: Float[Array, ""] | float,
    config: PPOSettings,
    distribution: Distribution | None = None,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Returns parameters after epochs of minibatch gradient steps on one batch.

    Args:
      batch, targets: leaves [T, N, ...]; minibatches split N, so what lies along T stays together.
      evaluate: (params, obs, action) to log-probs, entropies and values [T, N].
      optimizer: everything but the learning rate.
      learning_rate, kl_coefficient, entropy_coefficient: of this update; the config's are those at first.
      distribution: (params, obs) to the action distribution, for the exact KL of the kl objective. None: the k3
        estimate from the batch's samples takes its place.

    Returns:
      params, opt_state, and metrics: means over all gradient steps, except `kl`, which is KL(pi_old || pi). With the
      kl objective it is that of the final params over the whole batch, to which `kl_coefficient` is adapted; with the
      clip objective the k3 estimate as the last epoch's gradient steps find it, each before its own step.
    """
    exact = distribution if config.objective == "kl" else None
    old = _per_step(exact(params, batch.obs), batch.mask.shape) if exact else None

    def loss(params: Params, batch: Batch, targets: Targets, old: Any):
        new = evaluate(params, batch.obs, batch.action)
        # Samples come from pi_old, so k3 estimates KL(pi_old || pi).
        kl_estimate = kl.k3(batch.logp, new.logp)
        penalty = old.kl(exact(params, batch.obs)) if exact else kl_estimate
        each = {
            "loss/policy": surrogate(
                new, batch, targets.advantage, penalty, kl_coefficient, config
            ),
            "loss/value": value_loss(new, batch, targets, config.clip_value),
            "entropy": new.entropy,
            "kl": kl_estimate,
        }
        means = {name: returns.masked_mean(x, batch.mask) for name, x in each.items()}
        total = (
            means["loss/policy"]
            + config.value_coefficient * means["loss/value"]
            - entropy_coefficient * means["entropy"]
        )
        return total, means | clip_fractions(new, batch, config)

    def gradient_step(carry, data):
        params, opt_state, stopped = carry
        batch, targets, old = data
        if config.whiten_advantages:
            white = returns.masked_whiten(targets.advantage, batch.mask)
            targets = targets._replace(advantage=white)
        grads, metrics = mean_over_parts(
            lambda part: jax.grad(loss, has_aux=True)(params, *part),
            (batch, targets, old),
            batch.mask,
            config.micro_batches,
        )
        new = optimisers.descend(params, opt_state, grads, optimizer, learning_rate)
        if config.stop_kl is not None:
            new = jax.tree.map(
                lambda new, old: jnp.where(stopped, old, new), new, (params, opt_state)
            )
        return (*new, stopped), {**metrics, "grad_norm": optax.tree.norm(grads)}

    def after_epoch(carry, metrics):
        if config.stop_kl is None:
            return carry
        # A flag, not a branch: under vmap a branch on one seed's value is paid for by all.
        params, opt_state, stopped = carry
        return params, opt_state, stopped | (metrics["kl"][-1] > config.stop_kl)

    (params, opt_state, _), metrics = optimisers.epochs(
        gradient_step,
        (params, opt_state, jnp.zeros((), bool)),
        (batch, targets, old),
        key,
        config.num_epochs,
        config.num_minibatches,
        after_epoch,
    )
    final_kl = jnp.mean(metrics["kl"][-1])
    if config.objective == "kl":
        final_kl = kl_after(params, batch, old, evaluate, exact, config)
    explained = value_losses.explained_variance(batch.value, targets.value, batch.mask)
    metrics = jax.tree.map(jnp.mean, metrics)
    return params, opt_state, metrics | {"kl": final_kl, "explained_variance": explained}


def surrogate(
    new: Evaluation,
    batch: Batch,
    advantage: Float[Array, "T N"],
    penalty: Float[Array, "T N"],
    kl_coefficient: Float[Array, ""],
    config: PPOSettings,
) -> Float[Array, "T N"]:
    """Returns the policy loss of each step: the clipped surrogate (eq. 7), or that with a KL penalty (eq. 8)."""
    ratio = policy_losses.importance_ratio(new.logp, batch.logp)
    if config.objective == "clip":
        low = high = config.clip_ratio
        return policy_losses.clipped_surrogate(ratio, advantage, low, high)
    return policy_losses.kl_penalised_surrogate(ratio, advantage, penalty, kl_coefficient)


def value_loss(
    new: Evaluation, batch: Batch, targets: Targets, clip_value: float | None
) -> Float[Array, "T N"]:
    """Returns the value loss of each step: squared error, clipped around the old value unless `clip_value` is None."""
    if clip_value is None:
        return value_losses.squared_error(new.value, targets.value)
    return value_losses.clipped_value_loss(new.value, batch.value, targets.value, clip_value)


def clip_fractions(new: Evaluation, batch: Batch, config: PPOSettings) -> dict[str, Array]:
    """Returns the share of steps whose ratio the clip range cuts, and on which side."""
    ratio = policy_losses.importance_ratio(new.logp, batch.logp)
    low = high = config.clip_ratio
    clipped = policy_losses.clip_fraction(ratio, low, high, batch.mask)
    return {
        "clip_fraction": clipped.total,
        "clip_fraction_low": clipped.low,
        "clip_fraction_high": clipped.high,
    }


def kl_after(
    params: Params,
    batch: Batch,
    old: Any,
    evaluate: Evaluate,
    exact: Distribution | None,
    config: PPOSettings,
) -> Float[Array, ""]:
    """Returns KL(pi_old || pi) over the whole batch, exact where the distributions are at hand.

    Computed in parts no larger than those of a gradient step, which are known to fit into memory.
    """

    def of_part(part: tuple[Batch, Any]) -> Float[Array, ""]:
        batch, old = part
        if exact:
            divergence = old.kl(exact(params, batch.obs))
        else:
            divergence = kl.k3(batch.logp, evaluate(params, batch.obs, batch.action).logp)
        return returns.masked_mean(divergence, batch.mask)

    parts = config.num_minibatches * config.micro_batches
    return mean_over_parts(of_part, (batch, old), batch.mask, parts)


def _per_step(dist: Any, shape: tuple[int, ...]) -> Any:
    """A distribution whose every parameter has the leading axes [T, N]; those shared by all steps are repeated."""
    return jax.tree.map(
        lambda x: x if x.shape[: len(shape)] == shape else jnp.broadcast_to(x, (*shape, *x.shape)),
        dist,
    )
