"""Parallel Q-network: Q-learning without replay buffer and target network. Gallici et al. 2024, "Simplifying Deep
Temporal Difference Learning", https://arxiv.org/abs/2407.04811

    R_t = r_t + gamma [lambda R_{t+1} + (1 - lambda) max_a Q(s_{t+1}, a)]     Peng's Q(lambda), their eq. of algorithm 1
    J_Q = E[(Q(s_t, a_t) - R_t)^2 / 2]

Many environments under epsilon-greedy policies give fresh data, normalisation inside the network keeps it stable.
Actions and their discretisation are those of `q_values`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import rollout
from agents.batch import Batch, Targets, flatten_time, minibatches, random_order
from agents.core import returns, value_losses
from agents.networks import Functional
from agents.on_policy import (
    OnPolicy,
    OnPolicyConfig,
    OnPolicyState,
    Params,
    State,
)
from agents.q_values import (
    Choices,
    QNetwork,
    epsilon_greedy,
    greedy,
    linear_schedule,
    require_bins,
    value_of,
)
from agents.settings import require
from agents.spaces import element, require_bounds
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class PQNConfig(OnPolicyConfig):
    num_envs: int = 32
    """environments stepped side by side"""
    num_steps: int = 32
    """steps of each environment between updates"""
    num_epochs: int = 4
    """passes over the data of one rollout"""
    num_minibatches: int = 8
    """parts the data is cut into, one gradient step each"""
    learning_rate: float = 1e-3
    """RAdam's step size, at first"""
    q_lambda: float = 0.65
    """trace decay of the returns"""
    max_grad_norm: float | None = 10.0
    """gradients longer than this are shortened to it; None: never"""
    epsilon_end: float = 0.05
    """share of random actions, of each joint for itself, in the end; it falls from 1"""
    epsilon_fraction: float = 0.2
    """share of the run in which it falls"""
    normalize_observations: bool = False
    """observations to mean 0 and variance 1, by running statistics"""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """units of each hidden layer"""
    activation: Literal["tanh", "relu", "elu", "swish"] = "relu"
    """activation of the hidden layers"""
    bins: int = 3
    """values of each joint, where actions are continuous"""
    bin_span: float = 1.0
    """share of the actions' range that these values span, about its middle"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("num_epochs", "num_minibatches")
        self.require_share("q_lambda", "epsilon_end", "epsilon_fraction")
        require_bins(self.bins, self.bin_span)
        require(
            self.num_envs * self.num_steps % self.num_minibatches == 0,
            f"num_envs x num_steps = {self.num_envs * self.num_steps} does not divide into "
            f"num_minibatches = {self.num_minibatches}",
        )


class PQN(OnPolicy):
    """Three pure functions: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = PQNConfig

    def __init__(self, config: PQNConfig, env: Env):
        super().__init__(config, env)
        require_bounds(type(self).__name__, env)
        self.choices = Choices(env.action_space, config.bins, config.bin_span)
        self.network = Functional(
            lambda rngs: QNetwork(
                self.num_inputs,
                self.choices,
                config.hidden_sizes,
                activation=config.activation,
                layer_norm=True,
                rngs=rngs,
            )
        )
        clip = [optax.clip_by_global_norm(config.max_grad_norm)] if config.max_grad_norm else []
        # The learning rate is applied in `update`.
        self.optimizer = optax.chain(*clip, optax.scale_by_radam())

    def init(self, key: PRNGKeyArray) -> OnPolicyState:
        start = self.start(key)
        return OnPolicyState(opt_state=self.optimizer.init(start["params"]), **start)

    def step(self, state: OnPolicyState) -> tuple[OnPolicyState, dict[str, Array]]:
        """One iteration: a rollout, its lambda-returns, an update."""
        state, (steps, rollout_metrics) = self.collect(state)
        batch = self.batch(state, steps)
        update_key, key = jax.random.split(state.key)
        learning_rate = self.learning_rate(state.env_steps)
        params, opt_state, metrics = update(
            state.params,
            state.opt_state,
            update_key,
            *flatten_time((batch, self.estimate(batch))),
            action_value=self.action_value,
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            config=self.config,
        )
        metrics["epsilon"] = self.epsilon(state.env_steps)
        state = self.finish(state, steps, params, opt_state, key=key)
        return state, {**rollout_metrics, **metrics, "learning_rate": learning_rate}

    def act(
        self, state: OnPolicyState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Greedy elements of the action space for raw observations [*batch, O], or epsilon-greedy ones."""
        q = self.q(state.params, self.seen(state, obs))
        choice = greedy(q) if deterministic else self._explore(state, q, key)
        return element(self.env.action_space, self.choices.action(choice))

    def collect(self, state: State) -> tuple[State, tuple[rollout.Steps, dict[str, Array]]]:
        """The rollout: `num_steps` steps of every environment with the epsilon-greedy policy."""

        def act(obs: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
            q = self.q(state.params, self.seen(state, obs))
            action = self.choices.action(self._explore(state, q, key))
            return action, jnp.zeros(action.shape[0])  # log-probs are of no use here

        return self.rollout(state, act)

    def batch(self, state: OnPolicyState, steps: rollout.Steps) -> Batch:
        """`value` and `next_value` are max_a Q."""
        obs = self.seen(state, steps.obs)
        return Batch(
            obs=obs,
            action=steps.action,
            logp=steps.logp,
            value=self._best(state.params, obs),
            next_value=self._best(state.params, self.seen(state, steps.next_obs)),
            reward=self.scaled_reward(state, steps.reward),
            terminated=steps.terminated,
            truncated=steps.truncated,
            mask=jnp.ones_like(steps.terminated),
        )

    def estimate(self, batch: Batch) -> Targets:
        """lambda-returns; there is no advantage."""
        target = returns.q_lambda(
            batch.reward,
            batch.next_value,
            batch.terminated,
            batch.truncated,
            self.config.gamma,
            self.config.q_lambda,
        )
        return Targets(jnp.zeros_like(target), target)

    def epsilon(self, env_steps: Array) -> Float[Array, ""]:
        span = self.config.epsilon_fraction * self.config.total_steps
        return linear_schedule(1.0, self.config.epsilon_end, span, env_steps)

    def _explore(self, state: OnPolicyState, q: Array, key: PRNGKeyArray) -> Array:
        return epsilon_greedy(q, self.choices, self.epsilon(state.env_steps), key)

    def q(self, params: Params, obs: Array) -> Float[Array, "*batch D K"]:
        return self.network.module(params)(obs)

    def action_value(self, params: Params, obs: Array, action: Array) -> Float[Array, "..."]:
        """Q(s, a)."""
        return value_of(self.q(params, obs), self.choices.choice(action))

    def _best(self, params: Params, obs: Array) -> Array:
        """max_a Q(s, a)."""
        q = self.q(params, obs)
        return value_of(q, greedy(q))


def update(
    params: Params,
    opt_state: optax.OptState,
    key: PRNGKeyArray,
    batch: Batch,
    targets: Targets,
    *,
    action_value: Callable[[Params, Any, Any], Array],
    optimizer: optax.GradientTransformation,
    learning_rate: Float[Array, ""],
    config: PQNConfig,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Epochs of minibatch gradient steps towards `targets.value`; leaves [1, N, ...].

    Args:
      action_value: (params, obs, action) to Q(s, a).
      optimizer: everything but the learning rate.
    """

    def loss(params: Params, batch: Batch, targets: Targets) -> tuple[Array, Array]:
        q = action_value(params, batch.obs, batch.action)
        return jnp.mean(value_losses.squared_error(q, targets.value)), jnp.mean(q)

    def gradient_step(carry, data):
        params, opt_state = carry
        (q_loss, q), grads = jax.value_and_grad(loss, has_aux=True)(params, *data)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
        return (params, opt_state), {
            "loss/q": q_loss,
            "q": q,
            "grad_norm": optax.tree.norm(grads),
        }

    def epoch(carry, key):
        order = random_order(key, batch.mask.shape[1]).reshape(config.num_minibatches, -1)
        return jax.lax.scan(gradient_step, carry, minibatches((batch, targets), order))

    keys = jax.random.split(key, config.num_epochs)
    (params, opt_state), metrics = jax.lax.scan(epoch, (params, opt_state), keys)
    return params, opt_state, jax.tree.map(jnp.mean, metrics)
