"""Trains on any environment: python -m experiments.train --env NAME --algo ppo"""

import sys

from experiments.console.exits import run_main
from experiments.run import command


def main() -> None:
    run_main(lambda: command.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
