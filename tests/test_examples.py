"""The examples of the documentation run, and do what they say."""

import importlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents.algorithm import Algorithm
from envs.tokens import make_tokens
from experiments.envs import inspect_envs
from experiments.evaluation import evaluator
from experiments.run import command

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture(autouse=True)
def as_a_script(monkeypatch):
    """An example may import its neighbours, as it may when it is run as a script."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in set(sys.modules) - before:
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def example(name):
    return importlib.import_module(name)


@pytest.mark.slow
def test_train_from_python():
    algo, states, metrics = example("train_from_python").train(iterations=3, seeds=2)
    assert metrics["train/return"].shape == (2, 3)
    np.testing.assert_array_equal(states.env_steps, 3 * algo.iteration_steps)


@pytest.mark.slow
def test_own_network():
    returns = example("own_network").train(iterations=12)
    assert np.mean(returns[-3:]) > 1.5 * np.mean(returns[:3])


@pytest.mark.slow
def test_own_environment():
    returns = np.asarray(example("own_environment").train(iterations=60))
    assert np.nanmean(returns[-10:]) > np.nanmean(returns[:10]) + 20.0


@pytest.mark.slow
def test_own_robot_passes_its_checks_and_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluator, "evaluation_episodes", lambda steps, limit: 4)
    source = (EXAMPLES / "my_robot.py").read_text()
    assert source.count("\n") <= 60
    Path("my_robot.py").write_text(source)
    assert inspect_envs(["--check", "my_robot.py:MyRobot"]) == 0
    assert "FAIL" not in capsys.readouterr().out
    flags = "--env my_robot.py:MyRobot --effort-weight 0.1 --max-episode-steps 20 --total-steps 64"
    flags += " --num-envs 4 --num-steps 8 --num-epochs 1 --num-minibatches 2 --out run"
    assert command.main(flags.split()) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["env"] == f"{tmp_path / 'my_robot.py'}:MyRobot"
    assert config["env_kwargs"]["effort_weight"] == 0.1
    assert Path("run/video.gif").exists()


@pytest.mark.slow
def test_load_policy(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluator, "evaluation_episodes", lambda steps, limit: 4)
    flags = "--env CartPole-v1 --algo a2c --total-steps 128 --num-envs 4 --num-steps 8 --no-video"
    assert command.main([*flags.split(), "--out", str(tmp_path / "run")]) == 0
    total = example("load_policy").episode(tmp_path / "run", "stride/CartPole-v1")
    assert 1.0 <= total <= 500.0


@pytest.mark.slow
def test_sweep_coefficient():
    returns = example("sweep_coefficient").sweep([0.0, 5.0], iterations=8)
    assert returns.shape == (2, 8)
    assert np.nanmean(returns[0]) > np.nanmean(returns[1])  # effort costs


@pytest.mark.slow
def test_own_task():
    correct = example("own_task").train(iterations=4)
    assert correct.shape == (4,)
    assert np.all(np.isfinite(correct))


def test_own_text_task():
    env = make_tokens(example("own_text_task").Backwards())
    prompts = env.held_out(jax.random.key(0), 8)
    solutions = env.solutions(prompts)
    assert env.score(prompts, solutions, jnp.full(8, 4))[1].all()
    assert env.decode(solutions[0], 3) == env.decode(prompts[0])[2::-1]


@pytest.mark.slow
def test_own_reward():
    module = example("own_reward")
    responses = jnp.array([[2, 3, 3, 5, 1], [3, 2, 4, 1, 0]])  # 1 ends a response, 0 is padding
    paid = module.ascending(None, None, responses, jnp.array([5, 4]))
    np.testing.assert_allclose(paid, [[0, 0.2, 0.2, 0.2, 0], [0, 0, 0.2, 0, 0]])
    reward, correct = module.train(iterations=4)
    # A sorted response has three pairs in order, at a fifth each; no response can have more.
    assert np.all(0.6 * correct - 1e-6 <= reward)
    assert np.all(reward <= 0.6 + 1e-6)
    assert reward[-1] > 0.6 * correct[-1]  # partly sorted responses are paid as well


def test_own_algorithm():
    module = example("own_algorithm")
    algo = module.RandomSearch(module.RandomSearchConfig(), envs.make("CartPole-v1"))
    assert isinstance(algo, Algorithm)
    best = module.train(iterations=3)
    assert best[-1] >= 50.0
