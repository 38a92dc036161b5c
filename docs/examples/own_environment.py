"""An environment of one's own, in JAX: python docs/examples/own_environment.py"""

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from envs.base import Env, static


@flax.struct.dataclass
class Cart(Env):
    """Push a cart to the origin and keep it there."""

    effort_weight: float = 0.01  # cost per squared force; a leaf: may be swept under vmap
    max_episode_steps: int = static(100)

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def initial(self, key):
        return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)  # position, velocity

    def transition(self, state, action, key):
        position, velocity = state
        velocity = velocity + 0.1 * action[0]
        return jnp.stack([position + 0.1 * velocity, velocity])

    def observation(self, state):
        return state

    def reward(self, state, action, next_state):
        return -(next_state[0] ** 2) - self.effort_weight * jnp.sum(action**2)

    def terminal(self, state):
        return jnp.abs(state[0]) > 3.0


def train(iterations: int = 100):
    """Trains PPO on the cart; returns the training return of each iteration."""
    from agents.ppo import PPO, PPOConfig

    # A short horizon: far ahead, leaving the track would end the costs.
    settings = {"num_envs": 16, "num_steps": 64, "learning_rate": 1e-3, "gamma": 0.95}
    config = PPOConfig(total_steps=iterations * 16 * 64, **settings)
    algo = PPO(config, Cart())
    state = jax.jit(algo.init)(jax.random.key(0))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: algo.step(s), state, None, iterations))
    return run(state)[1]["train/return"]


if __name__ == "__main__":
    returns = train()
    print(
        f"return {np.nanmean(returns[:10]):.1f} at first, {np.nanmean(returns[-10:]):.1f} in the end"
    )
