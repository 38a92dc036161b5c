"""Networks with normalised layers, and critics that put out a number or a distribution.

A hidden layer is: linear map, norm, activation (CrossQ's code puts the norm behind the activation). With one of the
batch norms the inputs are normalised too.

Statistics of batch norms are leaves of the parameters, of the type `Statistic`: they have no gradient, Adam leaves them
as they are, and a forward pass in training changes them in the module, from which `with_statistics` takes them over.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from agents.core import categorical_values
from agents.distributions import TanhNormal
from agents.networks import ACTIVATIONS, Functional, SquashedActor, orthogonal
from agents.off_policy_settings import Norm

MOMENTUM = 0.99  # of the running statistics
EPSILON = 1e-3  # added to the variance
MAX_SCALE, MAX_SHIFT = 3.0, 5.0  # r_max and d_max of batch renormalisation


class Statistic(nnx.Param):
    """A leaf that data move, and no gradient."""


class UnitColumns(nnx.Param):
    """A matrix [inputs, units] whose columns `project` keeps at length 1."""


class BatchNorm(nnx.Module):
    """Batch normalisation, or renormalisation. Ioffe 2017, https://arxiv.org/abs/1702.03275

    In training a feature of a batch is standardised by its own mean m and deviation s, and with renormalisation brought
    from there to the running ones mu, sigma:

        y = ((x - m) / s) r + d,   r = clip(s / sigma, 1 / 3, 3),   d = clip((m - mu) / sigma, -5, 5)

    without gradient in r and d; in the first `warmup` batches r = 1 and d = 0. What then follows is y scale + bias.
    Otherwise y = (x - mu) / sigma. Running statistics move by 1 - MOMENTUM = 0.01 a batch. Without `affine` there are
    no scale and bias.
    """

    def __init__(self, features: int, *, renorm: bool, warmup: int, affine: bool = True):
        self.renorm, self.warmup, self.affine = renorm, warmup, affine
        if affine:
            self.scale = nnx.Param(jnp.ones(features))
            self.bias = nnx.Param(jnp.zeros(features))
        self.mean, self.variance = Statistic(jnp.zeros(features)), Statistic(jnp.ones(features))
        self.batches = Statistic(jnp.zeros(()))

    def __call__(self, x: Float[Array, "B F"], training: bool = False) -> Float[Array, "B F"]:
        running = jax.lax.stop_gradient((self.mean[...], self.variance[...]))
        y = self._in_training(x, *running) if training else _standard(x, *running)
        return y * self.scale[...] + self.bias[...] if self.affine else y

    def _in_training(self, x: Array, mean: Array, variance: Array) -> Array:
        own_mean, own_variance = jnp.mean(x, axis=0), jnp.var(x, axis=0)
        y = _standard(x, own_mean, own_variance)
        if self.renorm:
            sigma = jnp.sqrt(variance + EPSILON)
            r = jnp.clip(jnp.sqrt(own_variance + EPSILON) / sigma, 1 / MAX_SCALE, MAX_SCALE)
            d = jnp.clip((own_mean - mean) / sigma, -MAX_SHIFT, MAX_SHIFT)
            warm = self.batches[...] >= self.warmup
            r, d = jax.lax.stop_gradient((jnp.where(warm, r, 1.0), jnp.where(warm, d, 0.0)))
            y = y * r + d
        own = jax.lax.stop_gradient((own_mean, own_variance))
        self.mean[...] = mean + (1.0 - MOMENTUM) * (own[0] - mean)
        self.variance[...] = variance + (1.0 - MOMENTUM) * (own[1] - variance)
        self.batches[...] = jax.lax.stop_gradient(self.batches[...]) + 1.0
        return y


class LayerNorm(nnx.Module):
    """Layer normalisation: each row to mean 0 and variance 1. Ba et al. 2016, https://arxiv.org/abs/1607.06450"""

    def __init__(self, features: int):
        self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))

    def __call__(self, x: Float[Array, "B F"], training: bool = False) -> Float[Array, "B F"]:
        mean, variance = (f(x, axis=-1, keepdims=True) for f in (jnp.mean, jnp.var))
        return _standard(x, mean, variance) * self.scale[...] + self.bias[...]


class Identity(nnx.Module):
    """No norm."""

    def __init__(self, features: int = 0):
        pass

    def __call__(self, x: Array, training: bool = False) -> Array:
        return x


