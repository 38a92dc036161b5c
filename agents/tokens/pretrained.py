"""Starts a learner from given weights: those of a published model, or of a run."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from agents.networks import Functional
from agents.settings import require
from agents.tokens.lora import ADAPTERS, adapted, draw_adapters, first_adapter
from agents.tokens.transformer import TokenModel, parameter_paths
from agents.tokens.transformer_config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class _Pretrained(Functional):
    """A network whose first parameters are given."""

    params: Any = dataclasses.field(default=None, compare=False)
    adapter: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    def init(self, key: PRNGKeyArray) -> Any:
        """Returns the first parameters. Raises ValueError where the given ones are another model's, and where an
        adapter does not fit."""
        template = jax.eval_shape(super().init, key)
        values = map(np.asarray, jax.tree.leaves(self.params))
        given = dict(zip(parameter_paths(self.params), values, strict=True))
        leaves, tree = jax.tree.flatten(template)
        arrays, drawn = {}, list[int]()
        for i, (path, leaf) in enumerate(zip(parameter_paths(template), leaves, strict=True)):
            part, _, name = path.partition(".")
            if name.endswith(ADAPTERS):
                fixed = first_adapter(name, leaf, self.adapter)
                if fixed is None:
                    drawn.append(i)
                else:
                    arrays[i] = fixed
            elif name in given and given[name].shape == leaf.shape:
                arrays[i] = given[name]
            elif part == "policy":
                raise ValueError(f"the given parameters are another model's: {name} does not fit")
        shapes = {i: jax.ShapeDtypeStruct(x.shape, x.dtype) for i, x in arrays.items()}
        # A call of the host: as constants the weights would be part of the compiled program.
        found = jax.pure_callback(lambda: arrays, shapes)
        found |= dict(zip(drawn, draw_adapters(key, [leaves[i] for i in drawn]), strict=True))
        fresh = [found.get(i, jnp.zeros(x.shape, x.dtype)) for i, x in enumerate(leaves)]
        return jax.tree.unflatten(tree, fresh)


def pretrained_model(
    config: TransformerConfig,
    params: Any,
    *,
    critic: bool = False,
    adapter: Mapping[str, Any] | None = None,
) -> Functional:
    """Returns the functions of `token_model`, where the policy begins with `params`; a critic begins with the policy's
    layers, and its head, as ever, with zeros: at first every state is worth 0.

    Args:
      params: of a `Transformer`, numpy arrays.
      adapter: the leaves of low-rank adapters by their paths, such as blocks.0.up.lora_a; those that are left out begin
        at 0, or as noise that is multiplied by 0.
    """
    return _Pretrained(
        lambda rngs: TokenModel(config, critic=critic, rngs=rngs), params, adapter or {}
    )


def start_from(
    learner: Any,
    model: TransformerConfig,
    params: Any,
    adapter: Mapping[str, np.ndarray] | None = None,
) -> Any:
    """Returns a `TokenPolicy` like `learner` with another transformer; see `TokenPolicy.starting_from`."""
    env, own = learner.env, learner.model_config
    require(
        model.vocabulary == env.vocabulary_size,
        f"the model has a vocabulary of {model.vocabulary} tokens, and the task one of {env.vocabulary_size}",
    )
    model.require_context(env.prompt_length, env.response_length)
    other = copy.copy(learner)
    config = dataclasses.replace(model, dtype=own.dtype, lora=own.lora, remat=own.remat)
    network = pretrained_model(config, params, critic=learner.critic, adapter=adapter)
    other.model_config = config
    other.network = adapted(network) if own.lora else network
    return other
