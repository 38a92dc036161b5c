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
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from agents import normalize, rollout
from agents.batch import Batch, Evaluation, Targets, flatten_time, minibatches, random_order
from agents.core import kl, policy_losses, returns, value_losses
from agents.networks import ACTIVATIONS, ActorCritic
from envs.base import Env

Params = Any


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    total_steps: int = 1_000_000
    """environment steps of the whole run; the learning rate's schedule ends there"""
    num_envs: int = 16
    """environments stepped side by side"""
    num_steps: int = 128
    """steps of each environment between updates"""
    num_epochs: int = 8
    """passes over the data of one rollout"""
    num_minibatches: int = 8
    """parts the data is cut into, one gradient step each"""
    learning_rate: float = 3e-4
    """Adam's step size, at first"""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """linear: falls to zero at total_steps"""
    gamma: float = 0.99
    """discount"""
    gae_lambda: float = 0.95
    """trace decay of generalised advantage estimation"""
    objective: Literal["clip", "kl"] = "clip"
    """clipped surrogate, or surrogate with an adaptive KL penalty"""
    clip_ratio: float = 0.2
    """the surrogate's clip range (clip objective)"""
    kl_coefficient: float = 1.0
    """the KL penalty's coefficient at first (kl objective)"""
    kl_target: float = 0.01
    """KL per update that the coefficient is adapted to (kl objective), in nats"""
    value_coefficient: float = 0.5
    """weight of the value loss"""
    clip_value: float | None = None
    """clip range of the value loss, in normalised returns; None: not clipped"""
    entropy_coefficient: float = 0.0
    """weight of the entropy bonus"""
    max_grad_norm: float | None = 0.5
    """gradients longer than this are shortened to it; None: never"""
    stop_kl: float | None = None
    """once an epoch ends with a KL above this, the update's remaining gradient steps are skipped; None: never"""
    whiten_advantages: bool = True
    """advantages of each minibatch to mean 0 and variance 1"""
    normalize_observations: bool = True
    """observations to mean 0 and variance 1, by running statistics"""
    normalize_returns: bool = True
    """rewards divided by the running standard deviation of the discounted return"""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """units of each hidden layer, of policy and value alike"""
    activation: Literal["tanh", "relu", "elu", "swish"] = "tanh"
    """activation of the hidden layers"""
    initial_log_std: float = 0.0
    """log standard deviation of continuous actions at first"""

    def __post_init__(self):
        positive = ("total_steps", "num_envs", "num_steps", "num_epochs", "num_minibatches")
        for name in positive:
            _require(
                getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}"
            )
        for name in ("learning_rate", "clip_ratio", "kl_target"):
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("gamma", "gae_lambda"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"{name} must be between 0 and 1, got {value}")
        for name in ("clip_value", "max_grad_norm", "stop_kl"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} must be positive or None, got {value}")
        _require(
            self.num_envs * self.num_steps % self.num_minibatches == 0,
            f"num_envs x num_steps = {self.num_envs * self.num_steps} does not divide into "
            f"num_minibatches = {self.num_minibatches}",
        )
        _require(
            all(size >= 1 for size in self.hidden_sizes),
            f"hidden_sizes must be positive, got {self.hidden_sizes}",
        )
        _require(self.activation in ACTIVATIONS, f"unknown activation {self.activation!r}")


@flax.struct.dataclass
class PPOState:
    # `| Any`: JAX rebuilds pytrees around placeholders, which a type checker at run time would refuse.
    params: Params
    opt_state: Any
    kl_coefficient: Array | Any  # [], the kl objective's beta
    obs_statistics: normalize.RunningStatistics | Any  # of raw observations
    return_statistics: normalize.RunningStatistics | Any  # of discounted returns
    stream: rollout.Stream | Any
    key: PRNGKeyArray | Any
    env_steps: Array | Any  # int32 []


