"""Modern critics, options of SAC and TD3: what they are fitted to, and how.

| setting | source |
|---|---|
| `target_networks=False`: (s, a) and (s', a') pass the critics at once, whose own values are the targets | CrossQ |
| `critic_norm`, `actor_norm`: batch (re)normalisation, layer normalisation | CrossQ; XQC; DroQ |
| `num_atoms`: a distribution over atoms in +-`value_bound`, fitted by cross entropy | C51; XQC; FlashSAC |
| `weight_norm`: weights of each hidden unit of length 1 after each step | XQC |
| `normalize_returns`: rewards divided by the running deviation of returns | XQC; FlashSAC |

CrossQ: Bhatt et al. 2024, https://openreview.net/forum?id=PczQtTsTIX. XQC: Palenicek et al. 2025, https://arxiv.org/abs/2509.25174.
DroQ: Hiraoka et al. 2022, https://arxiv.org/abs/2110.02034. C51: Bellemare et al. 2017, https://arxiv.org/abs/1707.06887.

With none of them SAC and TD3 are those of their papers: `network` and `first` give these, and `squared_loss` fits them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from agents import replay
from agents.core import categorical_values, value_losses
from agents.networks import ActionValue, Functional
from agents.normalized_networks import (
    NormalizedActionValue,
    project,
    projected,
    statistics_of,
    with_statistics,
)
from agents.off_policy_settings import ContinuousConfig

Params = Any


def network(inputs: int, actions: int, config: ContinuousConfig) -> Functional:
    """Returns the critics' network by the settings."""
    hidden = config.critic_hidden_sizes or config.hidden_sizes
    sizes = inputs, actions, hidden
    if not config.has_modern_critics:
        return Functional(lambda r: ActionValue(*sizes, activation=config.activation, rngs=r))
    return Functional(
        lambda r: NormalizedActionValue(
            *sizes,
            activation=config.activation,
            norm=config.critic_norm,
            warmup=config.renorm_warmup,
            weight_norm=config.weight_norm,
            num_atoms=config.num_atoms,
            value_bound=config.value_bound,
            rngs=r,
        )
    )


def first(
    critic: Functional, key: PRNGKeyArray, size: int, config: ContinuousConfig
) -> tuple[Params, Params | None]:
    """Returns the parameters of `size` critics and of their targets, None where there are none."""
    make = projected if config.weight_norm else Functional.init_ensemble
    critics = make(critic, key, size)
    return critics, critics if config.target_networks else None


def squared_loss(
    critics: Params, *, target: Float[Array, " B"], sample: replay.Sample, critic: Functional
) -> tuple[Float[Array, ""], tuple[Float[Array, "E B"], Float[Array, " B"], None]]:
    """Returns the loss of plain critics, the mean over the sample of (Q_e - target)^2 summed over critics e, and their
    values and the targets; `None` stands for the statistics that they do not have."""
    q = critic.ensemble(critics, sample.obs, sample.action)
    each = value_losses.squared_error(q, jnp.broadcast_to(target, q.shape))
    return jnp.mean(jnp.sum(sample.weight * each, axis=0)), (q, target, None)


def loss(
    critics: Params,
    *,
    targets: Params | None,
    sample: replay.Sample,
    next_action: Float[Array, "B A"],
    bonus: Float[Array, " B"] | ScalarLike,
    critic: Functional,
    config: ContinuousConfig,
) -> tuple[Float[Array, ""], tuple[Float[Array, "E B"], Float[Array, " B"], Params]]:
    """Returns the loss of `critics` on a sample, and their values, the targets, and parameters whose statistics have
    seen the sample.

    Args:
      critics: leaves [E, ...].
      targets: those of the target networks; None: there are none, and the critics pass both halves at once.
      next_action: of the policy at the next observations, without gradient.
      bonus: taken off the next value: SAC's alpha log pi(a'|s').
    """
    outputs, next_outputs, seen = _passes(critics, targets, sample, next_action, critic)
    if config.num_atoms is None:
        q, next_q = outputs[..., 0], next_outputs[..., 0]
        next_value = jnp.min(next_q, axis=0) - bonus
        target = value_losses.td_target(
            sample.reward, next_value, sample.terminated, sample.discount
        )
        each = value_losses.squared_error(q, jnp.broadcast_to(target, q.shape))
    else:
        atoms = categorical_values.support(config.value_bound, config.num_atoms)
        lowest = categorical_values.lowest_mean(jax.nn.softmax(next_outputs), atoms)
        wanted = categorical_values.td_target(
            sample.reward, lowest, sample.terminated, sample.discount, atoms, bonus
        )
        each = categorical_values.cross_entropy(outputs, jnp.broadcast_to(wanted, outputs.shape))
        q, target = jax.nn.softmax(outputs) @ atoms, wanted @ atoms
    return jnp.mean(jnp.sum(sample.weight * each, axis=0)), (q, target, seen)


def _passes(critics, targets, sample, next_action, critic) -> tuple[Array, Array, Params]:
    """Returns the critics' outputs [E, B, K], those for the next state without gradient, and `loss`'s parameters."""

    def train(params: Params, obs: Array, action: Array) -> tuple[Array, Params]:
        module = critic.module(params)
        outputs = module.outputs(obs, action, training=True)
        return outputs, statistics_of(module)

    each = jax.vmap(train, (0, None, None))
    if targets is not None:
        outputs, seen = each(critics, sample.obs, sample.action)
        following = jax.vmap(
            lambda p: critic.module(p).outputs(sample.next_obs, next_action, training=False)
        )(targets)
    else:
        obs = jnp.concatenate([sample.obs, sample.next_obs])
        both, seen = each(critics, obs, jnp.concatenate([sample.action, next_action]))
        outputs, following = jnp.split(both, 2, axis=1)
    return outputs, jax.lax.stop_gradient(following), seen


def finish(params: Params, seen: Params, config: ContinuousConfig) -> Params:
    """Returns parameters after a gradient step, with the statistics of `seen`, and weights brought back to length 1."""
    params = with_statistics(params, seen)
    return project(params) if config.weight_norm else params
