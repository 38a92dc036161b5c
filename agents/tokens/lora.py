"""Low-rank adapters of a transformer as parts of its parameters.

Adapters are leaves `lora_a` and `lora_b` beside the `kernel` that they change; see `Lora` for the formula. With them,
gradients, optimiser state and the kept reference are of the adapters alone, and no other parameter changes by a bit.
Trained besides is what no published model has: a critic's head.

Functions of parameters; `TokenPolicy` uses them for every learner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from agents.networks import Functional
from agents.tokens.transformer import draw_normal, parameter_paths, policy_model
from agents.tokens.transformer_config import TransformerConfig

Params = Any
ADAPTERS = ("lora_a", "lora_b")
_CRITIC_HEAD = "critic.head.kernel"


def trained(params: Params) -> list[bool]:
    """Returns True for each leaf that is trained: those of adapters, and a critic's head."""
    return [
        path.rpartition(".")[2] in ADAPTERS or path == _CRITIC_HEAD
        for path in parameter_paths(params)
    ]


def adapters(params: Params) -> list[Any]:
    """Returns the leaves that are trained."""
    leaves = jax.tree.leaves(params)
    return [x for x, trains in zip(leaves, trained(params), strict=True) if trains]


def with_adapters(params: Params, own: list[Any], rest: Any = ...) -> Params:
    """Returns parameters whose trained leaves are others.

    Args:
      own: as `adapters` returns them.
      rest: in place of all other leaves; by default these are kept.
    """
    leaves, tree = jax.tree.flatten(params)
    new = iter(own)
    return jax.tree.unflatten(
        tree,
        [
            next(new) if trains else (x if rest is ... else rest)
            for x, trains in zip(leaves, trained(params), strict=True)
        ],
    )


@dataclasses.dataclass(frozen=True)
class Adapted(Functional):
    """A network of whose parameters the adapters alone have gradients."""

    network: Functional | None = None

    def init(self, key: Any) -> Params:
        """Returns the first parameters."""
        return self._inner.init(key)

    def module(self, params: Params) -> Any:
        """Returns the module with these parameters."""
        leaves, tree = jax.tree.flatten(params)
        kept = zip(leaves, trained(params), strict=True)
        stopped = [x if trains else jax.lax.stop_gradient(x) for x, trains in kept]
        return self._inner.module(jax.tree.unflatten(tree, stopped))

    @property
    def _inner(self) -> Functional:
        assert self.network is not None
        return self.network


def adapted(network: Functional) -> Functional:
    """Returns a network of whose parameters the adapters alone have gradients."""
    return Adapted(network.make, network)


def of_adapters(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns an optimiser that has state for trained leaves alone. Its updates of all others are None, by which
    `agents.optimisers.descend` leaves them as they are."""

    def update(grads: Params, opt_state: Any, params: Params = None) -> tuple[Params, Any]:
        del params
        updates, opt_state = optimizer.update(adapters(grads), opt_state)
        return with_adapters(grads, updates, None), opt_state

    return optax.GradientTransformation(lambda params: optimizer.init(adapters(params)), update)


def kept_reference(config: TransformerConfig, params: Params) -> Params:
    """Returns what a learner's state keeps of the reference policy: a copy of the parameters, or of the adapters alone
    where these are all that will change. (A copy, for the driver donates the state's buffers, and none may be there
    twice.)"""
    return jax.tree.map(jnp.copy, adapters(params) if config.lora else params)


def reference(config: TransformerConfig, params: Params, kept: Params) -> Params:
    """Returns the parameters of the reference policy.

    Args:
      params: the policy's, which have the reference's base where there are adapters.
      kept: by `kept_reference`.
    """
    return with_adapters(params, kept) if config.lora else kept


def merged(config: TransformerConfig, params: Params) -> tuple[TransformerConfig, Params]:
    """Returns a transformer without adapters that computes the same: W + (alpha / r) A B.

    Args:
      params: of a `Transformer`; without adapters they are returned as they are.
    """
    if config.lora is None:
        return config, params
    plain = dataclasses.replace(config, lora=None)
    template = jax.eval_shape(policy_model(plain).init, jax.random.key(0))
    found = by_path(params)
    leaves = []
    for path in parameter_paths(template):
        module, _, name = path.rpartition(".")
        a, b = (found.get(f"{module}.{leaf}") for leaf in ADAPTERS)
        x = found[path]
        if name == "kernel" and a is not None and b is not None:
            x = x + config.lora.scale * (a @ b)
        leaves.append(x)
    return plain, jax.tree.unflatten(jax.tree.structure(template), leaves)


def by_path(params: Params) -> dict[str, np.ndarray]:
    """Returns the leaves on the host, by their paths."""
    leaves = [np.asarray(x, np.float32) for x in jax.tree.leaves(params)]
    return dict(zip(parameter_paths(params), leaves, strict=True))


def first_adapter(
    path: str, leaf: jax.ShapeDtypeStruct, given: Mapping[str, Any]
) -> np.ndarray | None:
    """Returns the first value of an adapter's leaf: the given one, else 0 for B; None for A, which is drawn.

    Args:
      given: adapters by path.

    Raises ValueError where the given one has another shape.
    """
    if path in given:
        if given[path].shape != leaf.shape:
            has, fits = [*given[path].shape], [*leaf.shape]
            raise ValueError(f"the adapter's {path} has the shape {has}, and {fits} fits")
        return np.asarray(given[path], np.float32)
    return np.zeros(leaf.shape, np.float32) if path.endswith(ADAPTERS[1]) else None


def draw_adapters(key: PRNGKeyArray, leaves: list[jax.ShapeDtypeStruct]) -> list[Array]:
    """Returns matrices A [inputs, r]: normal, with the variance of the uniform distribution that PEFT draws them from,
    1 / (3 inputs)."""
    normal = draw_normal(key, sum(x.size for x in leaves))
    ends = np.cumsum([x.size for x in leaves])
    parts = [normal[end - x.size : end] for x, end in zip(leaves, ends, strict=True)]
    return [
        part.reshape(x.shape) * (3 * x.shape[0]) ** -0.5
        for part, x in zip(parts, leaves, strict=True)
    ]
