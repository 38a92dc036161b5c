"""Trains the two-legged robot to walk: python -m experiments.walker --algo ppo"""

import sys

from experiments.console.exits import run_main
from experiments.run import command


def main() -> None:
    run_main(lambda: command.main(sys.argv[1:], env="walker"))


if __name__ == "__main__":
    main()
