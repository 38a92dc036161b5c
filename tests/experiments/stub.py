"""A learner that learns nothing but compiles at once: what the training loop is tested with."""

import dataclasses
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp

import envs
from experiments.run.spec import Spec


@dataclasses.dataclass(frozen=True)
class StubConfig:
    total_steps: int = 1000
    """steps of the whole run"""
    num_envs: int = 4
    """steps of an iteration"""
    break_at: int = -1
    """iteration whose loss is NaN"""
    rate: float = 0.5
    """a number"""

    def __post_init__(self):
        if self.num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {self.num_envs}")


@flax.struct.dataclass
class StubState:
    params: jax.Array  # [2]
    key: jax.Array
    env_steps: jax.Array


class Stub:
    Config: ClassVar[type] = StubConfig
    warmup_steps = 0

    def __init__(self, config, env):
        self.config, self.env = config, env
        self.iteration_steps = config.num_envs

    def init(self, key):
        return StubState(jnp.zeros(2), key, jnp.int32(0))

    def step(self, state, data=None):
        key, use = jax.random.split(state.key)
        params = state.params + jax.random.normal(use, (2,))
        iteration = state.env_steps // self.iteration_steps
        loss = jnp.where(iteration == self.config.break_at, jnp.nan, jnp.sin(params[0]))
        episodes = jnp.float32(iteration % 3)
        metrics = {
            "train/return": jnp.where(episodes > 0, params[1], jnp.nan),
            "train/length": jnp.where(episodes > 0, 10.0, jnp.nan),
            "train/episodes": episodes,
            "train/nonfinite": jnp.float32(0),
            "loss/policy": loss,
        }
        return StubState(params, key, state.env_steps + self.iteration_steps), metrics

    def learned(self, state):
        return state.params

    def buffer_bytes(self):
        return 0

    def collect_only(self, state):
        return state.replace(key=jax.random.split(state.key)[0])

    def act(self, state, obs, key, deterministic):
        return (obs[..., 0] + state.params[0] > 0).astype(jnp.int32)


def spec(seed=0, seeds=1, **config):
    return Spec(
        "probe-truncation", {"max_episode_steps": 3}, "stub", StubConfig(**config), seed, seeds
    )


def build(s):
    return Stub(s.config, envs.make(s.env, **s.env_kwargs))
