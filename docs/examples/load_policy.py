"""The policy of a finished run as a function: python docs/examples/load_policy.py DIR"""

import sys
from pathlib import Path

import gymnasium
import numpy as np

import envs  # noqa: F401  registers stride/...
from experiments import load


def episode(run: str | Path, name: str, seed: int = 0) -> float:
    """The return of one episode of the run's policy in a Gymnasium environment."""
    policy = load(run)  # observation in, action out; NumPy arrays
    env = gymnasium.make(name)
    obs, _ = env.reset(seed=seed)
    total, done = 0.0, False
    while not done:
        obs, reward, terminated, truncated, _ = env.step(policy(np.asarray(obs)))
        total, done = total + float(reward), terminated or truncated
    return total


if __name__ == "__main__":
    print(f"return {episode(sys.argv[1], 'stride/CartPole-v1'):.0f}")
