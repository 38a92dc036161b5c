"""REINFORCE, the Monte-Carlo policy gradient. Williams 1992, https://doi.org/10.1007/BF00992696

The derivation, in the order of the project's source document; each line is a setting. With p(tau) = p(s_0) prod_t
pi(a_t|s_t) p(s_{t+1}|s_t, a_t), and because grad p = p grad log p, in which the environment's factors vanish:

    grad J = E[R(tau) grad log p(tau)]
           = E[sum_t R(tau) grad log pi(a_t|s_t)]                 `credit="trajectory"`
           = E[sum_t G_t grad log pi(a_t|s_t)],                   `credit="reward-to-go"`: an action cannot change
                G_t = sum_{k>=t} r_k                              what was earned before it
    G_t    = sum_{k>=t} gamma^(k-t) r_k                           `gamma`: near rewards count for more
    grad J = E[sum_t (G_t - b) grad log pi(a_t|s_t)]              `baseline`: b may depend on all but the actions from
                                                                  t on, since E[grad log pi] = 0

Each line has the expectation of the one before (but the discount's: that changes the question) and less variance;
`python -m experiments.studies` measures it. Discounted reward-to-go leaves out the factor gamma^t that the gradient of
the discounted return would have, as everybody does: late states count as much as early ones. `credit="trajectory"` has
that factor.

Data are rollouts of fixed size, episodes following one another. What is called trajectory here is an episode's part
inside the rollout: what it earned before does not depend on the actions in it. Where the data end, or a time limit
cuts an episode, the tail of G_t is unknown. It is taken to be V(s') if there is a value, else the running mean of all
G_t, as in Tianshou's `PGPolicy` (https://github.com/thu-ml/tianshou); the bias of that is gamma^(steps to the cut)
of the error. Without a discount it grows without bound, unless most episodes end inside a rollout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, ScalarLike

from agents import normalize, optimisers
from agents.algorithm import Evaluate, Params
from agents.batch import Batch, Evaluation, Targets, flatten_time
from agents.core import across, policy_losses, returns, value_losses
from agents.on_policy import (
    OnPolicy,
    OnPolicyState,
    Policy,
    PolicyConfig,
    actor_critic,
)
from agents.settings import Settings, require
from envs.base import Env

# How fast the mean return-to-go follows the policy: a tenth of the way with each rollout.
_MEAN_RATE = 0.1


@dataclasses.dataclass(frozen=True)
class ReinforceSettings(Settings):
    """Settings of `targets` and `update`, shared by control and tokens."""

    gamma: float = 0.99
    """discount"""
    credit: Literal["trajectory", "reward-to-go"] = "reward-to-go"
    """weight of an action: the return of its episode in the rollout, or the reward to go"""
    baseline: Literal["none", "mean", "value"] = "value"
    """baseline: none, the mean over the other environments, or a learned state value"""
    whiten_advantages: bool = False
    """whiten the weights of each rollout to mean 0 and variance 1: an additional, slightly biased baseline and a
    scale"""

    def __post_init__(self):
        super().__post_init__()
        self.require_share("gamma")


@dataclasses.dataclass(frozen=True)
class ReinforceConfig(ReinforceSettings, PolicyConfig):
    """Settings of `Reinforce`."""

    learning_rate: float = 3e-3
    """initial learning rate of Adam"""
    value_coefficient: float = 0.5
    """weight of the value loss (value baseline)"""

    def __post_init__(self):
        super().__post_init__()
        self.require_positive("value_coefficient")
        require(
            self.baseline != "mean" or self.num_envs >= 2,
            'baseline "mean" is over the other environments: num_envs must be at least 2, got 1',
        )


@flax.struct.dataclass
class ReinforceState(OnPolicyState):
    """The state of `Reinforce`."""

    mean_return: Array | Any  # [] running mean of the return-to-go, in the environment's rewards


class Reinforce(OnPolicy):
    """REINFORCE of control: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle.

    Args:
      policy: the networks; None: `actor_critic`, whose critic learns if it is the baseline.
    """

    Config: ClassVar[type] = ReinforceConfig

    def __init__(self, config: ReinforceConfig, env: Env, policy: Policy | None = None):
        super().__init__(config, env, policy or actor_critic(config, env))
        self.optimizer = optimisers.adam(config.max_grad_norm)

    def init(self, key: PRNGKeyArray) -> ReinforceState:
        """Returns the first state."""
        start = self.start(key)
        return ReinforceState(
            opt_state=self.optimizer.init(start["params"]), mean_return=jnp.zeros(()), **start
        )

    def step(
        self, state: ReinforceState, data: None = None
    ) -> tuple[ReinforceState, dict[str, Array]]:
        """Returns the state after one iteration: a rollout, its returns, one gradient step, the statistics."""
        rollout_key, key = jax.random.split(state.key)
        stream, steps, rollout_metrics = self.collect(state.actor, state.stream, rollout_key)
        batch = self.batch(state, steps)
        scale = self.reward_scale(state)
        batch_targets = targets(batch, state.mean_return / scale, self.config)
        learning_rate = self.learning_rate(state.env_steps)
        has_value = self.config.baseline == "value"
        params, opt_state, metrics = update(
            state.params,
            state.opt_state,
            *flatten_time((batch, batch_targets)),
            evaluate=self.policy.evaluate,
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            config=self.config,
            value_coefficient=self.config.value_coefficient if has_value else None,
        )
        error = scale * across.mean(jnp.mean(batch_targets.value)) - state.mean_return
        mean_return = state.mean_return + _MEAN_RATE * error
        state = self.finish(
            state, steps, params, opt_state, stream=stream, key=key, mean_return=mean_return
        )
        return state, {**rollout_metrics, **metrics, "learning_rate": learning_rate}

    def reward_scale(self, state: ReinforceState) -> Float[Array, ""]:
        """Returns the number that the rewards of a batch were divided by."""
        normalized = self.config.normalize_returns
        return normalize.return_scale(state.return_statistics) if normalized else jnp.ones(())


def targets(batch: Batch, tail: ScalarLike, config: ReinforceSettings) -> Targets:
    """Returns the weight of each action, and the returns-to-go G_t, both [T, N].

    `Targets.value` is G_t for every kind of credit and baseline, because the running mean of all G_t is computed from
    it.

    Args:
      tail: estimate of V(s') where the end of the data or a time limit truncates an episode, if the baseline is no
        value.
    """
    has_value = config.baseline == "value"
    to_go = returns.discounted_returns(
        batch.reward,
        batch.next_value if has_value else jnp.full_like(batch.reward, tail),
        batch.terminated,
        batch.truncated,
        config.gamma,
        batch.mask,
    )
    weight, value = to_go, batch.value
    if config.credit == "trajectory":
        # The value of the first state is what predicts the whole return.
        first = _first_of_episode(batch)
        weight, value = jax.tree.map(
            lambda x: jnp.take_along_axis(x, first, axis=0), (weight, value)
        )
    if config.baseline == "mean":
        weight = weight - mean_of_other_columns(weight, batch.mask)
    if has_value:
        weight = weight - value
    return Targets(jnp.where(batch.mask, weight, 0.0), to_go)


def mean_of_other_columns(x: Float[Array, "T N"], mask: Bool[Array, "T N"]) -> Float[Array, "#T N"]:
    """Returns for each column the mean of the unmasked entries of all other columns; 0 if there are no such entries.

    The returns of a column depend on its actions. A baseline that includes them is biased: it scales the gradient by
    1 - 1 / N. Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE
    """
    total = jnp.sum(jnp.where(mask, x, 0.0), axis=0, keepdims=True)
    count = jnp.sum(mask, axis=0, keepdims=True)
    whole, steps = across.total((jnp.sum(total), jnp.sum(count)))
    return (whole - total) / jnp.maximum(steps - count, 1)


def update(
    params: Params,
    opt_state: optax.OptState,
    batch: Batch,
    targets: Targets,
    *,
    evaluate: Evaluate,
    optimizer: optax.GradientTransformation,
    learning_rate: Float[Array, ""],
    config: ReinforceSettings,
    value_coefficient: float | None = None,
    measure: Callable[[Evaluation], dict[str, Array]] | None = None,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Takes one gradient step of the policy, and of the value function if it is the baseline, on the whole batch.

    Args:
      batch, targets: leaves [T, N, ...].
      evaluate: (params, obs, action) to log-probs, entropies and values [T, N].
      optimizer: the optimiser without its learning rate.
      value_coefficient: weight of the value loss; None: no value function.
      measure: computes further metrics from the evaluation before the step; None: no further metrics.

    Returns:
      params, opt_state, metrics.
    """

    def loss(params: Params):
        new = evaluate(params, batch.obs, batch.action)
        advantage = targets.advantage
        if config.whiten_advantages:
            advantage = returns.masked_whiten(advantage, batch.mask)
        policy_loss = policy_losses.policy_gradient_loss(new.logp, advantage)
        policy_loss = returns.masked_mean(policy_loss, batch.mask)
        metrics = {
            "loss/policy": policy_loss,
            "entropy": returns.masked_mean(new.entropy, batch.mask),
            **(measure(new) if measure else {}),
        }
        if value_coefficient is None:
            return policy_loss, metrics
        value_loss = value_losses.squared_error(new.value, targets.value)
        value_loss = returns.masked_mean(value_loss, batch.mask)
        metrics["loss/value"] = value_loss
        metrics["explained_variance"] = value_losses.explained_variance(
            new.value, targets.value, batch.mask
        )
        return policy_loss + value_coefficient * value_loss, metrics

    grads, metrics = jax.grad(loss, has_aux=True)(params)
    grads = across.mean(grads)
    params, opt_state = optimisers.descend(params, opt_state, grads, optimizer, learning_rate)
    return params, opt_state, {**metrics, "grad_norm": optax.tree.norm(grads)}


def _first_of_episode(batch: Batch) -> Array:
    """Returns the row at which the episode of each entry begins, masked steps left out, int [T, N]."""
    done = (batch.terminated | batch.truncated) & batch.mask
    real = jnp.cumsum(batch.mask, axis=0)
    real_at_last_end = jax.lax.cummax(jnp.where(done, real, 0))
    before = jnp.concatenate([jnp.zeros_like(real[:1]), real_at_last_end[:-1]])
    rows = jnp.arange(real.shape[0])[:, None]
    return jax.lax.cummax(jnp.where(batch.mask & (real == before + 1), rows, 0))