class PPO:
    """Three pure functions: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = PPOConfig

    def __init__(self, config: PPOConfig, env: Env):
        space, observations = env.action_space, env.observation_space
        _require(
            isinstance(space, gymnasium.spaces.Discrete | gymnasium.spaces.Box),
            f"PPO needs a Discrete or Box action space, got {space}",
        )
        _require(
            isinstance(observations, gymnasium.spaces.Box) and len(observations.shape) == 1,
            f"PPO's network needs a flat Box observation space, got {observations}",
        )
        self.config = config
        self.env = env
        self.num_observations = int(np.prod(observations.shape or ()))
        self.iteration_steps = config.num_envs * config.num_steps
        clip = [optax.clip_by_global_norm(config.max_grad_norm)] if config.max_grad_norm else []
        # The learning rate is applied in `update`, for it is a function of the state.
        self.optimizer = optax.chain(*clip, optax.scale_by_adam(eps=1e-5))

    def init(self, key: PRNGKeyArray) -> PPOState:
        params_key, stream_key, key = jax.random.split(key, 3)
        params = nnx.state(self._network(nnx.Rngs(params_key)), nnx.Param)
        return PPOState(
            params=params,
            opt_state=self.optimizer.init(params),
            kl_coefficient=jnp.asarray(self.config.kl_coefficient, jnp.float32),
            obs_statistics=normalize.init((self.num_observations,)),
            return_statistics=normalize.init(()),
            stream=rollout.start(self.env.at(0.0), stream_key, self.config.num_envs),
            key=key,
            env_steps=jnp.zeros((), jnp.int32),
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
            config=self.config,
        )
        state = dataclasses.replace(
            state,
            params=params,
            opt_state=opt_state,
            kl_coefficient=kl.adaptive_coefficient_double_halve(
                state.kl_coefficient, metrics["kl"], self.config.kl_target
            ),
            obs_statistics=normalize.update(state.obs_statistics, steps.obs),
            return_statistics=normalize.update(state.return_statistics, steps.discounted_return),
            key=key,
            env_steps=state.env_steps + self.iteration_steps,
        )
        return state, {**rollout_metrics, **metrics, "learning_rate": learning_rate}

    def act(self, state: PPOState, obs: Array, key: PRNGKeyArray, deterministic: bool) -> Array:
        """Actions for raw observations [..., O]: the distribution's mode, or a sample."""
        dist = self.distribution(state.params, self._normalized(state, obs))
        return dist.mode() if deterministic else dist.sample(key)

    def collect(self, state: PPOState) -> tuple[PPOState, tuple[rollout.Steps, dict[str, Array]]]:
        """The rollout: `num_steps` steps of every environment with the present policy."""
        rollout_key, key = jax.random.split(state.key)

        def act(obs: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
            dist = self.distribution(state.params, self._normalized(state, obs))
            action = dist.sample(key)
            return action, dist.log_prob(action)

        env = self.env.at(state.env_steps)
        stream, steps, metrics = rollout.collect_steps(
            env, act, state.stream, rollout_key, self.config.num_steps, self.config.gamma
        )
        return dataclasses.replace(state, stream=stream, key=key), (steps, metrics)

    def batch(self, state: PPOState, steps: rollout.Steps) -> Batch:
        """What the learner sees of the steps, under the statistics that the policy acted with."""
        obs = self._normalized(state, steps.obs)
        reward = steps.reward
        if self.config.normalize_returns:
            reward = reward / _return_scale(state.return_statistics)
        return Batch(
            obs=obs,
            action=steps.action,
            logp=steps.logp,
            value=self._value(state.params, obs),
            next_value=self._value(state.params, self._normalized(state, steps.next_obs)),
            reward=reward,
            terminated=steps.terminated,
            truncated=steps.truncated,
            mask=jnp.ones_like(steps.terminated),
        )

    def estimate(self, batch: Batch) -> Targets:
        """Generalised advantages, and TD(lambda) targets for the value."""
        advantage = returns.gae(
            batch.reward,
            batch.value,
            batch.next_value,
            batch.terminated,
            batch.truncated,
            self.config.gamma,
            self.config.gae_lambda,
        )
        return Targets(advantage, advantage + batch.value)

    def evaluate(self, params: Params, obs: Array, action: Array) -> Evaluation:
        dist = self.distribution(params, obs)
        entropy = jnp.broadcast_to(dist.entropy(), obs.shape[:-1])
        return Evaluation(dist.log_prob(action), entropy, self._value(params, obs))

    def distribution(self, params: Params, obs: Array):
        return self._merge(params).distribution(obs)

    def learning_rate(self, env_steps: Array) -> Float[Array, ""]:
        if self.config.learning_rate_schedule == "constant":
            return jnp.asarray(self.config.learning_rate)
        progress = jnp.minimum(env_steps / self.config.total_steps, 1.0)
        return self.config.learning_rate * (1.0 - progress)

    def _value(self, params: Params, obs: Array) -> Array:
        return self._merge(params).value(obs)

    def _normalized(self, state: PPOState, obs: Array) -> Array:
        return (
            normalize.normalize(state.obs_statistics, obs)
            if self.config.normalize_observations
            else obs
        )

    def _network(self, rngs: nnx.Rngs) -> ActorCritic:
        return ActorCritic(
            self.num_observations,
            self.env.action_space,
            self.config.hidden_sizes,
            activation=self.config.activation,
            initial_log_std=self.config.initial_log_std,
            rngs=rngs,
        )

    def _merge(self, params: Params) -> ActorCritic:
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: self._network(nnx.Rngs(0))))
        return nnx.merge(graphdef, params)


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
    config: PPOConfig,
    distribution: Callable[[Params, Any], Any] | None = None,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Epochs of minibatch gradient steps on one batch.

    Args:
      batch, targets: leaves [T, N, ...]; minibatches split N, so what lies along T stays together.
      evaluate: (params, obs, action) to log-probs, entropies and values [T, N].
      optimizer: everything but the learning rate.
      distribution: (params, obs) to the action distribution, for the exact KL of the kl objective. None: the k3
        estimate from the batch's samples takes its place.

    Returns:
      params, opt_state, and metrics: means over all gradient steps; `kl` is KL(pi_old || pi), by k3, of the last
      epoch.
    """
    num_columns = batch.mask.shape[1]
    exact_kl = distribution if config.objective == "kl" else None
    old = _per_step(exact_kl(params, batch.obs), batch.mask.shape) if exact_kl else None

    def loss(params: Params, batch: Batch, targets: Targets, old: Any):
        new = evaluate(params, batch.obs, batch.action)
        advantage = targets.advantage
        if config.whiten_advantages:
            advantage = returns.masked_whiten(advantage, batch.mask)
        ratio = policy_losses.importance_ratio(new.logp, batch.logp)
        # Samples come from pi_old, so this is KL(pi_old || pi).
        kl_estimate = kl.k3(batch.logp, new.logp)
        if config.objective == "clip":
            policy_loss = policy_losses.clipped_surrogate(
                ratio, advantage, config.clip_ratio, config.clip_ratio
            )
        else:
            divergence = old.kl(exact_kl(params, batch.obs)) if exact_kl else kl_estimate
            policy_loss = policy_losses.kl_penalised_surrogate(
                ratio, advantage, divergence, kl_coefficient
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
        total = (
            policy_loss
            + config.value_coefficient * value_loss
            - config.entropy_coefficient * entropy
        )
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
        grads, metrics = jax.grad(loss, has_aux=True)(params, *data)
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
    last_kl = jnp.mean(metrics["kl"][-1])
    metrics = jax.tree.map(jnp.mean, metrics) | {
        "kl": last_kl,
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


def _return_scale(statistics: normalize.RunningStatistics) -> Float[Array, ""]:
    """Standard deviation of the discounted return; not below a tenth of the mean, or where all returns are alike
    rewards would be blown up without bound."""
    return jnp.maximum(normalize.std(statistics), 0.1 * jnp.abs(statistics.mean))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