class NormalizedMLP(nnx.Module):
    """Hidden layers of linear map, norm and activation, and a linear head.

    With `weight_norm` the weights of each hidden unit are a vector of length 1, as `project` keeps them.
    """

    def __init__(
        self,
        inputs: int,
        hidden_sizes: Sequence[int],
        outputs: int,
        *,
        activation: str,
        norm: Norm,
        warmup: int,
        weight_norm: bool = False,
        head_gain: float = 1.0,
        rngs: nnx.Rngs,
    ):
        by_batch = norm.startswith("batch")
        batch_norm = functools.partial(BatchNorm, renorm=norm == "batch-renorm", warmup=warmup)
        layer_norm = LayerNorm if norm == "layer" else Identity
        norm_of = batch_norm if by_batch else layer_norm
        self.activation = ACTIVATIONS[activation]
        # A batch norm removes every shift of its inputs. A bias before it, in the layer or in the norm of the network's
        # inputs, would have rounding errors for a gradient, which Adam would blow up to full steps.
        self.entrance = batch_norm(inputs, affine=False) if by_batch else Identity()
        sizes = [inputs, *hidden_sizes]
        leaf = UnitColumns if weight_norm else nnx.Param
        self.kernels = nnx.List(
            leaf(orthogonal(float(np.sqrt(2.0)))(rngs.params(), shape))
            for shape in itertools.pairwise(sizes)
        )
        self.biases = nnx.List(
            nnx.Param(jnp.zeros(size)) for size in ([] if by_batch else hidden_sizes)
        )
        self.norms = nnx.List(norm_of(size) for size in hidden_sizes)
        self.head = nnx.Linear(sizes[-1], outputs, kernel_init=orthogonal(head_gain), rngs=rngs)

    def __call__(
        self, x: Float[Array, "*batch inputs"], training: bool = False
    ) -> Float[Array, "*batch outputs"]:
        lead, x = x.shape[:-1], x.reshape(-1, x.shape[-1])
        x = self.entrance(x, training)
        for i, (kernel, norm) in enumerate(zip(self.kernels, self.norms, strict=True)):
            x = x @ kernel[...] + (self.biases[i][...] if self.biases else 0.0)
            x = self.activation(norm(x, training))
        return self.head(x).reshape(*lead, -1)


class NormalizedActionValue(nnx.Module):
    """Q(s, a): the output of a `NormalizedMLP`, or the mean of the distribution that its outputs are logits of."""

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden_sizes: Sequence[int],
        *,
        activation: str,
        norm: Norm,
        warmup: int,
        weight_norm: bool,
        num_atoms: int | None,
        value_bound: float,
        rngs: nnx.Rngs,
    ):
        self.num_atoms, self.value_bound = num_atoms, value_bound
        self.body = NormalizedMLP(
            observations + actions,
            hidden_sizes,
            num_atoms or 1,
            activation=activation,
            norm=norm,
            warmup=warmup,
            weight_norm=weight_norm,
            rngs=rngs,
        )

    def __call__(
        self, obs: Float[Array, "*batch O"], action: Float[Array, "*batch A"]
    ) -> Float[Array, "*batch"]:
        return self.mean(self.outputs(obs, action, training=False))

    def outputs(
        self, obs: Float[Array, "*batch O"], action: Float[Array, "*batch A"], training: bool
    ) -> Float[Array, "*batch K"]:
        """Returns what the network puts out: logits of the atoms, or one number. In training batch norms go by the
        batch, and their running statistics learn of it."""
        return self.body(jnp.concatenate([obs, action], axis=-1), training)

    def mean(self, outputs: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
        """Returns the value that outputs stand for."""
        if self.num_atoms is None:
            return outputs[..., 0]
        atoms = categorical_values.support(self.value_bound, self.num_atoms)
        return jax.nn.softmax(outputs) @ atoms


class NormalizedSquashedActor(SquashedActor):
    """A `SquashedActor` whose body is a `NormalizedMLP`."""

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden_sizes: Sequence[int],
        *,
        activation: str,
        norm: Norm,
        warmup: int,
        rngs: nnx.Rngs,
    ):
        self.body = NormalizedMLP(
            observations,
            hidden_sizes,
            2 * actions,
            activation=activation,
            norm=norm,
            warmup=warmup,
            head_gain=0.01,
            rngs=rngs,
        )

    def __call__(self, obs: Float[Array, "*batch O"], training: bool = False) -> TanhNormal:
        return self.of(self.body(obs, training))


def statistics_of(module: nnx.Module) -> Any:
    """Returns a module's parameters and statistics as they are now, without gradient."""
    return jax.lax.stop_gradient(nnx.state(module, nnx.Param))


def with_statistics(params: Any, seen: Any) -> Any:
    """Returns `params` with the statistics of `seen`, which has the same structure."""

    def pick(leaf: Any, other: Any) -> Any:
        return other if isinstance(leaf, Statistic) else leaf

    return jax.tree.map(pick, params, seen, is_leaf=_is_variable)


def project(params: Any) -> Any:
    """Returns `params` with each column of every `UnitColumns` divided by its length."""

    def unit(leaf: Any) -> Any:
        if not isinstance(leaf, UnitColumns):
            return leaf
        length = jnp.linalg.norm(leaf[...], axis=-2, keepdims=True)
        return leaf.replace(leaf[...] / jnp.maximum(length, 1e-8))

    return jax.tree.map(unit, params, is_leaf=_is_variable)


def projected(functional: Functional, key: PRNGKeyArray, size: int) -> Any:
    """Returns the parameters of an ensemble with `UnitColumns` of length 1 from the start."""
    return project(functional.init_ensemble(key, size))


def _is_variable(x: Any) -> bool:
    return isinstance(x, nnx.Variable)


def _standard(x: Array, mean: Array, variance: Array) -> Array:
    return (x - mean) * jax.lax.rsqrt(variance + EPSILON)
