"""One compiled program trains under several values of a coefficient: python docs/examples/sweep_coefficient.py"""

import jax
import jax.numpy as jnp
from own_environment import Cart

from agents.ppo import PPO, PPOConfig


def sweep(weights, iterations: int = 60):
    """Trains PPO on the cart with each effort weight; returns training returns [weights, iterations]."""
    # A short horizon: far ahead, leaving the track would end the costs.
    settings = {"num_envs": 16, "num_steps": 64, "learning_rate": 1e-3, "gamma": 0.95}
    config = PPOConfig(total_steps=iterations * 16 * 64, **settings)

    def one(weight):
        algo = PPO(config, Cart(effort_weight=weight))  # the weight may be a traced number
        state = algo.init(jax.random.key(0))
        return jax.lax.scan(lambda s, _: algo.step(s), state, None, iterations)[1]["train/return"]

    return jax.jit(jax.vmap(one))(jnp.asarray(weights))


if __name__ == "__main__":
    for weight, returns in zip([0.0, 0.1, 1.0], sweep([0.0, 0.1, 1.0]), strict=True):
        print(f"effort weight {weight}: return {jnp.nanmean(returns[-10:]):.1f}")
