"""Trust region policy optimisation. Schulman et al. 2015, https://arxiv.org/abs/1502.05477

    maximise   L(theta) = E_old[ratio A],  ratio = pi_theta(a|s) / pi_old(a|s)
    subject to E_old[KL(pi_old || pi_theta)] <= delta

PPO turns the constraint into a clip or a penalty; here it is kept, at every update.

| symbol | meaning | here |
|---|---|---|
| theta | the policy's parameters, those of the critic apart | `params["actor"]` |
| A | generalised advantages, whitened over the whole batch | `targets.advantage` |
| L | surrogate objective; with an `entropy_coefficient`, plus that times the mean entropy | minus `loss` |
| g | gradient of L at theta_old | `gradient` |
| F | Fisher matrix: Hessian of the mean KL at theta_old (plus damping); never formed, only multiplied | `product` |
| x | natural gradient, F x = g, by conjugate gradient | `direction` |
| delta | bound on the mean KL | `max_kl` |
| beta | sqrt(2 delta / x^T F x): the step at which the quadratic model of the KL reaches delta | `natural_step_size` |
| alpha^j | share of the step that the line search takes: the first that raises L with KL <= delta | `search.fraction` |

Whatever the data, an update does the same work: all loops have fixed lengths, nothing branches.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from agents import optimisers, schedules
from agents.algorithm import Distribution, Params, Value
from agents.batch import Batch, Targets, flatten_time, random_order
from agents.core import natural_gradient, returns, surrogates, value_losses
from agents.on_policy import (
    OnPolicy,
    OnPolicyState,
    Policy,
    PolicyConfig,
    actor_critic,
    gae_targets,
)
from agents.settings import require
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class TRPOConfig(PolicyConfig):
    """Settings of `TRPO`."""

    learning_rate: float = 1e-3
    """initial learning rate of Adam for the value function; max_kl determines the policy's step"""
    learning_rate_schedule: Literal["linear", "constant"] = "constant"
    """linear: falls to zero at total_steps"""
    gae_lambda: float = 0.95
    """trace decay of generalised advantage estimation"""
    max_kl: float = 0.01
    """initial bound on the mean KL(old || new) of each update, in nats"""
    max_kl_schedule: Literal["linear", "constant"] = "constant"
    """linear: falls to zero at total_steps, as learning rates do; the paper's is constant"""
    damping: float = 0.1
    """multiple of the identity that is added to the Fisher matrix"""
    fisher_fraction: float = 1.0
    """share of the steps from which the Fisher matrix is estimated, resampled at each update. The paper uses 0.1 of
    50,000; with a few thousand steps, use all"""
    cg_iterations: int = 10
    """Fisher-vector products of the conjugate gradient"""
    line_search_trials: int = 10
    """number of step sizes that the line search tries"""
    line_search_shrink: float = 0.8
    """ratio of successive step sizes of the line search"""
    value_epochs: int = 10
    """epochs of the value function over the data of a rollout"""
    num_minibatches: int = 16
    """minibatches per epoch, one gradient step each"""
    entropy_coefficient: float = 0.0
    """weight of an entropy bonus in the surrogate; the paper has none. A natural gradient step shrinks standard
    deviations as easily as it moves means: without a bonus, exploration may end early"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one(
            "cg_iterations", "line_search_trials", "value_epochs", "num_minibatches"
        )
        self.require_positive("max_kl", "fisher_fraction")
        self.require_not_negative("entropy_coefficient")
        self.require_share("gae_lambda", "fisher_fraction")
        require(self.damping >= 0, f"damping must not be negative, got {self.damping}")
        require(
            0 < self.line_search_shrink < 1,
            f"line_search_shrink must lie between 0 and 1, got {self.line_search_shrink}",
        )
        require(
            self.num_envs * self.num_steps % self.num_minibatches == 0,
            f"num_envs x num_steps = {self.num_envs * self.num_steps} does not divide into "
            f"num_minibatches = {self.num_minibatches}",
        )


class TRPO(OnPolicy):
    """TRPO of control: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle.

    Args:
      policy: the networks; None: `actor_critic`. Its parameters are a mapping with entries `actor` and `critic`.
    """

    Config: ClassVar[type] = TRPOConfig

    def __init__(self, config: TRPOConfig, env: Env, policy: Policy | None = None):
        policy = policy or actor_critic(config, env)
        require(
            policy.distribution is not None and policy.value is not None,
            "TRPO needs a policy with a distribution and a value",
        )
        super().__init__(config, env, policy)
        self.optimizer = optimisers.adam(config.max_grad_norm)

    def init(self, key: PRNGKeyArray) -> OnPolicyState:
        """Returns the first state; its `opt_state` is of the value function alone."""
        start = self.start(key)
        return OnPolicyState(opt_state=self.optimizer.init(start["params"]["critic"]), **start)

    def step(
        self, state: OnPolicyState, data: None = None
    ) -> tuple[OnPolicyState, dict[str, Array]]:
        """Returns the state after one iteration: a rollout, its targets, an update, the statistics."""
        rollout_key, key = jax.random.split(state.key)
        stream, steps, rollout_metrics = self.collect(state.actor, state.stream, rollout_key)
        batch = self.batch(state, steps)
        update_key, key = jax.random.split(key)
        learning_rate, max_kl = self.learning_rate(state.env_steps), self.max_kl(state.env_steps)
        params, opt_state, metrics = update(
            state.params,
            state.opt_state,
            update_key,
            *flatten_time((batch, targets(batch, self.config))),
            distribution=self.policy.distribution,
            value=self.policy.value,
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            max_kl=max_kl,
            config=self.config,
        )
        state = self.finish(state, steps, params, opt_state, stream=stream, key=key)
        metrics |= {"learning_rate": learning_rate, "max_kl": max_kl}
        return state, {**rollout_metrics, **metrics}

    def max_kl(self, env_steps: Array) -> Float[Array, ""]:
        """Returns the bound on the KL divergence of an update, in nats."""
        config = self.config
        return schedules.decayed(
            config.max_kl, config.max_kl_schedule, env_steps, config.total_steps
        )


def targets(batch: Batch, config: TRPOConfig) -> Targets:
    """Returns generalised advantages, and TD(lambda) targets for the value, [T, N] both."""
    return gae_targets(batch, config.gamma, config.gae_lambda)


def update(
    params: Params,
    opt_state: optax.OptState,
    key: PRNGKeyArray,
    batch: Batch,
    targets: Targets,
    *,
    distribution: Distribution,
    value: Value,
    optimizer: optax.GradientTransformation,
    learning_rate: Float[Array, ""],
    max_kl: Float[Array, ""],
    config: TRPOConfig,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Takes one natural gradient step of the policy, then epochs of minibatch gradient steps of the value function.

    Args:
      params: a mapping whose entries `actor` and `critic` share no parameters.
      opt_state: the optimiser's state for `params["critic"]`.
      batch, targets: leaves [T, N, ...]; subsamples and minibatches split N.
      distribution: (params, obs) to the action distribution; uses only `params["actor"]`.
      value: (params, obs) to values [T, N]; uses only `params["critic"]`.
      optimizer: the optimiser of the value function, without its learning rate.

    Returns:
      params, opt_state, and metrics: `kl` is KL(pi_old || pi) after the step, at most `max_kl` up to rounding;
      `line_search_fraction` is the share of the full step that was taken, 0 if `line_search_success` is 0;
      `expected_improvement` is the surrogate's first-order improvement by the full step, `improvement` the actual one.
    """
    policy_key, value_key = jax.random.split(key)
    actor, policy_metrics = natural_step(
        params,
        policy_key,
        batch,
        targets.advantage,
        distribution=distribution,
        max_kl=max_kl,
        config=config,
    )
    critic, opt_state, value_metrics = fit_values(
        params,
        opt_state,
        value_key,
        batch,
        targets.value,
        value=value,
        optimizer=optimizer,
        learning_rate=learning_rate,
        config=config,
    )
    params = _with(params, actor=actor, critic=critic)
    return params, opt_state, policy_metrics | value_metrics


