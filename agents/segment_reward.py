"""A reward of single steps, learned from comparisons of whole segments: an ensemble of small networks.

    reward = SegmentReward(settings, observations, actions)
    state = reward.init(key)
    state, metrics = reward.fit(state, store, see, key, updates)
    r = reward.rewards(state, obs, action, next_obs)          # what a learner is paid

P(first better) = sigmoid(sum_t r(first, t) - sum_t r(second, t)): Bradley-Terry on sums over segments.
Christiano et al. 2017, sec. 2.2.3, https://arxiv.org/abs/1706.03741; PEBBLE, Lee et al. 2021,
https://arxiv.org/abs/2106.05091
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from agents import optimisers
from agents.algorithm import Params
from agents.core.preference_losses import comparison_loss
from agents.core.returns import masked_mean
from agents.networks import MLP, Functional
from agents.segments import Segments, Store
from agents.settings import Settings, require

_FORGETTING = 0.02  # share by which each gradient step's minibatch moves the statistics of rewards
_SMALLEST = 1e-3  # scale of rewards below which they are not enlarged any further


@dataclasses.dataclass(frozen=True)
class SegmentRewardSettings(Settings):
    """Settings of `SegmentReward`. Raises ValueError, in one line, for impossible values."""

    reward_members: int = 3
    """networks of the learned reward, which is their mean"""
    reward_hidden_sizes: tuple[int, ...] = (64, 64)
    """units of each hidden layer of these networks"""
    reward_activation: Literal["tanh", "relu", "elu", "swish"] = "tanh"
    """activation of their hidden layers; tanh bounds the reward of a step, also far from the compared segments"""
    reward_inputs: Literal["obs-action-next", "obs-action", "obs"] = "obs-action-next"
    """what the learned reward of a step depends on"""
    reward_learning_rate: float = 1e-3
    """Adam's step size for the learned reward"""
    reward_weight_decay: float = 0.1
    """decoupled weight decay of these networks, in multiples of the step size"""
    reward_batch: int = 64
    """pairs of one gradient step of a network"""
    label_error: float = 0.1
    """share of labels that the loss takes for chance, whatever the segments"""
    validation_share: float = 0.1
    """share of the pairs that are never trained on, to see what the learned reward says of them"""
    reward_offset: Literal["learned", "zero-mean"] = "learned"
    """zero-mean: rewards are shifted to a mean of zero over the compared segments, which is right where all episodes
    are equally long; learned: they stay as the comparisons with segments that end early have them"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("reward_members", "reward_batch")
        require(
            len(self.reward_hidden_sizes) <= 10 and all(x >= 1 for x in self.reward_hidden_sizes),
            f"reward_hidden_sizes must be at most 10 positive numbers, got {self.reward_hidden_sizes}",
        )
        self.require_positive("reward_learning_rate")
        self.require_not_negative("reward_weight_decay")
        for name in ("label_error", "validation_share"):
            share = getattr(self, name)
            require(0 <= share < 1, f"{name} must be at least 0 and below 1, got {share}")


@flax.struct.dataclass
class SegmentRewardState:
    """Networks and the statistics of their rewards. Leaves are `| Any` for JAX's placeholders."""

    params: Params  # leaves [E, ...]
    opt_state: Any
    mean: Array | Any  # [E], of rewards over the compared segments
    square: Array | Any  # [E], mean of their squares


# From encoded observations [*batch, O] to what the networks see.
See = Callable[[Array], Array]


