"""Starts a learner from given weights: those of a published model, or of a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from agents.networks import Functional
from agents.tokens.transformer import TokenModel, parameter_paths
from agents.tokens.transformer_config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class _Pretrained(Functional):
    """A network whose first parameters are given."""

    params: Any = dataclasses.field(default=None, compare=False)

    def init(self, key: PRNGKeyArray) -> Any:
        """Returns the first parameters. Raises ValueError where the given ones are another model's."""
        template = jax.eval_shape(super().init, key)
        values = map(np.asarray, jax.tree.leaves(self.params))
        given = dict(zip(parameter_paths(self.params), values, strict=True))
        leaves, tree = jax.tree.flatten(template)
        arrays = {}
        for i, (path, leaf) in enumerate(zip(parameter_paths(template), leaves, strict=True)):
            part, _, name = path.partition(".")
            if name in given and given[name].shape == leaf.shape:
                arrays[i] = given[name]
            elif part == "policy":
                raise ValueError(f"the given parameters are another model's: {name} does not fit")
        shapes = {i: jax.ShapeDtypeStruct(x.shape, x.dtype) for i, x in arrays.items()}
        # A call of the host: as constants the weights would be part of the compiled program.
        found = jax.pure_callback(lambda: arrays, shapes)
        fresh = [found.get(i, jnp.zeros(x.shape, x.dtype)) for i, x in enumerate(leaves)]
        return jax.tree.unflatten(tree, fresh)


def pretrained_model(config: TransformerConfig, params: Any, *, critic: bool = False) -> Functional:
    """Returns the functions of `token_model`, where the policy begins with `params`; a critic begins with the policy's
    layers, and its head, as ever, with zeros: at first every state is worth 0.

    Args:
      params: of a `Transformer`, numpy arrays.
    """
    return _Pretrained(lambda rngs: TokenModel(config, critic=critic, rngs=rngs), params)
