"""Networks, as Flax NNX modules. Learners use them functionally: `nnx.split` once, `nnx.merge` inside pure functions.

Hidden layers start orthogonal with gain sqrt(2), the policy's head with 0.01 (nearly uniform at first), the value's
with 1. Andrychowicz et al. 2021, https://arxiv.org/abs/2006.05990
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from agents.distributions import Categorical, Normal, TanhNormal

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "swish": jax.nn.swish,
}


def orthogonal(gain: float) -> nnx.Initializer:
    """JAX's orthogonal initialiser, one matrix after another under `vmap`.

    On JAX 0.10 a CPU's batched QR decompositions wait for threads of the very pool they run on: two at once (the
    layers of several seeds, the twin critics of one) now and then wait for each other for good.
    """
    whole = nnx.initializers.orthogonal(gain)

    def init(key: PRNGKeyArray, shape: tuple[int, ...], *args, **kwargs) -> Array:
        one_by_one = jax.custom_batching.sequential_vmap(
            lambda key: whole(key, shape, *args, **kwargs)
        )
        return one_by_one(key)

    return init


class MLP(nnx.Module):
    """Fully connected layers; the activation follows each hidden one."""

    def __init__(
        self,
        inputs: int,
        hidden_sizes: Sequence[int],
        outputs: int,
        *,
        activation: str = "tanh",
        head_gain: float = 1.0,
        rngs: nnx.Rngs,
    ):
        sizes = [inputs, *hidden_sizes, outputs]
        gains = [np.sqrt(2.0)] * len(hidden_sizes) + [head_gain]
        self.activation = ACTIVATIONS[activation]
        self.layers = nnx.List(
            nnx.Linear(fan_in, fan_out, kernel_init=orthogonal(gain), rngs=rngs)
            for fan_in, fan_out, gain in zip(sizes[:-1], sizes[1:], gains, strict=True)
        )

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        # One matrix, not a stack of them: with more leading axes XLA contracts the weights' gradients over two axes at
        # once, at half the speed on a CPU.
        lead, x = x.shape[:-1], x.reshape(-1, x.shape[-1])
        *hidden, head = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return head(x).reshape(*lead, -1)


class Actor(nnx.Module):
    """Observation to action distribution: Categorical for a Discrete space; for a Box a diagonal Normal whose
    spread is a parameter of its own, the same in every state. A parameter that has fallen below `min_log_std` counts as
    that, and has no gradient any more: the spread stays at the bound."""

    def __init__(
        self,
        observations: int,
        action_space: gymnasium.Space,
        hidden_sizes: Sequence[int],
        *,
        activation: str = "tanh",
        initial_log_std: float = 0.0,
        min_log_std: float | None = None,
        rngs: nnx.Rngs,
    ):
        self.min_log_std = min_log_std
        self.discrete = isinstance(action_space, gymnasium.spaces.Discrete)
        if isinstance(action_space, gymnasium.spaces.Discrete):
            outputs = int(action_space.n)
        else:
            outputs = int(np.prod(action_space.shape or ()))
        self.body = MLP(
            observations, hidden_sizes, outputs, activation=activation, head_gain=0.01, rngs=rngs
        )
        if not self.discrete:
            self.log_std = nnx.Param(jnp.full(outputs, initial_log_std))

    def __call__(self, obs: Float[Array, "*batch O"]) -> Categorical | Normal:
        out = self.body(obs)
        if self.discrete:
            return Categorical(out)
        log_std = self.log_std[...]
        if self.min_log_std is not None:
            log_std = jnp.maximum(log_std, self.min_log_std)
        return Normal(out, log_std)


class ActorCritic(nnx.Module):
    """A policy and a state value, with separate bodies."""

    def __init__(
        self,
        observations: int,
        action_space: gymnasium.Space,
        hidden_sizes: Sequence[int],
        *,
        activation: str = "tanh",
        initial_log_std: float = 0.0,
        min_log_std: float | None = None,
        rngs: nnx.Rngs,
    ):
        self.actor = Actor(
            observations,
            action_space,
            hidden_sizes,
            activation=activation,
            initial_log_std=initial_log_std,
            min_log_std=min_log_std,
            rngs=rngs,
        )
        self.critic = MLP(observations, hidden_sizes, 1, activation=activation, rngs=rngs)

    def distribution(self, obs: Float[Array, "*batch O"]) -> Categorical | Normal:
        """Returns the distribution of actions."""
        return self.actor(obs)

    def value(self, obs: Float[Array, "*batch O"]) -> Float[Array, "*batch"]:
        """Returns the estimated value of each observation."""
        return self.critic(obs)[..., 0]


class SquashedActor(nnx.Module):
    """Observation to a tanh-squashed Gaussian, whose spread depends on the observation too.

    Haarnoja et al. 2018, appendix C. https://arxiv.org/abs/1801.01290
    """

    LOG_STD_RANGE = (-5.0, 2.0)

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden_sizes: Sequence[int],
        *,
        activation: str,
        rngs: nnx.Rngs,
    ):
        self.body: Any = MLP(
            observations,
            hidden_sizes,
            2 * actions,
            activation=activation,
            head_gain=0.01,
            rngs=rngs,
        )

    def __call__(self, obs: Float[Array, "*batch O"]) -> TanhNormal:
        return self.of(self.body(obs))

    def of(self, outputs: Float[Array, "*batch outputs"]) -> TanhNormal:
        """Returns the distribution that the body's outputs stand for."""
        mean, spread = jnp.split(outputs, 2, axis=-1)
        low, high = self.LOG_STD_RANGE
        # A squashed range has a slope everywhere, where a clipped one would have none at its ends.
        log_std = low + 0.5 * (high - low) * (jnp.tanh(spread) + 1.0)
        return TanhNormal(mean, log_std)


class ActionValue(nnx.Module):
    """Q(s, a) of continuous actions."""

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden_sizes: Sequence[int],
        *,
        activation: str,
        rngs: nnx.Rngs,
    ):
        self.body = MLP(observations + actions, hidden_sizes, 1, activation=activation, rngs=rngs)

    def __call__(
        self, obs: Float[Array, "*batch O"], action: Float[Array, "*batch A"]
    ) -> Float[Array, "*batch"]:
        return self.body(jnp.concatenate([obs, action], axis=-1))[..., 0]


@dataclasses.dataclass(frozen=True)
class Functional:
    """A module as pure functions of its parameters."""

    make: Callable[[nnx.Rngs], Any]

    def init(self, key: PRNGKeyArray) -> Any:
        """Returns the parameters of a new module."""
        return nnx.state(self.make(nnx.Rngs(key)), nnx.Param)

    @functools.cached_property
    def _graphdef(self) -> Any:
        return nnx.graphdef(nnx.eval_shape(lambda: self.make(nnx.Rngs(0))))

    def module(self, params: Any) -> Any:
        """Returns the module with these parameters."""
        return nnx.merge(self._graphdef, params)

    def init_ensemble(self, key: PRNGKeyArray, size: int) -> Any:
        """Independent parameters, leaves [size, ...]."""
        return jax.vmap(self.init)(jax.random.split(key, size))

    def ensemble(self, params: Any, *inputs: Any) -> Any:
        """Every member's output for the same inputs, leading axis [size]."""
        return jax.vmap(lambda p: self.module(p)(*inputs))(params)
