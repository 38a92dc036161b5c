"""TD3+BC, a minimalist approach: TD3 whose actor is held near the data. Fujimoto & Gu 2021,
https://arxiv.org/abs/2106.06860

    J_mu = E[-lambda Q_1(s, mu(s)) + |mu(s) - a|^2],  lambda = alpha / E|Q_1(s, mu(s))|        eqs. 3, 5

and everything else as in `td3`, states normalised (sec. 5). At alpha = 0 the actor is that of `bc`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from agents import replay, td3
from agents.off_policy import OffPolicyState, Update
from agents.offline.data import OfflineData
from agents.offline.learner import OfflineLearner, OfflineValueConfig
from agents.offline.policies import squared_error
from agents.spaces import element
from agents.td3 import Networks, TD3Config, TD3OptState, TD3Params, make_networks
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class TD3BCConfig(OfflineValueConfig):
    """Settings of `TD3BC`."""

    alpha: float = 2.5
    """weight of the critic beside imitation; 0: imitation alone"""
    target_noise: float = 0.2
    """standard deviation of the noise on target actions; 0: no smoothing"""
    target_noise_clip: float = 0.5
    """target noise is cut off here"""
    policy_delay: int = 2
    """gradient steps of the critics for one of the actor and the moving averages"""

    def __post_init__(self):
        super().__post_init__()
        self.require_not_negative("alpha", "target_noise", "target_noise_clip")
        self.require_at_least_one("policy_delay")


class TD3BC(OfflineLearner):
    """TD3+BC: `init`, `step`, `act`. Raises ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = TD3BCConfig

    def __init__(self, config: TD3BCConfig, env: Env):
        super().__init__(config, env, (gymnasium.spaces.Box,))
        self.actor_optimizer = self.adam(every=config.policy_delay)
        self.critic_optimizer = self.adam()
        self.td3 = TD3Config(
            tau=config.tau,
            target_noise=config.target_noise,
            target_noise_clip=config.target_noise_clip,
            policy_delay=config.policy_delay,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
        )
        self.networks = make_networks(self.num_inputs, self.num_actions, self.td3)

    @property
    def update(self) -> Update:
        """The gradient step of `td3` with this learner's networks, settings and loss of the actor."""
        return functools.partial(
            td3.update,
            networks=self.networks,
            actor_optimizer=self.actor_optimizer,
            critic_optimizer=self.critic_optimizer,
            config=self.td3,
            actor_loss=functools.partial(actor_loss, alpha=self.config.alpha),
        )

    def init(self, key: PRNGKeyArray) -> OffPolicyState:
        """Returns the first state."""
        actor_key, critic_key, key = jax.random.split(key, 3)
        actor = self.networks.actor.init(actor_key)
        critics = self.networks.critic.init_ensemble(critic_key, self.td3.num_critics)
        opt_state = TD3OptState(
            self.actor_optimizer.init(actor), self.critic_optimizer.init(critics)
        )
        return self.begin(key, TD3Params(actor, critics, actor, critics), opt_state)

    def step(
        self, state: OffPolicyState, data: OfflineData | None = None
    ) -> tuple[OffPolicyState, dict[str, Array]]:
        """Returns the state after the gradient steps of an iteration. Raises ValueError without data."""
        return self.run(state, data, self.update, gamma=self.config.gamma)

    def act(
        self, state: OffPolicyState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Elements of the action space for raw observations [*batch, O]; the policy draws nothing."""
        mu = self.networks.mu(state.params.actor, self.preprocess(state, obs))
        return element(self.env.action_space, mu)


def actor_loss(
    actor: Any, critics: Any, sample: replay.Sample, networks: Networks, *, alpha: float
) -> Float[Array, ""]:
    """-lambda E[Q_1(s, mu(s))] + E[(mu(s) - a)^2], the error's mean over the coordinates too.

    lambda makes the critic's part as large as alpha whatever the task pays; it has no gradient.
    """
    mu = networks.mu(actor, sample.obs)
    imitation = squared_error(mu, sample.action)
    if alpha == 0:
        return imitation
    first = jax.tree.map(lambda x: x[0], critics)
    q = networks.critic.module(first)(sample.obs, mu)
    size = jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))
    return imitation - alpha * jnp.mean(q) / jnp.maximum(size, 1e-6)
