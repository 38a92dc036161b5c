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
from typing import Any, ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents.batch import (
    Batch,
    Evaluation,
    Targets,
    flatten_time,
    mean_over_parts,
    minibatches,
    random_order,
)
from agents.core import kl, policy_losses, returns, value_losses
from agents.on_policy import OnPolicy, OnPolicyState, PolicyConfig, gae_targets
from agents.settings import EntropySettings, require
from envs.base import Env

Params = Any


@dataclasses.dataclass(frozen=True)
class PPOSettings(EntropySettings):
    """What `update` goes by, whatever it is that learns."""

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
    """Three pure functions: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = PPOConfig

    def __init__(self, config: PPOConfig, env: Env):
        super().__init__(config, env)
        self.optimizer = self.adam()

    def init(self, key: PRNGKeyArray) -> PPOState:
        start = self.start(key)
        return PPOState(
            opt_state=self.optimizer.init(start["params"]),
            kl_coefficient=jnp.asarray(self.config.kl_coefficient, jnp.float32),
            **start,
        )

    def step(self, state: PPOState) -> tuple[PPOState, dict[str, Array]]:
        """One iteration: a rollout, its targets, an update; then the statistics learn of the new data."""
        state, (steps, rollout_metrics) = self.collect(state)
        batch = self.batch(state, steps)
        update_key, key = jax.random.split(state.key)
        learning_rate = self.learning_rate(state.env_steps)
        params, opt_state, metrics = update(
            state.params,
            state.opt_state,
            update_key,
            *flatten_time((batch, self.estimate(batch))),
            evaluate=self.evaluate,
            distribution=self.distribution,
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            kl_coefficient=state.kl_coefficient,
            entropy_coefficient=self.config.entropy_weight(self.left(state.env_steps)),
            config=self.config,
        )
        kl_coefficient = kl.adaptive_coefficient_double_halve(
            state.kl_coefficient, metrics["kl"], self.config.kl_target
        )
        state = self.finish(state, steps, params, opt_state, key=key, kl_coefficient=kl_coefficient)
        return state, {**rollout_metrics, **metrics, "learning_rate": learning_rate}

    def estimate(self, batch: Batch) -> Targets:
        """Generalised advantages, and TD(lambda) targets for the value."""
        return gae_targets(batch, self.config.gamma, self.config.gae_lambda)


def update(
    params: Params,
    opt_state: optax.OptState,
    key: PRNGKeyArray,
    batch: Batch,
    targets: Targets,
    *,
    evaluate: Callable[[Params, Any, Any], Evaluation],
    optimizer: optax.GradientTransformation,
    learning_rate: Float[Array, ""],
    kl_coefficient: Float[Array, ""],
    entropy_coefficient: Float[Array, ""] | float,
    config: PPOSettings,
    distribution: Callable[[Params, Any], Any] | None = None,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Epochs of minibatch gradient steps on one batch.

    Args:
      batch, targets: leaves [T, N, ...]; minibatches split N, so what lies along T stays together.
      evaluate: (params, obs, action) to log-probs, entropies and values [T, N].
      optimizer: everything but the learning rate.
      learning_rate, kl_coefficient, entropy_coefficient: of this update; the config's are those at first.
      distribution: (params, obs) to the action distribution, for the exact KL of the kl objective. None: the k3
        estimate from the batch's samples takes its place.

    Returns:
      params, opt_state, and metrics: means over all gradient steps, but for `kl`, which is KL(pi_old || pi). With the
      kl objective it is that of the final params over the whole batch, to which `kl_coefficient` is adapted; with the
      clip objective the k3 estimate as the last epoch's gradient steps find it, each before its own step.
    """
    num_columns = batch.mask.shape[1]
    exact_kl = distribution if config.objective == "kl" else None
    old = _per_step(exact_kl(params, batch.obs), batch.mask.shape) if exact_kl else None

    def divergence(params: Params, batch: Batch, old: Any, kl_estimate: Array) -> Array:
        """KL(pi_old || pi) at each step, exact if it can be."""
        return old.kl(exact_kl(params, batch.obs)) if exact_kl else kl_estimate

    def loss(params: Params, batch: Batch, targets: Targets, old: Any):
        new = evaluate(params, batch.obs, batch.action)
        advantage = targets.advantage
        ratio = policy_losses.importance_ratio(new.logp, batch.logp)
        # Samples come from pi_old, so this is KL(pi_old || pi).
        kl_estimate = kl.k3(batch.logp, new.logp)
        if config.objective == "clip":
            policy_loss = policy_losses.clipped_surrogate(
                ratio, advantage, config.clip_ratio, config.clip_ratio
            )
        else:
            penalty = divergence(params, batch, old, kl_estimate)
            policy_loss = policy_losses.kl_penalised_surrogate(
                ratio, advantage, penalty, kl_coefficient
            )
        if config.clip_value is None:
            value_loss = value_losses.squared_error(new.value, targets.value)
        else:
            value_loss = value_losses.clipped_value_loss(
                new.value, batch.value, targets.value, config.clip_value
            )
        policy_loss, value_loss, entropy, kl_estimate = (
            returns.masked_mean(x, batch.mask)
            for x in (policy_loss, value_loss, new.entropy, kl_estimate)
        )
        total = policy_loss + config.value_coefficient * value_loss - entropy_coefficient * entropy
        return total, {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "entropy": entropy,
            "kl": kl_estimate,
            "clip_fraction": policy_losses.clip_fraction(
                ratio, config.clip_ratio, config.clip_ratio, batch.mask
            ).total,
        }

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
        updates, new_opt_state = optimizer.update(grads, opt_state, params)
        new_params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
        if config.stop_kl is not None:
            new_params, new_opt_state = jax.tree.map(
                lambda new, old: jnp.where(stopped, old, new),
                (new_params, new_opt_state),
                (params, opt_state),
            )
        return (new_params, new_opt_state, stopped), {
            **metrics,
            "grad_norm": optax.tree.norm(grads),
        }

    def epoch(carry, key):
        order = random_order(key, num_columns).reshape(config.num_minibatches, -1)
        carry, metrics = jax.lax.scan(
            gradient_step, carry, minibatches((batch, targets, old), order)
        )
        params, opt_state, stopped = carry
        if config.stop_kl is not None:
            # A flag, not a branch: under vmap a branch on one seed's value is paid for by all.
            stopped = stopped | (metrics["kl"][-1] > config.stop_kl)
        return (params, opt_state, stopped), metrics

    carry = (params, opt_state, jnp.zeros((), bool))
    (params, opt_state, _), metrics = jax.lax.scan(
        epoch, carry, jax.random.split(key, config.num_epochs)
    )

    def final_kl(part):
        batch, old = part
        kl_estimate = kl.k3(batch.logp, evaluate(params, batch.obs, batch.action).logp)
        return returns.masked_mean(divergence(params, batch, old, kl_estimate), batch.mask)

    if config.objective == "kl":
        # In parts no larger than those of a gradient step, which are known to fit into memory.
        parts = config.num_minibatches * config.micro_batches
        found_kl = mean_over_parts(final_kl, (batch, old), batch.mask, parts)
    else:
        found_kl = jnp.mean(metrics["kl"][-1])
    metrics = jax.tree.map(jnp.mean, metrics) | {
        "kl": found_kl,
        "explained_variance": value_losses.explained_variance(
            batch.value, targets.value, batch.mask
        ),
    }
    return params, opt_state, metrics


def _per_step(dist: Any, shape: tuple[int, ...]) -> Any:
    """A distribution whose every parameter has the leading axes [T, N]; those shared by all steps are repeated."""
    return jax.tree.map(
        lambda x: x if x.shape[: len(shape)] == shape else jnp.broadcast_to(x, (*shape, *x.shape)),
        dist,
    )
