"""`python -m experiments` and `stride`."""

import importlib.util
from pathlib import Path

import pytest

import experiments
from experiments import __main__ as commands

FRONT_DOORS = {
    path.stem
    for path in Path(experiments.__file__).parent.glob("*.py")
    if not path.stem.startswith("_")
} | {"studies"}


def test_every_command_is_listed_with_a_line(capsys):
    assert commands.run([]) == 0
    listed = capsys.readouterr().out.splitlines()[2:]
    assert {line.split()[0] for line in listed} == {*commands.COMMANDS}
    assert all(len(line.split()) > 2 for line in listed)
    assert {*commands.COMMANDS} == FRONT_DOORS - {"cli"}
    assert all(importlib.util.find_spec(f"experiments.{name}") for name in commands.COMMANDS)


def test_a_command_runs_with_its_own_flags(capsys):
    with pytest.raises(SystemExit) as end:
        commands.run(["envs", "--help"])
    assert end.value.code == 0
    assert "usage: python -m experiments.envs" in capsys.readouterr().out


def test_a_mistyped_command_is_one_line(capsys):
    assert commands.run(["trian"]) == 2
    assert capsys.readouterr().err == ("error: there is no command 'trian': did you mean train?\n")


def test_version(capsys):
    assert commands.run(["--version"]) == 0
    assert capsys.readouterr().out == f"stride {experiments.__version__}\n"