class SegmentReward:
    """An ensemble of reward networks.

    Args:
      observations, actions: lengths of the vectors that stand for them.
    """

    def __init__(self, settings: SegmentRewardSettings, observations: int, actions: int):
        self.settings = settings
        inputs = observations + actions * (settings.reward_inputs != "obs")
        inputs += observations * (settings.reward_inputs == "obs-action-next")
        self.network = Functional(
            lambda rngs: MLP(
                inputs,
                settings.reward_hidden_sizes,
                1,
                activation=settings.reward_activation,
                head_gain=0.1,
                rngs=rngs,
            )
        )
        self.optimizer = optax.adamw(
            settings.reward_learning_rate, weight_decay=settings.reward_weight_decay
        )

    def init(self, key: PRNGKeyArray) -> SegmentRewardState:
        """Returns the first state: networks drawn independently."""
        members = self.settings.reward_members
        params = self.network.init_ensemble(key, members)
        return SegmentRewardState(
            params, self.optimizer.init(params), jnp.zeros(members), jnp.ones(members)
        )

    def raw(
        self,
        member: Params,
        obs: Float[Array, "*batch O"],
        action: Float[Array, "*batch A"],
        next_obs: Float[Array, "*batch O"],
    ) -> Float[Array, "*batch"]:
        """Returns one network's rewards, in the units in which it was fitted."""
        seen = {
            "obs": [obs],
            "obs-action": [obs, action],
            "obs-action-next": [obs, action, next_obs],
        }[self.settings.reward_inputs]
        return self.network.module(member)(jnp.concatenate(seen, axis=-1))[..., 0]

    def members(
        self,
        state: SegmentRewardState,
        obs: Float[Array, "*batch O"],
        action: Float[Array, "*batch A"],
        next_obs: Float[Array, "*batch O"],
    ) -> Float[Array, "E ..."]:
        """Returns every network's rewards of steps, each brought to the same scale; see `reward_offset`."""
        raw = jax.vmap(self.raw, (0, None, None, None))(state.params, obs, action, next_obs)
        shift, variance = jnp.zeros_like(state.mean), state.square
        if self.settings.reward_offset == "zero-mean":
            shift, variance = state.mean, state.square - jnp.square(state.mean)
        scale = jnp.maximum(jnp.sqrt(jnp.maximum(variance, 0.0)), _SMALLEST)
        wide = -1, *[1] * (raw.ndim - 1)
        return (raw - shift.reshape(wide)) / scale.reshape(wide)

    def disagreement(
        self, state: SegmentRewardState, first: Segments, second: Segments, see: See
    ) -> Float[Array, " n"]:
        """Returns the networks' standard deviation of the probability that the first of two segments is better."""

        def probability(member: Params) -> Float[Array, " n"]:
            sums = [self._sums(member, x.frames, x.action, x.mask, see)[0] for x in (first, second)]
            return jax.nn.sigmoid(sums[0] - sums[1])

        return jnp.std(jax.vmap(probability)(state.params), axis=0)

    def fit(
        self, state: SegmentRewardState, store: Store, see: See, key: PRNGKeyArray, updates: int
    ) -> tuple[SegmentRewardState, dict[str, Array]]:
        """Returns the state after gradient steps on minibatches, each network's drawn for itself, and their metrics."""
        members, batch = self.settings.reward_members, self.settings.reward_batch

        def gradient_step(state: SegmentRewardState, key: PRNGKeyArray):
            index = jax.random.randint(key, (members, batch), 0, jnp.maximum(store.filled, 1))

            def total(params: Params) -> tuple[Array, Any]:
                losses, rest = jax.vmap(lambda p, i: self.loss(p, store, i, see))(params, index)
                return jnp.sum(losses), rest

            grads, (metrics, mean, square) = jax.grad(total, has_aux=True)(state.params)
            params, opt_state = optimisers.apply_gradients(
                self.optimizer, grads, state.opt_state, state.params
            )
            moved = [
                old + _FORGETTING * (new - old)
                for old, new in ((state.mean, mean), (state.square, square))
            ]
            return SegmentRewardState(params, opt_state, *moved), metrics

        state, metrics = jax.lax.scan(gradient_step, state, jax.random.split(key, updates))
        return state, jax.tree.map(jnp.mean, metrics)

    def loss(
        self, member: Params, store: Store, index: Int[Array, " B"], see: See
    ) -> tuple[Float[Array, ""], tuple[dict[str, Array], Array, Array]]:
        """Returns one network's loss on the stored pairs `index`, its metrics, and mean and mean square of its rewards.

        Pairs of weight 0 count nowhere, those for validation in its own metrics alone.
        """
        frames, action, mask = (x[index] for x in (store.frames, store.action, store.mask))
        sums, rewards = self._sums(member, frames, action, mask, see)
        label = store.label[index]
        losses = comparison_loss(sums[:, 0], sums[:, 1], label, self.settings.label_error)
        right = ((sums[:, 0] > sums[:, 1]) == (label > 0.5)).astype(jnp.float32)
        compared = store.weight[index] > 0
        held_out = is_held_out(index, self.settings.validation_share)
        train, validation, decided = compared & ~held_out, compared & held_out, label != 0.5
        metrics = {
            "loss/reward_model": masked_mean(losses, train),
            "loss/reward_validation": masked_mean(losses, validation),
            "preferences/accuracy": masked_mean(right, train & decided),
            "preferences/validation_accuracy": masked_mean(right, validation & decided),
        }
        rewards = jax.lax.stop_gradient(rewards)
        statistics = masked_mean(rewards, mask), masked_mean(jnp.square(rewards), mask)
        return metrics["loss/reward_model"], (metrics, *statistics)

    def _sums(
        self, member: Params, frames: Array, action: Array, mask: Array, see: See
    ) -> tuple[Array, Array]:
        """Returns sums of a network's rewards over segments [*n, k], and the rewards."""
        seen = see(frames)
        rewards = self.raw(member, seen[..., :-1, :], action, seen[..., 1:, :])
        return jnp.sum(jnp.where(mask, rewards, 0.0), axis=-1), rewards


def is_held_out(index: Int[Array, " B"], share: float) -> Array:
    """Returns True for the stored pairs kept for validation: the given share of them, evenly spread."""
    return jnp.floor((index + 1) * share) > jnp.floor(index * share)
