"""Trains on any environment: python -m experiments.train --env NAME --algo ppo"""

import sys

from experiments import cli


def main() -> int:
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
