"""PPO with a network of one's own: python docs/examples/own_network.py"""

import jax
import jax.numpy as jnp
from flax import nnx

import envs
from agents.distributions import Categorical
from agents.networks import Functional
from agents.on_policy import Policy, policy_of
from agents.ppo import PPO, PPOConfig
from agents.spaces import num_inputs


class Shared(nnx.Module):
    """Policy and value on one body, with layer normalisation."""

    def __init__(self, inputs: int, actions: int, width: int, *, rngs: nnx.Rngs):
        self.body = nnx.Linear(inputs, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.policy = nnx.Linear(width, actions, rngs=rngs)
        self.critic = nnx.Linear(width, 1, rngs=rngs)

    def features(self, obs):
        return jax.nn.relu(self.norm(self.body(obs)))

    def distribution(self, obs):
        return Categorical(self.policy(self.features(obs)))

    def value(self, obs):
        return self.critic(self.features(obs))[..., 0]


def shared(env) -> Policy:
    """The policy that PPO takes in place of its own."""
    inputs, actions = num_inputs(env.observation_space), int(env.action_space.n)
    network = Functional(lambda rngs: Shared(inputs, actions, 64, rngs=rngs))
    return policy_of(
        network.init,
        lambda params, obs: network.module(params).distribution(obs),
        lambda params, obs: network.module(params).value(obs),
    )


def train(iterations: int = 40):
    """Returns the training return of each iteration."""
    config = PPOConfig(
        total_steps=iterations * 16 * 128, num_envs=16, num_steps=128, learning_rate=1e-3
    )
    env = envs.make("CartPole-v1")
    algo = PPO(config, env, shared(env))
    state = jax.jit(algo.init)(jax.random.key(0))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: algo.step(s), state, None, iterations))
    _, metrics = run(state)
    return jnp.asarray(metrics["train/return"])


if __name__ == "__main__":
    returns = train()
    print(f"return {returns[0]:.0f} at first, {returns[-1]:.0f} in the end")
