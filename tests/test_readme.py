"""What the README shows, works."""

import importlib.util
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import envs
from agents.ppo import PPO, PPOConfig
from experiments import cli, evaluator
from experiments import envs as envs_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def python_block(containing):
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.S) if containing in b)
    return block


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(envs, "_FACTORIES", dict(envs._FACTORIES))


@pytest.mark.usefixtures("registry")
def test_the_environment_of_ones_own_can_be_learned():
    exec(compile(python_block("class Cart"), "README.md", "exec"), {"__name__": "readme"})
    env = envs.make("cart")
    # A short horizon: with 0.99 some seeds first learn to leave the line, which ends an episode's costs.
    settings = {"num_envs": 16, "num_steps": 32, "learning_rate": 1e-3, "gamma": 0.95}
    config = PPOConfig(total_steps=300 * 512, **settings)
    algo = PPO(config, env)
    state = jax.jit(algo.init)(jax.random.key(0))
    _, metrics = jax.jit(lambda s: jax.lax.scan(lambda s, _: algo.step(s), s, None, 300))(state)
    returns = np.asarray(metrics["train/return"])
    assert np.nanmean(returns[-20:]) > -20 > -40 > np.nanmean(returns[:20])


def test_the_robot_of_ones_own_passes_its_checks_and_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluator, "evaluation_episodes", lambda steps, limit: 4)
    source = python_block("class MyRobot")
    assert source.count("\n") <= 60
    Path("my_robot.py").write_text(source)
    assert envs_command.command(["--check", "my_robot.py:MyRobot"]) == 0
    assert "FAIL" not in capsys.readouterr().out
    flags = "--env my_robot.py:MyRobot --effort-weight 0.1 --max-episode-steps 20 --total-steps 64"
    flags += " --num-envs 4 --num-steps 8 --num-epochs 1 --num-minibatches 2 --out run"
    assert cli.main(flags.split()) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["env"] == f"{tmp_path / 'my_robot.py'}:MyRobot"
    assert config["env_kwargs"]["effort_weight"] == 0.1
    assert Path("run/video.gif").exists()


def test_the_learner_can_be_used_as_shown():
    scope = {"__name__": "readme"}
    exec(compile(python_block("algo.step"), "README.md", "exec"), scope)
    assert int(scope["state"].env_steps) == scope["algo"].iteration_steps


def test_every_command_exists():
    modules = set(re.findall(r"python3? -m (experiments\.\w+)", README))
    assert {"experiments.walker", "experiments.train", "experiments.bench"} <= modules
    for module in modules:
        assert importlib.util.find_spec(module), module


def test_every_file_it_speaks_of_exists():
    for name in re.findall(r"`((?:agents|envs|experiments|results|tests)/[\w/.]*\w)`", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / name).exists(), name
