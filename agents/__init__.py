"""The algorithms, by the name that `--algo` takes."""

from agents.ppo import PPO

ALGORITHMS = {"ppo": PPO}
