"""The policies that everything begins with, and what a policy is measured by."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from agents.tokens.generation import Generated
from agents.tokens.policy import TokenPolicy
from agents.tokens.rollout import TokenState
from agents.tokens.settings import TokenConfig
from agents.tokens.sft import SFT, SFTConfig
from experiments.studies.alignment.settings import Sizes

Config = TypeVar("Config", bound=TokenConfig)
State = TypeVar("State", bound=TokenState)


def config_of(kind: type[Config], sizes: Sizes, **settings: Any) -> Config:
    """Returns a learner's settings with the model of this study, and no imitation of its own."""
    model = {"width": sizes.width, "mlp_width": sizes.mlp_width}
    heads = {"heads": sizes.heads, "kv_heads": sizes.heads}
    return kind(**{"imitation_steps": 0, **model, **heads, **settings})


def seed_keys(sizes: Sizes, purpose: int) -> PRNGKeyArray:
    """Returns a key of each seed, [seeds], for one purpose of several."""
    keys = jnp.stack([jax.random.key(seed) for seed in range(sizes.seeds)])
    return jax.vmap(lambda key: jax.random.fold_in(key, purpose))(keys)


def over_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function of trees whose leaves have a leading axis of seeds, one seed after another in one program.

    On a CPU that takes less time than `vmap`, whose products of small matrices are slow.
    """
    return jax.jit(lambda *trees: jax.lax.map(lambda args: function(*args), trees))


@functools.lru_cache(1)
def policies(sizes: Sizes) -> Any:
    """Returns the parameters of the imitated policies' transformers, leaves [seeds, ...]."""
    config = config_of(SFTConfig, sizes, imitation_steps=sizes.imitation_steps)
    learner = SFT(config, sizes.env())
    return over_seeds(lambda key: learner.start(key)["params"]["policy"])(seed_keys(sizes, 0))


def alone(policy: Any) -> Any:
    """Returns a policy's parameters as those of a learner without a critic."""
    return nnx.State({"policy": policy})


def begin(learner: TokenPolicy, policy: Any, key: PRNGKeyArray) -> Any:
    """Returns the learner's first state with an imitated policy as policy and reference."""
    state = learner.init(key)  # type: ignore[attr-defined]
    return state.replace(
        params=with_policy(state.params, policy), reference=with_policy(state.reference, policy)
    )


def with_policy(params: Any, policy: Any) -> Any:
    """Returns parameters whose policy is another one; a critic stays."""
    params = jax.tree.map(jnp.copy, params)
    params["policy"] = jax.tree.map(jnp.copy, policy)
    return params


def gold_of(
    sizes: Sizes,
    prompts: Int[Array, "N P"],
    generated: Generated,
) -> tuple[Float[Array, " N"], Bool[Array, " N"]]:
    """Returns the share of right positions of each response, and True where all are."""
    rewards, correct = sizes.env().score(prompts, generated.tokens, generated.length)
    return jnp.sum(rewards, axis=1), correct


def measure(learner: TokenPolicy, state: Any, key: PRNGKeyArray, sizes: Sizes) -> dict[str, Array]:
    """Returns means over one sample to each of some held-out prompts.

    `gold`, `exact` (all right), `kl` to the reference over a response, in nats: exact at each token of the samples;
    `entropy` of a token; and `proxy`, the reward that is learnt from, where that is not the task's own.
    """
    env = learner.env
    prompt_key, sample_key = jax.random.split(key)
    prompts = env.held_out(prompt_key, sizes.prompts)
    found = learner.respond(state.params, prompts, sample_key)
    gold, correct = gold_of(sizes, prompts, found)
    batch = learner.batch(prompts, found.tokens, found.length, jnp.zeros(found.tokens.shape))
    apart = learner.exact_kl(state.params, state.reference, batch.obs, batch.action)
    means = {
        "gold": jnp.mean(gold),
        "exact": jnp.mean(correct.astype(jnp.float32)),
        "kl": jnp.sum(jnp.where(batch.mask, apart, 0.0)) / sizes.prompts,
    }
    if learner.reward is not None:
        proxy = learner.reward.of_tokens(prompts, found.tokens, found.length)
        means["proxy"] = jnp.mean(jnp.sum(proxy, axis=1))
    return means
