"""Trains a small language model by reinforcement: python -m experiments.tokens --algo grpo --task sort

    prompts -> responses -> rewards -> advantages -> update

as for a robot: `agents/tokens/collection.py` has the first three, and the update is the robot's own. With
`--answer DIR` the policy of a run answers a prompt instead; `--export NEW --run DIR` writes it as published weights.
"""

import sys

from envs import process
from experiments.console.exits import run_main
from experiments.run import answers, command, export


def main() -> None:
    run_main(lambda: run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Trains, answers a prompt, or exports a policy; returns the exit code."""
    if export.asked(argv):
        return export.command(argv)
    process.draw_in_loop()
    return answers.command(argv) if answers.asked(argv) else command.main(argv, domain="tokens")


if __name__ == "__main__":
    main()
