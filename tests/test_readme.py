"""What the README shows, works."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MOST = 107  # characters of a line of code that GitHub shows without scrolling


def test_the_learner_can_be_used_as_shown():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    scope = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), scope)
    algo, state, action = (scope[name] for name in ("algo", "state", "action"))
    assert int(state.env_steps) == algo.iteration_steps
    assert action.shape == (64, *algo.env.action_space.shape)


def test_every_command_exists():
    modules = set(re.findall(r"python3? -m (experiments\.\w+)", README))
    assert {"experiments.walker", "experiments.train", "experiments.bench"} <= modules
    for module in modules:
        assert importlib.util.find_spec(module), module


def test_every_command_runs_in_the_environment_that_the_first_one_activates():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    commands = [line.partition(" #")[0] for block in blocks for line in block.splitlines()]
    assert commands[0].startswith("python3 -m venv .venv && . .venv/bin/activate && pip install")
    assert {command.split()[0] for command in commands} == {"python", "python3"}
    assert README.count(".venv/bin/") == README.count(". .venv/bin/activate")


def test_commands_fit_the_page():
    for block in re.findall(r"```\w+\n(.*?)```", README, re.S):
        assert max(map(len, block.splitlines())) <= MOST


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_file_it_speaks_of_exists(page):
    text = (ROOT / page).read_text()
    for name in re.findall(r"`((?:agents|envs|experiments|results|tests|docs)/[\w/.-]*\w)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\[[^]]*\]\((?!https?:)([^)#]+)[^)]*\)", text):
        assert (ROOT / name).exists(), name
