"""Action values for DQN and PQN: of a Discrete space directly, of a Box with discretised coordinates.

Each coordinate of a Box has `bins` values, and the value of an action is the mean over the values of its coordinates,
so the maximum is taken separately for each coordinate: Seyde et al. 2022, "Solving Continuous Control via Q-learning",
eq. 2, https://arxiv.org/abs/2210.12566. A Discrete space is a single coordinate.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from agents.networks import ACTIVATIONS, orthogonal
from agents.settings import require


@dataclasses.dataclass(frozen=True)
class ActionGrid:
    """The choices of an action space: D coordinates with K values each."""

    space: gymnasium.Space
    bins: int  # of each coordinate of a Box
    bin_span: float = 1.0  # the share of its range that they span, about the middle

    @property
    def coordinates(self) -> int:
        """D: numbers of an action."""
        return 1 if self._discrete else int(np.prod(self.space.shape or ()))

    @property
    def values(self) -> int:
        """K: values that each coordinate takes."""
        if isinstance(self.space, gymnasium.spaces.Discrete):
            return int(self.space.n)
        return self.bins

    def action(self, choice: Int[Array, "*batch D"]) -> Array:
        """The raw action (see `agents.spaces`) of a choice: of a Box in [-1, 1]."""
        if isinstance(self.space, gymnasium.spaces.Box):
            low, high = self._ends
            return low + (high - low) * choice.astype(jnp.float32) / (self.bins - 1)
        return choice[..., 0]

    def choice(self, action: Array) -> Int[Array, "*batch D"]:
        """The inverse of `action`."""
        if isinstance(self.space, gymnasium.spaces.Box):
            low, high = self._ends
            share = (action - low) / (high - low)
            return jnp.round(share * (self.bins - 1)).astype(jnp.int32)
        return action[..., None]

    def random(self, key: PRNGKeyArray, *batch: int) -> Int[Array, "*batch D"]:
        """Returns choices drawn uniformly."""
        return jax.random.randint(key, (*batch, self.coordinates), 0, self.values)

    @property
    def _ends(self) -> tuple[Array, Array]:
        high = jnp.ones(self.coordinates)
        low = -high
        beyond = (1 - self.bin_span) / 2 * (high - low)
        return low + beyond, high - beyond

    @property
    def _discrete(self) -> bool:
        return isinstance(self.space, gymnasium.spaces.Discrete)


def require_bins(bins: int, bin_span: float) -> None:
    """Raises ValueError for numbers of which there are no `ActionGrid`."""
    require(bins >= 2, f"bins must be at least 2, got {bins}")
    require(0 < bin_span <= 1, f"bin_span must be above 0 and at most 1, got {bin_span}")


class QNetwork(nnx.Module):
    """Observation to the value of every choice, [..., D, K].

    With `dueling`, a state's value plus advantages of mean 0: Wang et al. 2016, eq. 9, https://arxiv.org/abs/1511.06581.
    With `layer_norm`, normalisation before each activation, without which PQN diverges: Gallici et al. 2024.
    """

    def __init__(
        self,
        observations: int,
        choices: ActionGrid,
        hidden_sizes: Sequence[int],
        *,
        activation: str = "relu",
        dueling: bool = False,
        layer_norm: bool = False,
        rngs: nnx.Rngs,
    ):
        sizes = [observations, *hidden_sizes]
        self.activation = ACTIVATIONS[activation]
        self.shape = (choices.coordinates, choices.values)
        self.hidden = nnx.List(
            nnx.Linear(
                fan_in,
                fan_out,
                kernel_init=orthogonal(np.sqrt(2.0)),
                bias_init=_spread(1.0 / np.sqrt(fan_in)),
                rngs=rngs,
            )
            for fan_in, fan_out in itertools.pairwise(sizes)
        )
        self.norms = nnx.List(
            nnx.LayerNorm(size, rngs=rngs) if layer_norm else None for size in hidden_sizes
        )
        outputs = choices.coordinates * choices.values
        self.head = nnx.Linear(sizes[-1], outputs, kernel_init=orthogonal(1.0), rngs=rngs)
        self.value = (
            nnx.Linear(sizes[-1], 1, kernel_init=orthogonal(1.0), rngs=rngs) if dueling else None
        )

    def __call__(self, obs: Float[Array, "*batch O"]) -> Float[Array, "*batch D K"]:
        # One matrix, not a stack of them: see `networks.MLP`.
        lead, x = obs.shape[:-1], obs.reshape(-1, obs.shape[-1])
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = layer(x)
            x = self.activation(x if norm is None else norm(x))
        out = self.head(x).reshape(-1, *self.shape)
        if self.value is not None:
            out = self.value(x)[..., None] + out - jnp.mean(out, axis=-1, keepdims=True)
        return out.reshape(*lead, *self.shape)


def _spread(bound: float) -> Callable[..., Array]:
    """Biases that put the units' kinks all over the inputs, not through the origin alone."""
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def greedy(q: Float[Array, "*batch D K"]) -> Int[Array, "*batch D"]:
    """The best choice of each coordinate."""
    return jnp.argmax(q, axis=-1).astype(jnp.int32)


def value_of(
    q: Float[Array, "*batch D K"], choice: Int[Array, "*batch D"]
) -> Float[Array, "*batch"]:
    """Q(s, a): the mean over coordinates of the chosen values."""
    return jnp.mean(jnp.take_along_axis(q, choice[..., None], axis=-1)[..., 0], axis=-1)


def epsilon_greedy(
    q: Float[Array, "*batch D K"], choices: ActionGrid, epsilon: Any, key: PRNGKeyArray
) -> Int[Array, "*batch D"]:
    """Chooses epsilon-greedily and independently for each coordinate."""
    which_key, random_key = jax.random.split(key)
    batch = q.shape[:-2]
    random = jax.random.bernoulli(which_key, epsilon, q.shape[:-1])
    return jnp.where(random, choices.random(random_key, *batch), greedy(q))
