"""IMPALA: an actor-critic whose data another policy collected. Espeholt et al. 2018, https://arxiv.org/abs/1802.01561

Actors go on while the learner learns, so the policy mu that collected a rollout is some updates behind the policy pi
that learns from it. V-trace weights each step by ratio_t = pi(a_t|s_t) / mu(a_t|s_t), bounded (`agents.core.returns`):

    vs_t   = V(s_t) + delta_t + gamma c_t (vs_{t+1} - V(s_{t+1}))         the value's target
    A_t    = min(rho_bar, ratio_t) (r_t + gamma vs_{t+1} - V(s_t))
    grad J = E[A_t grad log pi(a_t|s_t)] + c grad H(pi(.|s_t))

Targets are made anew for each gradient step, by the parameters of the moment: so the weights also make up for what
the policy has moved since the first gradient step on a rollout, and parts of it, or passes over it, may follow.

Without actors the learner is its own: a rollout is collected by the parameters before the last update (`pipelined`),
as if it had been collected while that update ran.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import optimisers, rollout
from agents.algorithm import ActorState, Evaluate, Params, Value
from agents.batch import Batch
from agents.core import across, kl, policy_losses, returns, value_losses
from agents.on_policy import (
    OnPolicy,
    OnPolicyState,
    Policy,
    PolicyConfig,
    actor_critic,
)
from agents.settings import EntropySettings, require
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class VTraceSettings(EntropySettings):
    """Settings of `update`."""

    gamma: float = 0.99
    """discount"""
    num_epochs: int = 1
    """passes over the data of one rollout"""
    num_minibatches: int = 1
    """parts the environments of a rollout are dealt into, one gradient step each"""
    rho_bar: float = 1.0
    """bound on the weight of a step's error and of its advantage; large: no bound"""
    c_bar: float = 1.0
    """bound on the weights by which later errors reach back"""
    trace: float = 1.0
    """trace decay, lambda: below 1 later errors count less, as in generalised advantage estimation"""
    value_coefficient: float = 0.5
    """weight of the value loss"""
    whiten_advantages: bool = False
    """advantages of each minibatch to mean 0 and variance 1"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("num_epochs", "num_minibatches")
        self.require_positive("rho_bar", "c_bar", "value_coefficient")
        self.require_share("gamma", "trace")
        require(
            self.c_bar <= self.rho_bar,
            f"c_bar must be at most rho_bar = {self.rho_bar:g}, got {self.c_bar:g}",
        )


@dataclasses.dataclass(frozen=True)
class IMPALAConfig(VTraceSettings, PolicyConfig):
    """Settings of `IMPALA`."""

    num_steps: int = 20
    """steps of each environment between updates"""
    learning_rate: float = 1e-3
    """the optimiser's step size, at first"""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """RMSProp, as in the paper, or Adam"""
    entropy_coefficient: float = 0.01
    """weight of the entropy bonus, at first"""
    pipelined: bool = True
    """rollouts are collected by the parameters before the last update; with actors they come as they come"""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.num_envs % self.num_minibatches == 0,
            f"num_envs = {self.num_envs} does not divide into num_minibatches = {self.num_minibatches}: "
            "V-trace needs the steps of an environment together",
        )


@flax.struct.dataclass
class IMPALAState(OnPolicyState):
    """The state of `IMPALA`."""

    behaviour: ActorState | Any  # collects the next rollout; None: the newest policy does


class Experience(NamedTuple):
    """A rollout as `update` learns from it: a batch with the log-probs of the policy that acted."""

    batch: Batch  # leaves [T, N, ...]
    next_obs: Any  # [T, N, ...] as the network sees them