def natural_step(
    params: Params,
    key: PRNGKeyArray,
    batch: Batch,
    advantage: Float[Array, "T N"],
    *,
    distribution: Distribution,
    max_kl: Float[Array, ""],
    config: TRPOConfig,
) -> tuple[Params, dict[str, Array]]:
    """Returns the actor's new parameters and metrics.

    The old parameters if no trial of the line search is better and within the bound.
    """
    advantage = returns.masked_whiten(advantage, batch.mask)
    old = distribution(params, batch.obs)

    def loss_and_kl(actor: Params) -> tuple[Array, Array]:
        new = distribution(_with(params, actor=actor), batch.obs)
        logp = new.log_prob(batch.action)
        loss = surrogates.unclipped(logp, batch.logp, advantage, batch.mask)
        loss = returns.masked_mean(loss, batch.mask)
        loss -= config.entropy_coefficient * mean_entropy(new, batch.mask)
        return loss, returns.masked_mean(old.kl(new), batch.mask)

    num_columns = batch.mask.shape[1]
    columns = random_order(key, num_columns)
    columns = columns[: max(1, round(config.fisher_fraction * num_columns))]
    sample_obs, sample_mask = jax.tree.map(lambda x: x[:, columns], (batch.obs, batch.mask))
    sample_old = distribution(params, sample_obs)

    def sample_kl(actor: Params) -> Float[Array, ""]:
        new = distribution(_with(params, actor=actor), sample_obs)
        return returns.masked_mean(sample_old.kl(new), sample_mask)

    actor = params["actor"]
    old_loss, loss_gradient = jax.value_and_grad(lambda actor: loss_and_kl(actor)[0])(actor)
    gradient = jax.tree.map(jnp.negative, loss_gradient)
    product = natural_gradient.fisher_vector_product(sample_kl, actor, config.damping)
    direction, residual = natural_gradient.conjugate_gradient(
        product, gradient, config.cg_iterations
    )
    size = natural_gradient.natural_step_size(direction, product(direction), max_kl)
    step = jax.tree.map(lambda x: size * x, direction)
    search = natural_gradient.backtracking_line_search(
        loss_and_kl,
        actor,
        step,
        max_kl,
        config.line_search_trials,
        config.line_search_shrink,
    )
    loss, kl = loss_and_kl(search.params)
    return search.params, {
        "loss/policy": loss,
        "kl": kl,
        "improvement": old_loss - loss,
        "expected_improvement": optax.tree.vdot(gradient, step),
        "line_search_fraction": search.fraction,
        "line_search_success": search.success.astype(jnp.float32),
        "cg_residual": optax.tree.norm(residual),
        "grad_norm": optax.tree.norm(gradient),
        "entropy": mean_entropy(old, batch.mask),
    }


