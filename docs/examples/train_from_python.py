"""Trains PPO on CartPole without the command line: python docs/examples/train_from_python.py"""

import jax

import envs
from agents.ppo import PPO, PPOConfig


def train(iterations: int = 30, seeds: int = 4):
    """Trains several seeds side by side; returns the algorithm, the states and metrics [seeds, iterations]."""
    config = PPOConfig(
        total_steps=iterations * 16 * 128, num_envs=16, num_steps=128, learning_rate=1e-3
    )
    algo = PPO(config, envs.make("CartPole-v1"))

    def one_seed(key):
        state = algo.init(key)
        return jax.lax.scan(lambda state, _: algo.step(state), state, None, iterations)

    keys = jax.vmap(jax.random.key)(jax.numpy.arange(seeds))
    states, metrics = jax.jit(jax.vmap(one_seed))(keys)
    return algo, states, metrics


if __name__ == "__main__":
    _, _, metrics = train()
    for seed, returns in enumerate(metrics["train/return"]):
        print(f"seed {seed}: return {returns[0]:.0f} at first, {returns[-1]:.0f} in the end")
