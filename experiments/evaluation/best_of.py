"""The best of n samples by a reward, judged by the verifier: a policy that draws n answers and gives one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from agents.core.reward_scores import best_of_n
from agents.tokens.generation import Sampling
from agents.tokens.pairs import map_parts
from agents.tokens.reward import Reward

MOST = 2**20  # samples of a prompt
_AT_ONCE = 2048  # responses


def require(best_of: int) -> None:
    """Raises ValueError where a flag `--best-of` asks for no sample, or for more than can be told apart."""
    if not 1 <= best_of <= MOST:
        raise ValueError(f"--best-of must be between 1 and {MOST}, got {best_of}")


def numbers(most: int) -> list[int]:
    """Returns 1, 2, 4, ... and `most`."""
    return sorted({most, *(2**i for i in range(most.bit_length()))})


def measured(
    algo: Any,
    params: Any,
    key: PRNGKeyArray,
    num_prompts: int,
    most: int,
    reward: Reward | None,
) -> dict[int, float]:
    """Returns `best_of_shares` by n."""
    found = jax.jit(lambda p, k: best_of_shares(algo, p, k, num_prompts, most, reward))(params, key)
    return dict(zip(numbers(most), map(float, found), strict=True))


def best_of_shares(
    algo: Any,
    params: Any,
    key: PRNGKeyArray,
    num_prompts: int,
    most: int,
    reward: Reward | None,
) -> Float[Array, " K"]:
    """Returns the share of held-out prompts that the best of n samples by reward answers, for n in `numbers(most)`.

    Estimated from `most` samples of each prompt at temperature 1, over all choices of n of them. A pure function.

    Args:
      reward: None: all samples count alike.
    """
    prompt_key, key = jax.random.split(key)
    n = jnp.asarray(numbers(most))

    def of_part(rows: tuple[Any, Any]) -> Array:
        prompts, keys = rows
        repeated = jnp.repeat(prompts, most, axis=0)
        found = algo.respond(params, repeated, keys[0], Sampling())
        correct = algo.verify(repeated, found)[1].astype(jnp.float32)
        proxy = jnp.zeros(correct.shape)
        if reward is not None:
            proxy = jnp.sum(reward.of_tokens(repeated, found.tokens, found.length), axis=1)
            proxy = jnp.nan_to_num(proxy, nan=-jnp.inf)
        return best_of_n(proxy.reshape(-1, most).T, correct.reshape(-1, most).T, n).T

    prompts = algo.env.held_out(prompt_key, num_prompts)
    rows = prompts, jax.random.split(key, num_prompts)
    at_once = min(num_prompts, max(1, _AT_ONCE // most))
    return jnp.mean(map_parts(of_part, rows, at_once), axis=0)
