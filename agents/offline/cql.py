"""Conservative Q-learning. Kumar et al. 2020, https://arxiv.org/abs/2006.04779

    J_Q = alpha E[log sum_a exp Q(s, a) - Q(s, a_data)] + the squared TD error           eq. 4, CQL(H)

Values are pushed down where a policy would go and up where the data are, until the expected value is a lower bound.

Box actions: `sac` with that penalty on each critic; the sum over actions is estimated from samples of a uniform
distribution and of the policy at s and s', weighted by their densities (appendix F). At alpha = 0 it is `sac` on a
fixed buffer. Discrete actions: `dqn` with it, the sum exact.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from agents import dqn, replay, sac
from agents.dqn import DQNConfig, DQNParams
from agents.networks import Functional
from agents.off_policy import OffPolicyState, Update
from agents.offline.data import OfflineData
from agents.offline.learner import OfflineLearner, OfflineValueConfig
from agents.q_values import ActionGrid, QNetwork, greedy, value_of
from agents.sac import SACConfig, SACOptState, SACParams
from agents.spaces import element
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class CQLConfig(OfflineValueConfig):
    """Settings of `CQL`."""

    alpha: float = 10.0
    """weight of the penalty; 0: none"""
    num_samples: int = 10
    """actions of each of three kinds that estimate the sum over actions (Box)"""
    actor_learning_rate: float = 3e-5
    """Adam's step size of actor and temperature (Box)"""
    hidden_sizes: tuple[int, ...] = (256, 256, 256)
    """units of each hidden layer"""

    def __post_init__(self):
        super().__post_init__()
        self.require_not_negative("alpha")
        self.require_at_least_one("num_samples")
        self.require_positive("actor_learning_rate")


class CQL(OfflineLearner):
    """Conservative Q-learning: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = CQLConfig

    def __init__(self, config: CQLConfig, env: Env):
        super().__init__(config, env, (gymnasium.spaces.Box, gymnasium.spaces.Discrete))
        self.sac = SACConfig(
            tau=config.tau, hidden_sizes=config.hidden_sizes, activation=config.activation
        )
        self.networks = sac.make_networks(self.num_inputs, self.num_actions, self.sac)
        self.optimizer, self.actor_optimizer = self.adam(), self.adam(config.actor_learning_rate)
        self.choices = ActionGrid(env.action_space, 2)
        self.q_network = Functional(
            lambda r: QNetwork(
                self.num_inputs,
                self.choices,
                config.hidden_sizes,
                activation=config.activation,
                rngs=r,
            )
        )
        self.dqn = DQNConfig(tau=config.tau, target_update="soft")

    @property
    def update(self) -> Update:
        """The gradient step of `sac`, or of `dqn` where actions are Discrete, with the penalty."""
        alpha = self.config.alpha
        if self.discrete:
            return functools.partial(
                dqn.update,
                network=self.q_network,
                choices=self.choices,
                optimizer=self.optimizer,
                config=self.dqn,
                penalty=functools.partial(discrete_penalty, alpha=alpha) if alpha else None,
            )
        penalty = functools.partial(
            conservative_penalty,
            networks=self.networks,
            alpha=alpha,
            num_samples=self.config.num_samples,
        )
        return functools.partial(
            sac.update,
            networks=self.networks,
            optimizer=self.optimizer,
            actor_optimizer=self.actor_optimizer,
            target_entropy=-float(self.num_actions),
            config=self.sac,
            penalty=penalty if alpha else None,
        )

    def init(self, key: PRNGKeyArray) -> OffPolicyState:
        """Returns the first state."""
        actor_key, critic_key, key = jax.random.split(key, 3)
        if self.discrete:
            online = self.q_network.init(critic_key)
            return self.begin(key, DQNParams(online, online), self.optimizer.init(online))
        params = sac.first_params(actor_key, critic_key, self.networks, self.sac)
        opt_state = SACOptState(
            self.actor_optimizer.init(params.actor),
            self.optimizer.init(params.critics),
            self.actor_optimizer.init(params.log_alpha),
        )
        return self.begin(key, params, opt_state)

    def step(
        self, state: OffPolicyState, data: OfflineData | None = None
    ) -> tuple[OffPolicyState, dict[str, Array]]:
        """Returns the state after the gradient steps of an iteration. Raises ValueError without data."""
        return self.run(state, data, self.update, gamma=self.config.gamma)

    def act(
        self, state: OffPolicyState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Elements of the action space for raw observations [*batch, O]: the best by the values, or by the policy,
        of which there may be a sample."""
        seen = self.preprocess(state, obs)
        if self.discrete:
            q = self.q_network.module(state.params.online)(seen)
            return element(self.env.action_space, self.choices.action(greedy(q)))
        policy = self.networks.actor.module(state.params.actor)(seen)
        raw = policy.mode() if deterministic else policy.sample(key)
        return element(self.env.action_space, raw)


def discrete_penalty(
    q: Float[Array, "B D K"], choice: Int[Array, "B D"], *, alpha: float
) -> Float[Array, ""]:
    """alpha E[log sum_a exp Q(s, a) - Q(s, a_data)], eq. 4."""
    every = jnp.mean(jax.nn.logsumexp(q, axis=-1), axis=-1)
    return alpha * jnp.mean(every - value_of(q, choice))


def conservative_penalty(
    critics: Any,
    params: SACParams,
    sample: replay.Sample,
    key: PRNGKeyArray,
    *,
    networks: sac.Networks,
    alpha: float,
    num_samples: int,
) -> Float[Array, ""]:
    """alpha sum_i E[log sum_a exp Q_i(s, a) - Q_i(s, a_data)], the sum over actions by importance sampling.

    Args:
      critics: leaves [2, ...], of the loss; the policy is that of `params`, without a gradient.
      num_samples: n; the estimate is of n uniform actions, n of pi(.|s) and n of pi(.|s').
    """
    obs, (size, width) = sample.obs, sample.action.shape
    uniform_key, now_key, next_key = jax.random.split(key, 3)
    uniform = jax.random.uniform(uniform_key, (num_samples, size, width), minval=-1.0, maxval=1.0)
    policy = networks.actor.module(jax.lax.stop_gradient(params.actor))

    def drawn(seen: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        keys = jax.random.split(key, num_samples)
        return jax.vmap(lambda k: policy(seen).sample_and_log_prob(k))(keys)

    (now, now_logp), (later, later_logp) = drawn(obs, now_key), drawn(sample.next_obs, next_key)
    actions = jnp.concatenate([uniform, now, later])
    logp = jnp.concatenate(
        [jnp.full((num_samples, size), -width * math.log(2.0)), now_logp, later_logp]
    )
    repeated = jnp.broadcast_to(obs, (3 * num_samples, *obs.shape))
    q = networks.critic.ensemble(critics, repeated, actions)  # [2, 3 n, B]
    every = jax.nn.logsumexp(q - logp, axis=1) - math.log(3 * num_samples)
    return alpha * jnp.sum(
        jnp.mean(every - networks.critic.ensemble(critics, obs, sample.action), axis=1)
    )
