"""What the README shows, works."""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import envs
from agents.ppo import PPO, PPOConfig

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
    config = PPOConfig(total_steps=300 * 512, num_envs=16, num_steps=32, learning_rate=1e-3)
    algo = PPO(config, env)
    state = jax.jit(algo.init)(jax.random.key(0))
    _, metrics = jax.jit(lambda s: jax.lax.scan(lambda s, _: algo.step(s), s, None, 300))(state)
    returns = np.asarray(metrics["train/return"])
    assert np.nanmean(returns[-20:]) > -20 > -40 > np.nanmean(returns[:20])


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
