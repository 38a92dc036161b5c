"""A reward of one's own for a token task: python docs/examples/own_reward.py"""

import jax
import jax.numpy as jnp

from agents.tokens.grpo import TokenGRPO, TokenGRPOConfig
from agents.tokens.reward import Reward
from envs.tokens import make_tokens


def ascending(params, prompts, responses, lengths):
    """Pays for every digit that is not smaller than the one before it, right or wrong; [N, R]."""
    place = jnp.arange(responses.shape[1])
    rising = (responses[:, 1:] >= responses[:, :-1]) & (place[1:] < lengths[:, None] - 1)
    return jnp.pad(rising / responses.shape[1], ((0, 0), (1, 0)))


def train(iterations: int = 20):
    """Trains GRPO on sorting four digits with that reward; returns mean reward and share of right answers."""
    env = make_tokens("sort-4")
    config = TokenGRPOConfig(
        total_steps=iterations * 128 * env.response_length,
        num_responses=128,
        num_minibatches=2,
        imitation_steps=20,
        layers=1,
        width=32,
        mlp_width=64,
    )
    algo = TokenGRPO(config, env, reward=Reward(ascending))
    state = jax.jit(algo.init)(jax.random.key(0))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: algo.step(s), state, None, iterations))
    metrics = run(state)[1]
    return metrics["train/reward"], metrics["train/correct"]


if __name__ == "__main__":
    reward, correct = train()
    print(f"reward {reward[0]:.2f} at first, {reward[-1]:.2f} in the end; right: {correct[-1]:.0%}")