class IMPALA(OnPolicy):
    """IMPALA of control: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle.

    Args:
      policy: the networks; None: `actor_critic`.
    """

    Config: ClassVar[type] = IMPALAConfig

    def __init__(self, config: IMPALAConfig, env: Env, policy: Policy | None = None):
        super().__init__(config, env, policy or actor_critic(config, env))
        self.optimizer = optimisers.rmsprop_or_adam(config.optimizer, config.max_grad_norm)

    def init(self, key: PRNGKeyArray) -> IMPALAState:
        """Returns the first state."""
        start = self.start(key)
        opt_state = self.optimizer.init(start["params"])
        actor = ActorState(start["params"], start["obs_statistics"], start["env_steps"])
        behaviour = actor if self.config.pipelined else None
        return IMPALAState(opt_state=opt_state, behaviour=behaviour, **start)

    def step(self, state: IMPALAState, data: None = None) -> tuple[IMPALAState, dict[str, Array]]:
        """Returns the state after one iteration: a rollout, an update, the statistics."""
        rollout_key, key = jax.random.split(state.key)
        actor = state.behaviour if self.config.pipelined else state.actor
        stream, steps, rollout_metrics = self.collect(actor, state.stream, rollout_key)
        state, metrics = self.improve(dataclasses.replace(state, stream=stream, key=key), steps)
        return state, {**rollout_metrics, **metrics}

    def improve(
        self, state: IMPALAState, steps: rollout.Steps
    ) -> tuple[IMPALAState, dict[str, Array]]:
        """Returns the state after an update on a rollout, whoever collected it, and metrics.

        Observations are preprocessed as the present policy sees them: its statistics belong to it, so that the ratio is
        that of the two policies on the raw observations.
        """
        config = self.config
        update_key, key = jax.random.split(state.key)
        learning_rate = self.learning_rate(state.env_steps)
        next_obs = self.preprocess(state.obs_statistics, steps.next_obs)
        params, opt_state, metrics = update(
            state.params,
            state.opt_state,
            update_key,
            Experience(self.batch(state, steps), next_obs),
            evaluate=self.policy.evaluate,
            value=self.policy.value,
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            entropy_coefficient=config.entropy_weight(self.remaining_fraction(state.env_steps)),
            config=config,
        )
        behaviour = state.actor if config.pipelined else None
        state = self.finish(state, steps, params, opt_state, key=key, behaviour=behaviour)
        return state, {**metrics, "learning_rate": learning_rate}


def update(
    params: Params,
    opt_state: optax.OptState,
    key: PRNGKeyArray,
    experience: Experience,
    *,
    evaluate: Evaluate,
    value: Value,
    optimizer: optax.GradientTransformation,
    learning_rate: Float[Array, ""],
    entropy_coefficient: Float[Array, ""] | float,
    config: VTraceSettings,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Returns parameters after gradient steps of policy, value and entropy on parts of a rollout.

    Args:
      experience: leaves [T, N, ...]; the parts split N.
      evaluate: (params, obs, action) to log-probs, entropies and values [T, N].
      value: (params, obs) to values [T, N].
      optimizer: everything but the learning rate.
      learning_rate, entropy_coefficient: of this update; the config's are those at first.

    Returns:
      params, opt_state, and metrics: means over the gradient steps. `kl` is KL(mu || pi), by k3; `rho` the mean ratio,
      before the bound, and `rho_cut` the share of steps at the bound.
    """
    loss = _loss(evaluate, value, config, entropy_coefficient)

    def gradient_step(carry, data):
        params, opt_state = carry
        grads, metrics = jax.grad(loss, has_aux=True)(params, data)
        grads = across.mean(grads)
        carry = optimisers.descend(params, opt_state, grads, optimizer, learning_rate)
        return carry, {**metrics, "grad_norm": optax.tree.norm(grads)}

    (params, opt_state), metrics = optimisers.epochs(
        gradient_step,
        (params, opt_state),
        experience,
        key,
        config.num_epochs,
        config.num_minibatches,
    )
    return params, opt_state, jax.tree.map(jnp.mean, metrics)


def _loss(
    evaluate: Evaluate,
    value: Value,
    config: VTraceSettings,
    entropy_coefficient: Float[Array, ""] | float,
) -> Callable[[Params, Experience], tuple[Array, dict[str, Array]]]:
    """Returns the loss of a part of a rollout: (params, experience) to (loss, metrics)."""

    def loss(params: Params, experience: Experience):
        batch, next_obs = experience
        new = evaluate(params, batch.obs, batch.action)
        ratio = policy_losses.importance_ratio(jax.lax.stop_gradient(new.logp), batch.logp)
        found = returns.vtrace(
            ratio,
            batch.reward,
            jax.lax.stop_gradient(new.value),
            jax.lax.stop_gradient(value(params, next_obs)),
            batch.terminated,
            batch.truncated,
            config.gamma,
            config.trace,
            config.rho_bar,
            config.c_bar,
            batch.mask,
        )
        advantage = found.advantage
        if config.whiten_advantages:
            weight = jnp.minimum(config.rho_bar, ratio)
            advantage = returns.masked_whiten_weighted(advantage, weight, batch.mask)
        each = {
            "loss/policy": policy_losses.policy_gradient_loss(new.logp, advantage),
            "loss/value": value_losses.squared_error(new.value, found.value),
            "entropy": new.entropy,
            "kl": kl.k3(batch.logp, new.logp),
            "rho": ratio,
            "rho_cut": (ratio >= config.rho_bar).astype(ratio.dtype),
        }
        metrics = {name: returns.masked_mean(x, batch.mask) for name, x in each.items()}
        metrics["explained_variance"] = value_losses.explained_variance(
            jax.lax.stop_gradient(new.value), found.value, batch.mask
        )
        total = (
            metrics["loss/policy"]
            + config.value_coefficient * metrics["loss/value"]
            - entropy_coefficient * metrics["entropy"]
        )
        return total, metrics

    return loss
