"""Parallel Q-network: Q-learning without replay buffer and target network. Gallici et al. 2024, "Simplifying Deep
Temporal Difference Learning", https://arxiv.org/abs/2407.04811

    R_t = r_t + gamma [lambda R_{t+1} + (1 - lambda) max_a Q(s_{t+1}, a)]     Peng's Q(lambda), their eq. of algorithm 1
    J_Q = E[(Q(s_t, a_t) - R_t)^2 / 2]

Many environments under epsilon-greedy policies give fresh data, normalisation inside the network keeps it stable.
Actions and their discretisation are those of `q_values`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from agents import optimisers, schedules
from agents.algorithm import Evaluate, Params
from agents.batch import Batch, Evaluation, Targets, flatten_time
from agents.core import returns, value_losses
from agents.networks import Functional
from agents.on_policy import OnPolicy, OnPolicyConfig, OnPolicyState, Policy
from agents.q_values import (
    ActionGrid,
    QNetwork,
    epsilon_greedy,
    greedy,
    require_bins,
    value_of,
)
from agents.settings import require
from agents.spaces import num_inputs, require_bounds
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class PQNConfig(OnPolicyConfig):
    """Settings of `PQN`."""

    num_envs: int = 32
    """number of parallel environments"""
    num_steps: int = 32
    """steps of each environment per iteration"""
    num_epochs: int = 4
    """epochs over the data of a rollout"""
    num_minibatches: int = 8
    """minibatches per epoch, one gradient step each"""
    learning_rate: float = 1e-3
    """initial learning rate of RAdam"""
    q_lambda: float = 0.65
    """trace decay of the returns"""
    max_grad_norm: float | None = 10.0
    """largest norm of the gradient, which is clipped to it; None: no clipping"""
    epsilon_end: float = 0.05
    """final epsilon, the share of random actions, drawn independently for each joint; it falls from 1"""
    epsilon_fraction: float = 0.2
    """share of the run over which epsilon falls"""
    normalize_observations: bool = False
    """normalise observations by running mean and variance"""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """units of each hidden layer"""
    activation: Literal["tanh", "relu", "elu", "swish"] = "relu"
    """activation of the hidden layers"""
    bins: int = 3
    """number of values per joint, for continuous actions"""
    bin_span: float = 1.0
    """share of the action range that the values cover, around its centre"""

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
    """PQN of control: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = PQNConfig

    def __init__(self, config: PQNConfig, env: Env):
        super().__init__(config, env, epsilon_greedy_q(config, env))
        require_bounds(type(self).__name__, env)
        # The learning rate is applied in `update`.
        self.optimizer = optimisers.clipped(optax.scale_by_radam(), config.max_grad_norm)

    def init(self, key: PRNGKeyArray) -> OnPolicyState:
        """Returns the first state."""
        start = self.start(key)
        return OnPolicyState(opt_state=self.optimizer.init(start["params"]), **start)

    def step(
        self, state: OnPolicyState, data: None = None
    ) -> tuple[OnPolicyState, dict[str, Array]]:
        """Returns the state after one iteration: a rollout, its lambda-returns, an update, the statistics."""
        rollout_key, key = jax.random.split(state.key)
        stream, steps, rollout_metrics = self.collect(state.actor, state.stream, rollout_key)
        batch = self.batch(state, steps)
        update_key, key = jax.random.split(key)
        learning_rate = self.learning_rate(state.env_steps)
        params, opt_state, metrics = update(
            state.params,
            state.opt_state,
            update_key,
            *flatten_time((batch, targets(batch, self.config))),
            evaluate=self.policy.evaluate,
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            config=self.config,
        )
        metrics["epsilon"] = epsilon(self.config, state.env_steps)
        state = self.finish(state, steps, params, opt_state, stream=stream, key=key)
        return state, {**rollout_metrics, **metrics, "learning_rate": learning_rate}


def epsilon_greedy_q(config: PQNConfig, env: Env) -> Policy:
    """Returns the policy made of action values: epsilon-greedy while training, greedy at its best.

    Its `value` is max_a Q(s, a), the value in its `evaluate` Q(s, a) of the action taken; its log-probs and entropies
    are 0 and of no use.
    """
    choices = ActionGrid(env.action_space, config.bins, config.bin_span)
    network = Functional(
        lambda rngs: QNetwork(
            num_inputs(env.observation_space),
            choices,
            config.hidden_sizes,
            activation=config.activation,
            layer_norm=True,
            rngs=rngs,
        )
    )

    def q(params: Params, obs: Array) -> Float[Array, "*batch D K"]:
        return network.module(params)(obs)

    def act(
        params: Params, obs: Array, env_steps: Array, key: PRNGKeyArray
    ) -> tuple[Array, Float[Array, "*batch"]]:
        choice = epsilon_greedy(q(params, obs), choices, epsilon(config, env_steps), key)
        return choices.action(choice), jnp.zeros(choice.shape[:-1])

    def mode(params: Params, obs: Array) -> Array:
        return choices.action(greedy(q(params, obs)))

    def evaluate(params: Params, obs: Array, action: Array) -> Evaluation:
        value = value_of(q(params, obs), choices.choice(action))
        return Evaluation(jnp.zeros_like(value), jnp.zeros_like(value), value)

    def value(params: Params, obs: Array) -> Float[Array, "*batch"]:
        values = q(params, obs)
        return value_of(values, greedy(values))

    return Policy(network.init, act, mode, evaluate, value=value)


def epsilon(config: PQNConfig, env_steps: Array) -> Float[Array, ""]:
    """Returns the share of random actions after `env_steps`."""
    span = config.epsilon_fraction * config.total_steps
    return schedules.linear(1.0, config.epsilon_end, span, env_steps)


def targets(batch: Batch, config: PQNConfig) -> Targets:
    """Returns lambda-returns [T, N] as value targets; there is no advantage."""
    target = returns.q_lambda(
        batch.reward,
        batch.next_value,
        batch.terminated,
        batch.truncated,
        config.gamma,
        config.q_lambda,
    )
    return Targets(jnp.zeros_like(target), target)


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
    config: PQNConfig,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Epochs of minibatch gradient steps towards `targets.value`; leaves [1, N, ...].

    Args:
      evaluate: (params, obs, action) to Q(s, a) as values [1, N].
      optimizer: everything but the learning rate.
    """

    def loss(params: Params, batch: Batch, targets: Targets) -> tuple[Array, Array]:
        q = evaluate(params, batch.obs, batch.action).value
        return jnp.mean(value_losses.squared_error(q, targets.value)), jnp.mean(q)

    def gradient_step(carry, data):
        params, opt_state = carry
        (q_loss, q), grads = jax.value_and_grad(loss, has_aux=True)(params, *data)
        carry = optimisers.descend(params, opt_state, grads, optimizer, learning_rate)
        return carry, {"loss/q": q_loss, "q": q, "grad_norm": optax.tree.norm(grads)}

    (params, opt_state), metrics = optimisers.epochs(
        gradient_step,
        (params, opt_state),
        (batch, targets),
        key,
        config.num_epochs,
        config.num_minibatches,
    )
    return params, opt_state, jax.tree.map(jnp.mean, metrics)
