"""Teaches the two-legged robot to walk: python -m experiments.walker --algo ppo"""

import sys

from experiments.console.exits import run_main
from experiments.run import command as cli


def main() -> None:
    run_main(lambda: cli.main(sys.argv[1:], env="walker"))


if __name__ == "__main__":
    main()
