"""A learner of token tasks over all seeds in one program, measured on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from agents.tokens.grpo import TokenGRPO, TokenGRPOConfig
from agents.tokens.policy import TokenPolicy
from agents.tokens.reward import Reward
from envs.tokens.task import RewardKind
from experiments.studies.alignment.policies import (
    begin,
    config_of,
    measure,
    over_seeds,
    policies,
    seed_keys,
)
from experiments.studies.alignment.settings import Sizes

Make = Callable[
    [Any], TokenPolicy
]  # what is a seed's own (parameters of a reward, pairs) to its learner
Say = Callable[[str], None]
Curves = dict[str, Any]  # "marks" [M], "seconds" [M], and for each measure [seeds][M]

_KEY_OF_MARKS = 7


def iterations(learner: Any, state: Any) -> Array:
    """Returns the iterations, or gradient steps, that a learner has made."""
    return state.env_steps // learner.iteration_steps


def train(
    make: Make,
    given: Any,
    sizes: Sizes,
    marks: Sequence[int],
    say: Say,
    *,
    start: Callable[..., Any] = begin,
    change: Callable[[Any], Any] = lambda state: state,
    measured: Callable[..., dict[str, Any]] = measure,
    progress: Callable[[Any, Any], Any] = iterations,
) -> tuple[Any, Curves]:
    """Returns the last states, and measures at the marks, from 0 on.

    Args:
      make: makes the learner of one row; called while a program is traced.
      given: leaves [rows, ...]; rows are the seeds, once or several times one after another.
      start: (learner, policy, key) to the first state.
      change: of the states at first.
      measured: (learner, state, key, sizes) to numbers.
      progress: (learner, state) to a whole number, of which the marks are values; steps are taken until it is reached.

    Seconds are those of training alone, without compilation, of one row: the marks times the least time of a unit
    between two of them, for other work on the machine only adds to it.
    """
    rows = jax.tree.leaves(given)[0].shape[0]

    def each(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.concatenate([x] * (rows // sizes.seeds)), tree)

    init = over_seeds(lambda own, policy, key: start(make(own), policy, key))

    def until(own: Any, state: Any, mark: Array) -> Any:
        learner: Any = make(own)
        return jax.lax.while_loop(
            lambda s: progress(learner, s) < mark, lambda s: learner.step(s)[0], state
        )

    step = over_seeds(until)
    look = over_seeds(lambda own, state, key: measured(make(own), state, key, sizes))
    states = change(init(given, each(policies(sizes)), each(seed_keys(sizes, 1))))
    keys = each(
        seed_keys(sizes, _KEY_OF_MARKS)
    )  # the same prompts at every mark, for every learner
    found, times = [], []
    compiled = None
    for before, mark in zip([0, *marks], marks, strict=False):
        if mark > before:
            ends = jnp.full(rows, mark, jnp.int32)
            compiled = compiled or step.lower(given, states, ends).compile()  # type: ignore[attr-defined]
            begun = time.monotonic()
            states = jax.block_until_ready(compiled(given, states, ends))
            times.append((time.monotonic() - begun) / (mark - before) / rows)
        found.append(jax.tree.map(np.asarray, look(given, states, keys)))
        say(f"{mark} of {marks[-1]}: {shown(found[-1])}")
    second = min(times, default=0.0)
    return states, {
        "marks": list(marks),
        "seconds": [mark * second for mark in marks],
        **{name: np.stack([row[name] for row in found], axis=1) for name in found[0]},
    }


def learn_from(
    score: Callable[..., Any] | None,
    params: Any,
    sizes: Sizes,
    say: Say,
    *,
    kl_weight: float = 0.0,
    learning_rate: float | None = None,
    marks: Sequence[int] | None = None,
    reward_kind: RewardKind = "share",
    measured: Callable[..., dict[str, Any]] = measure,
) -> tuple[Any, Curves]:
    """Returns states and curves of GRPO on a reward.

    Args:
      score: of a `Reward`; None: the task's own, of kind `reward_kind`.
      params: the reward's parameters, leaves [seeds, ...].
      kl_weight: weight of the KL to the reference that is taken off the rewards.
      learning_rate, marks: None: those of `sizes`.
      measured: as of `train`.
    """
    marks = marks or sizes.marks
    config = config_of(
        TokenGRPOConfig,
        sizes,
        num_responses=sizes.responses,
        total_steps=marks[-1] * sizes.responses * (sizes.digits + 1),
        learning_rate=learning_rate or sizes.learning_rate,
        learning_rate_schedule="constant",
        kl_in_reward=1.0,  # the state has the weight, so that one program serves all weights
    )
    env = sizes.env(reward_kind)

    def make(own: Any) -> TokenGRPO:
        return TokenGRPO(config, env, None if score is None else Reward(score, own))

    def weigh(states: Any) -> Any:
        return states.replace(kl_in_reward=jnp.full(sizes.seeds, kl_weight, jnp.float32))

    given = jnp.zeros(sizes.seeds) if score is None else params
    return train(make, given, sizes, marks, say, change=weigh, measured=measured)


def shown(means: dict[str, Any]) -> str:
    """Returns measures as text, means over seeds."""
    numbers = {name: x for name, x in means.items() if np.ndim(x) == 1}
    return "  ".join(f"{name} {np.mean(x):.3g}" for name, x in numbers.items())
