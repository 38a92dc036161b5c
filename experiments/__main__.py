"""Lists the commands, and runs one: `python -m experiments`, or `stride` where the package is installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from experiments import __version__
from experiments.console.exits import BAD_INPUT, fail
from experiments.console.suggest import quoted, suggestion

COMMANDS = {
    "walker": "teach the two-legged robot to walk",
    "train": "train on any environment",
    "tokens": "train a small language model by reinforcement",
    "reward": "train a reward model for a token task",
    "datasets": "record datasets to learn from offline, list and show them",
    "play": "show a trained policy, as a video or in a window",
    "envs": "list the environments, or check one of your own",
    "suite": "train a grid of environments, algorithms and seeds",
    "compare": "compare learning curves: scores, intervals, figures",
    "report": "explore learning curves in a browser, as one offline page",
    "publish": "put finished runs on record, with a page of results",
    "overview": "write the table of algorithms and environments in README.md",
    "bench": "measure speed, relative to physics alone",
    "studies": "reproduce small studies: bandit, cliff, variance, kl",
}


def run(argv: Sequence[str]) -> int:
    """Runs the command that `argv` begins with, or lists all of them. Returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: stride COMMAND [--help] ...   or   python -m experiments.COMMAND ...\n")
        print("\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()))
        return 0
    name, *rest = argv
    if name == "--version":
        print(f"stride {__version__}")
        return 0
    if name not in COMMANDS:
        message = f"there is no command {quoted(name)}: {suggestion(name, COMMANDS)}"
        return fail(ValueError(message), BAD_INPUT)
    sys.argv = [name, *rest]  # usages name the module that runs
    module = "studies.__main__" if name == "studies" else name
    importlib.import_module(f"experiments.{module}").main()  # which ends the process
    return 0


def main() -> None:
    """Runs `run` on the process's own arguments and ends the process."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
