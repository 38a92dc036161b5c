"""Teaches the two-legged robot to walk: python -m experiments.walker --algo ppo"""

import sys

from experiments import cli


def main() -> int:
    return cli.main(sys.argv[1:], env="walker")


if __name__ == "__main__":
    sys.exit(main())
