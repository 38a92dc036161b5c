"""The flag that names the environment of a run, and the default algorithm: `--env` for environments, `--task` for token
tasks."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tyro

from agents import ALGORITHMS, OFFLINE_ALGORITHMS, TOKEN_ALGORITHMS
from experiments.console.flags import parse_flags
from experiments.run.spec import TOKENS, Domain, algorithm, token_env


@dataclasses.dataclass(frozen=True)
class WhichEnv:
    """The environment to train on."""

    flag: ClassVar[str] = "env"
    algo: ClassVar[str] = "ppo"  # without --algo
    default: ClassVar[str | None] = None  # without the flag itself

    env: str
    """the environment: a name (python -m experiments.envs lists them), FILE.py:NAME, or gym:ID"""

    @staticmethod
    def env_name(given: str) -> str:
        """Returns the environment's name from the flag's value."""
        return given

    @staticmethod
    def shown(env: str) -> str:
        """Returns the flag's value from the environment's name."""
        return env


@dataclasses.dataclass(frozen=True)
class WhichTask:
    """The token task to train on."""

    flag: ClassVar[str] = "task"
    algo: ClassVar[str] = "grpo"
    default: ClassVar[str | None] = "sort"

    task: str
    """the task: sort, add, reverse, countdown, graph-path, bandit, guess-number, calculator, with a size if wanted
    (sort-4 is sort with --digits 4); or FILE.py:NAME"""

    @staticmethod
    def env_name(given: str) -> str:
        """Returns the environment's name from the flag's value."""
        return token_env(given)

    @staticmethod
    def shown(env: str) -> str:
        """Returns the flag's value from the environment's name."""
        return env.removeprefix(TOKENS)


WHICH: dict[str, Any] = {"control": WhichEnv, "tokens": WhichTask}


def learners(domain: Domain) -> str:
    """Returns a sentence that names the learners of a domain; for tokens, one more on their rewards."""
    names = f"--algo takes {', '.join(ALGORITHMS if domain == 'control' else TOKEN_ALGORITHMS)}."
    if domain == "control":
        return f"{names} With --dataset ID it takes {', '.join(OFFLINE_ALGORITHMS)} as well."
    return f"{names} --reward also takes model:DIR, ensemble:DIR,DIR and sum:W*TERM+W*TERM."


def help_on_any(run: Any, domain: Domain) -> None:
    """Prints the help of a command line that names no environment, and raises SystemExit(0).

    `run`: the run's flags. Raises ValueError where its learner is unknown.
    """
    config = algorithm(run.algo, domain).Config()
    parts = {"which": WHICH[domain](tyro.MISSING), "run": run, run.algo.replace("-", "_"): config}
    kinds = [(name, type(value)) for name, value in parts.items()]
    arguments = dataclasses.make_dataclass("Arguments", kinds)
    flag = WHICH[domain].flag
    description = (
        f"Trains {run.algo} on any environment. {learners(domain)} After --{flag} NAME, --help has the environment's "
        "own options too, and the defaults that suit it."
    )
    parse_flags(arguments, ["--help"], arguments(**parts), description)
