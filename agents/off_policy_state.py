"""The state of learners with a replay buffer, and one gradient step on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
from jaxtyping import Array, Float, PRNGKeyArray

from agents import normalize, replay, rollout
from agents.algorithm import ActorState

Params = Any


@flax.struct.dataclass
class OffPolicyState:
    """The state of a learner with a replay buffer."""

    params: Params  # of all networks, targets included, as the learner arranges them
    opt_state: Any
    obs_statistics: normalize.RunningStatistics | Any  # of raw observations, encoded
    buffer: replay.ReplayState | Any
    stream: rollout.Stream | Any
    key: PRNGKeyArray | Any
    env_steps: Array | Any  # int32 []
    updates: Array | Any  # int32 [], gradient steps
    noise: Array | Any = None  # [N, A], exploration noise of this step; None: no such exploration
    # Of discounted returns; None: rewards are not scaled by them.
    return_statistics: normalize.RunningStatistics | Any = None

    @property
    def actor(self) -> ActorState:
        """Returns the part that acting needs."""
        return ActorState(self.params.acting, self.obs_statistics, self.env_steps)


class Environments(NamedTuple):
    """The environments under way, and what their exploration carries on."""

    stream: rollout.Stream | Any
    noise: Array | Any = None


class Acted(NamedTuple):
    """Steps as an actor sends them, leaves [T, N, ...]."""

    row: replay.Transition | Any
    discounted_return: Array | Any = None  # where rewards are scaled by it


# (state, raw observations [N, ...], key) to raw actions [N, ...], by `state.noise` where there is one
Explore = Callable[[OffPolicyState, Any, PRNGKeyArray], Array]
# (params, opt_state, sample with preprocessed observations, key, number of the gradient step) to
# (params, opt_state, TD errors [B], metrics)
Update = Callable[
    [Params, Any, replay.Sample, PRNGKeyArray, Array],
    tuple[Params, Any, Float[Array, " B"], dict[str, Array]],
]


def learn(
    update: Update, sample: replay.Sample, state: OffPolicyState, key: PRNGKeyArray
) -> tuple[OffPolicyState, Float[Array, " B"], dict[str, Array]]:
    """Returns the state after one gradient step on a sample with preprocessed observations, TD errors, and metrics.

    Where the sample comes from does not matter: a replay buffer, or a dataset.
    """
    params, opt_state, td_error, metrics = update(
        state.params, state.opt_state, sample, key, state.updates
    )
    state = dataclasses.replace(
        state, params=params, opt_state=opt_state, updates=state.updates + 1
    )
    return state, td_error, metrics
