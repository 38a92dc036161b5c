"""Trains a small language model by reinforcement: python -m experiments.tokens --algo grpo --task sort

    prompts -> responses -> rewards -> advantages -> update

as for a robot: `agents/tokens/policy.py` has the first three, and the update is the robot's own.
"""

import sys

from experiments.console.exits import run_main
from experiments.run import command


def main() -> None:
    run_main(lambda: command.main(sys.argv[1:], domain="tokens"))


if __name__ == "__main__":
    main()
