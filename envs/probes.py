"""Environments so small that the right answer is known: one for each way in which a learner can be wrong.

With discount g, and the optimal policy:

| environment | what a failure points at | V of the first observation |
|---|---|---|
| ConstantReward | value loss, optimiser | 1 |
| RewardIsAction | policy gradient, advantage sign | 1 |
| RewardIsObservation | observation reaching the value function | the observation, -1 or 1 |
| DelayedReward | discount, bootstrap between steps | g |
| TruncationOnly | bootstrap at a time limit, true final observation | g / (1 - g) |
"""

from __future__ import annotations

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from envs.base import Env, static

_BOX = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
_TWO = gymnasium.spaces.Discrete(2)


@flax.struct.dataclass
class _Probe(Env):
    """State: (observation x, steps taken). Raises ValueError for a time limit that is no positive integer."""

    max_episode_steps: int = static(10)

    observation_space = _BOX
    action_space = _TWO

    def initial(self, key):
        return jnp.zeros(1), jnp.zeros((), jnp.int32)

    def transition(self, state, action, key):
        x, t = state
        return x, t + 1

    def observation(self, state):
        return state[0]

    def terminal(self, state):
        return state[1] >= 1


@flax.struct.dataclass
class ConstantReward(_Probe):
    """One step, reward 1."""

    def reward(self, state, action, next_state):
        """1."""
        return jnp.ones(())


@flax.struct.dataclass
class RewardIsAction(_Probe):
    """One step; action 1 earns 1, action 0 earns -1. With `continuous`, -(a - 0.5)^2: the best action is 0.5."""

    continuous: bool = static(False)

    @property
    def action_space(self):
        """Discrete(2), or with `continuous` a Box in [-1, 1]."""
        return _BOX if self.continuous else _TWO

    def reward(self, state, action, next_state):
        """2 a - 1, or with `continuous` -(a - 0.5)^2."""
        if self.continuous:
            return -jnp.square(action[0] - 0.5)
        return 2.0 * action - 1.0


@flax.struct.dataclass
class RewardIsObservation(_Probe):
    """One step; the observation is -1 or 1, and so is the reward."""

    def initial(self, key):
        """An observation of -1 or 1, equally likely."""
        sign = 2.0 * jax.random.bernoulli(key).astype(jnp.float32) - 1.0
        return sign[None], jnp.zeros((), jnp.int32)

    def reward(self, state, action, next_state):
        """The observation."""
        return state[0][0]


@flax.struct.dataclass
class DelayedReward(_Probe):
    """Two steps, observations 0 then 1; the second step earns 1."""

    def transition(self, state, action, key):
        """The observation becomes 1."""
        return jnp.ones(1), state[1] + 1

    def reward(self, state, action, next_state):
        """The observation before the step."""
        return state[0][0]

    def terminal(self, state):
        """True after two steps."""
        return state[1] >= 2


@flax.struct.dataclass
class TruncationOnly(_Probe):
    """The first step earns 0 (observation 1), all others 1 (observation 0), for ever; the time limit alone interrupts.
    A learner that takes the limit for an end, or bootstraps from the next episode's first observation instead of the
    true final one, learns a smaller value."""

    max_episode_steps: int = static(3)

    def initial(self, key):
        """The observation 1."""
        return jnp.ones(1), jnp.zeros((), jnp.int32)

    def transition(self, state, action, key):
        """The observation becomes 0."""
        return jnp.zeros(1), state[1] + 1

    def reward(self, state, action, next_state):
        """1 less the observation before the step."""
        return 1.0 - state[0][0]

    def terminal(self, state):
        """False."""
        return jnp.zeros((), bool)
