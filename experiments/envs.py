"""Lists the environments, or checks that one keeps the contract.

python -m experiments.envs
python -m experiments.envs --check walker
python -m experiments.envs --check my_robot.py:MyRobot
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import gymnasium
from rich.console import Console
from rich.table import Table

import envs
from envs.physics import BACKENDS
from experiments.console import options
from experiments.console.exits import run_main
from experiments.console.flags import ImportFlag, parse_flags
from experiments.run.spec import execute, make_env
from experiments.user_envs import check, load


@dataclasses.dataclass(frozen=True)
class EnvsFlags:
    """Flags of `python -m experiments.envs`."""

    check: str | None = None
    """the environment to check: a name, or FILE.py:NAME; None: list all environments"""
    imports: ImportFlag = ()
    """a Python file to execute first; it may register environments; may be given several times"""


def main() -> None:
    run_main(lambda: inspect_envs(sys.argv[1:]))


def inspect_envs(argv: Sequence[str]) -> int:
    """Lists the environments, or checks one. Returns 0, or 1 where a check failed; raises ValueError for bad input."""
    flags = parse_flags(EnvsFlags, argv, EnvsFlags(), "Lists the environments, or checks one.")
    execute(flags.imports)
    console = Console(highlight=False, soft_wrap=True)
    if flags.check is None:
        console.print(listing())
        console.print("tokens-NAME is trained on with: python -m experiments.tokens --task NAME")
        return 0
    return _check(flags.check, console)


def listing() -> Table:
    """Returns a table of every registered environment, one a row."""
    table = Table("name", "observation", "actions", "limit", "engines")
    for name in envs.names():
        table.add_row(name, *_row(name))
    return table


def _row(name: str) -> tuple[str, ...]:
    try:
        env = envs.make(name)
        takes = [option.name for option in options.options(envs.factory(name))]
        engines = ", ".join(BACKENDS[1:]) if "backend" in takes else "-"
        spaces = (space_text(space) for space in (env.observation_space, env.action_space))
        return (*spaces, str(env.max_episode_steps), engines)
    except (ImportError, ValueError, OSError) as error:
        return (f"cannot be made: {' '.join(str(error).split())}", "", "", "")


def space_text(space: gymnasium.Space) -> str:
    """Returns a space in few words."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return f"{space.n} choices"
    if isinstance(space, gymnasium.spaces.Box):
        return f"{' x '.join(map(str, space.shape)) or 'one'} {space.dtype.name}"
    return type(space).__name__


def _check(name: str, console: Console) -> int:
    if name.startswith(envs.HOST_PREFIX):
        raise ValueError(
            f"{name} runs on the host, where this contract does not hold; "
            "gymnasium.utils.env_checker checks it"
        )
    # One that is made, but is none, is a finding; one that cannot be made is bad input.
    env = make_env(name, {})
    is_file = load.is_file(name)
    folder = Path(load.absolute(name).rpartition(":")[0]).parent if is_file else None
    findings = check.check(env, folder)
    for f in findings:
        result = (
            f"FAIL: {f.problem}" if f.problem else f"ok, but note: {f.note}" if f.note else "ok"
        )
        console.print(f"{f.check}: {result}", markup=False)
    left = len(check.checks_of(env)) - len(findings)
    if left:
        console.print(f"{left} more checks wait until that is fixed")
    return 0 if check.passed(findings) else 1


if __name__ == "__main__":
    main()
