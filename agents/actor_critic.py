"""Advantage actor-critic, in its synchronous form (A2C). Mnih et al. 2016, https://arxiv.org/abs/1602.01783

REINFORCE with a value baseline waits for the return; the actor-critic lets the critic stand in for its tail:

    grad J = E[A_t grad log pi(a_t|s_t)] + c grad H(pi(.|s_t))            policy, and its entropy against an early end
    A_t    = r_t + gamma r_{t+1} + ... + gamma^n V(s_{t+n}) - V(s_t)      `estimator="n-step"`, the paper's
    A_t    = sum_k (gamma lambda)^k delta_{t+k}                           `estimator="gae"`, Schulman et al. 2016,
    delta  = r_t + gamma V(s_{t+1}) - V(s_t)                              https://arxiv.org/abs/1506.02438
    V      : least squares towards A_t + V(s_t)

Rollouts are short and each step of them is used once; asynchronous actors (the first A of A3C) are replaced by many
environments side by side. With one gradient step for a rollout data and policy never part. With several, each on a part
of the rollout (`num_minibatches`), the policy is a few steps ahead of the data, and steps are weighted as in Degris et
al. 2012, https://arxiv.org/abs/1205.4839: pi(a_t|s_t) / pi_old(a_t|s_t) times the gradient above, of which the first
step's ratios are 1. Without these weights deviations collapse: once the mean has moved towards good actions, these lie
nearer to it than bad ones do. Nothing but small steps keeps the policies close; see `ppo` and `trpo`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import optimisers
from agents.algorithm import Evaluate, Params
from agents.batch import Batch, Targets, flatten_time, minibatches, random_order
from agents.core import across, returns, surrogates, value_losses
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
class ActorCriticConfig(EntropySettings, PolicyConfig):
    """Settings of `A2C`."""

    num_steps: int = 8
    """steps of each environment per iteration"""
    num_minibatches: int = 1
    """minibatches per rollout, one gradient step each"""
    learning_rate: float = 1e-3
    """initial learning rate"""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """RMSProp, as in the paper, or Adam"""
    estimator: Literal["n-step", "gae"] = "n-step"
    """estimator of advantages and value targets"""
    n_step: int = 8
    """rewards before the bootstrap; fewer at the end of the rollout (n-step estimator)"""
    gae_lambda: float = 0.95
    """trace decay (gae estimator)"""
    value_coefficient: float = 0.5
    """weight of the value loss"""
    entropy_coefficient: float = 0.01
    """initial weight of the entropy bonus"""
    whiten_advantages: bool = False
    """whiten the advantages of each rollout to mean 0 and variance 1"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("n_step", "num_minibatches")
        self.require_positive("value_coefficient")
        self.require_share("gae_lambda")
        require(
            self.num_envs * self.num_steps % self.num_minibatches == 0,
            f"num_envs x num_steps = {self.num_envs * self.num_steps} does not divide into "
            f"num_minibatches = {self.num_minibatches}",
        )


class A2C(OnPolicy):
    """A2C of control: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle.

    Args:
      policy: the networks; None: `actor_critic`.
    """

    Config: ClassVar[type] = ActorCriticConfig

    def __init__(self, config: ActorCriticConfig, env: Env, policy: Policy | None = None):
        super().__init__(config, env, policy or actor_critic(config, env))
        self.optimizer = optimisers.rmsprop_or_adam(config.optimizer, config.max_grad_norm)

    def init(self, key: PRNGKeyArray) -> OnPolicyState:
        """Returns the first state."""
        start = self.start(key)
        return OnPolicyState(opt_state=self.optimizer.init(start["params"]), **start)

    def step(
        self, state: OnPolicyState, data: None = None
    ) -> tuple[OnPolicyState, dict[str, Array]]:
        """Returns the state after one iteration: a rollout, its targets, an update, the statistics."""
        rollout_key, key = jax.random.split(state.key)
        stream, steps, rollout_metrics = self.collect(state.actor, state.stream, rollout_key)
        batch = self.batch(state, steps)
        update_key, key = jax.random.split(key)
        learning_rate = self.learning_rate(state.env_steps)
        remaining = self.remaining_fraction(state.env_steps)
        params, opt_state, metrics = update(
            state.params,
            state.opt_state,
            update_key,
            *flatten_time((batch, targets(batch, self.config))),
            evaluate=self.policy.evaluate,
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            entropy_coefficient=self.config.entropy_weight(remaining),
            config=self.config,
        )
        state = self.finish(state, steps, params, opt_state, stream=stream, key=key)
        return state, {**rollout_metrics, **metrics, "learning_rate": learning_rate}


def targets(batch: Batch, config: ActorCriticConfig) -> Targets:
    """Returns advantages and value targets [T, N], by the config's estimator."""
    if config.estimator == "gae":
        return gae_targets(batch, config.gamma, config.gae_lambda)
    target = returns.n_step_returns(
        batch.reward,
        batch.next_value,
        batch.terminated,
        batch.truncated,
        config.gamma,
        config.n_step,
        batch.mask,
    )
    return Targets(target - batch.value, target)


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
    config: ActorCriticConfig,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Takes one gradient step of policy, value and entropy on each minibatch of a batch.

    Args:
      batch, targets: leaves [T, N, ...]; minibatches split N.
      evaluate: (params, obs, action) to log-probs, entropies and values [T, N].
      optimizer: the optimiser without its learning rate.
      learning_rate, entropy_coefficient: values of this update; the config has the initial values.

    Returns:
      params, opt_state, and metrics: means over the gradient steps.
    """
    explained = value_losses.explained_variance(batch.value, targets.value, batch.mask)
    if config.whiten_advantages:
        white = returns.masked_whiten(targets.advantage, batch.mask)
        targets = targets._replace(advantage=white)

    def loss(params: Params, batch: Batch, targets: Targets):
        new = evaluate(params, batch.obs, batch.action)
        policy_loss = surrogates.unclipped(new.logp, batch.logp, targets.advantage, batch.mask)
        value_loss = value_losses.squared_error(new.value, targets.value)
        policy_loss, value_loss, entropy = (
            returns.masked_mean(x, batch.mask) for x in (policy_loss, value_loss, new.entropy)
        )
        total = policy_loss + config.value_coefficient * value_loss - entropy_coefficient * entropy
        return total, {"loss/policy": policy_loss, "loss/value": value_loss, "entropy": entropy}

    def gradient_step(carry, data):
        params, opt_state = carry
        grads, metrics = jax.grad(loss, has_aux=True)(params, *data)
        grads = across.mean(grads)
        carry = optimisers.descend(params, opt_state, grads, optimizer, learning_rate)
        return carry, {**metrics, "grad_norm": optax.tree.norm(grads)}

    order = random_order(key, batch.mask.shape[1]).reshape(config.num_minibatches, -1)
    (params, opt_state), metrics = jax.lax.scan(
        gradient_step, (params, opt_state), minibatches((batch, targets), order)
    )
    metrics = jax.tree.map(jnp.mean, metrics) | {"explained_variance": explained}
    return params, opt_state, metrics
