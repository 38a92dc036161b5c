"""Trains on any environment: python -m experiments.train --env NAME --algo ppo"""

import sys

from experiments.console.exits import run_main
from experiments.run import command as cli


def main() -> None:
    run_main(lambda: cli.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
