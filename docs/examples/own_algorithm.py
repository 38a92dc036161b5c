"""An algorithm of one's own: random search on a linear policy. python docs/examples/own_algorithm.py"""

import dataclasses
from typing import Any, ClassVar

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp

import envs
from agents import rollout
from agents.settings import Settings
from agents.spaces import element, encode, num_inputs, require_actions
from envs.base import reset


@dataclasses.dataclass(frozen=True)
class RandomSearchConfig(Settings):
    total_steps: int = 200_000
    """environment steps of the whole run, every episode counted in full length"""
    directions: int = 32
    """policies that are tried at once"""
    noise: float = 0.5
    """standard deviation of their distance from the best policy so far"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("total_steps", "directions")
        self.require_positive("noise")


@flax.struct.dataclass
class RandomSearchState:
    weights: Any  # [inputs, actions]
    best: Any  # [] return of the best policy so far
    key: Any
    env_steps: Any  # int32 []


class RandomSearch:
    """Tries random changes of a linear policy and keeps the best one. Discrete actions only."""

    Config: ClassVar[type] = RandomSearchConfig
    warmup_steps = 0

    def __init__(self, config: RandomSearchConfig, env):
        require_actions(type(self).__name__, env, gymnasium.spaces.Discrete)
        self.config, self.env = config, env
        self.shape = (num_inputs(env.observation_space), int(env.action_space.n))
        self.iteration_steps = config.directions * env.max_episode_steps

    def init(self, key):
        zero = jnp.zeros((), jnp.int32)
        return RandomSearchState(jnp.zeros(self.shape), jnp.asarray(-jnp.inf), key, zero)

    def step(self, state, data=None):
        """One episode for each of `directions` changed policies, and the best of them."""
        noise_key, start_key, play_key, key = jax.random.split(state.key, 4)
        n = self.config.directions
        noise = jax.random.normal(noise_key, (n, *self.shape))
        tried = state.weights + self.config.noise * noise.at[0].set(0.0)  # the present one, too
        running, _ = jax.vmap(lambda k: reset(self.env, k))(jax.random.split(start_key, n))

        def act(obs, key):
            return self.choose(tried, obs), jnp.zeros(n)

        limit = self.env.max_episode_steps
        episodes, metrics = rollout.collect_episodes(self.env, act, running, play_key, limit)
        returns = jnp.sum(episodes.reward, axis=0)
        state = state.replace(
            weights=tried[jnp.argmax(returns)],
            best=jnp.max(returns),
            key=key,
            env_steps=state.env_steps + self.iteration_steps,
        )
        return state, {**metrics, "best": state.best}

    def act(self, state, obs, key, deterministic):
        return element(self.env.action_space, self.choose(state.weights, obs))

    def learned(self, state):
        return state.weights

    def buffer_bytes(self):
        return 0

    def choose(self, weights, obs):
        """The raw action of a linear policy; `weights` may have a leading axis, one policy for each observation."""
        inputs = encode(self.env.observation_space, obs)
        scores = jnp.einsum("...i,...ia->...a", inputs, weights)
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def train(iterations: int = 10):
    """Returns the best return of each iteration on CartPole."""
    algo = RandomSearch(RandomSearchConfig(), envs.make("CartPole-v1"))
    state = jax.jit(algo.init)(jax.random.key(0))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: algo.step(s), state, None, iterations))
    return run(state)[1]["best"]


if __name__ == "__main__":
    best = train()
    print(f"best return {best[0]:.0f} at first, {best[-1]:.0f} in the end")