def mean_entropy(policy: Any, mask: Bool[Array, "T N"]) -> Float[Array, ""]:
    """Returns the mean entropy of a distribution with parameters [T, N, ...], or with ones that all steps share."""
    return returns.masked_mean(jnp.broadcast_to(policy.entropy(), mask.shape), mask)


def fit_values(
    params: Params,
    opt_state: optax.OptState,
    key: PRNGKeyArray,
    batch: Batch,
    target: Float[Array, "T N"],
    *,
    value: Value,
    optimizer: optax.GradientTransformation,
    learning_rate: Float[Array, ""],
    config: TRPOConfig,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """The critic's new parameters, after `value_epochs` passes of minibatch regression on `target`."""

    def loss(critic: Params, obs: Any, target: Array, mask: Array) -> Float[Array, ""]:
        error = value_losses.squared_error(value(_with(params, critic=critic), obs), target)
        return returns.masked_mean(error, mask)

    def gradient_step(carry, data):
        critic, opt_state = carry
        error, grads = jax.value_and_grad(loss)(critic, *data)
        return optimisers.descend(critic, opt_state, grads, optimizer, learning_rate), error

    (critic, opt_state), error = optimisers.epochs(
        gradient_step,
        (params["critic"], opt_state),
        (batch.obs, target, batch.mask),
        key,
        config.value_epochs,
        config.num_minibatches,
    )
    return (
        critic,
        opt_state,
        {
            "loss/value": jnp.mean(error),
            "explained_variance": value_losses.explained_variance(batch.value, target, batch.mask),
        },
    )


def _with(params: Params, **parts: Params) -> Params:
    """`params` with the entries `parts` in place of its own."""
    # Through the leaves: Flax's nested states would not come back as the same pytree.
    return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves({**params, **parts}))
