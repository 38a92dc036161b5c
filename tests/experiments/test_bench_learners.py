"""Training against other people's learners: what is equal, and what happens where a rival is missing."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

import jax
import pytest

import envs
from agents import ALGORITHMS
from experiments import bench
from experiments.benchmarks import learners
from experiments.benchmarks.learners import (
    MATCHUPS,
    Matchup,
    against_learners,
    rival_settings,
)
from experiments.benchmarks.workloads import ITERATIONS
from experiments.console import exits

SMALL = Matchup(
    "CartPole-v1",
    "ppo",
    ("sb3", "sbx"),
    {"num_envs": 2, "num_steps": 4, "num_epochs": 1, "num_minibatches": 1},
)
PAIRS = [(c, rival) for c in MATCHUPS for rival in c.rivals]


def interpreter(tmp_path: Path, script: str) -> Path:
    """A program in the place of a rival's Python; its arguments are WORKER KIND TASK SETTINGS."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def ours(config) -> tuple[float, int]:
    """Gradient steps for each environment step, and the size of a minibatch."""
    if hasattr(config, "update_ratio"):
        return config.round_updates / config.round_steps, config.batch_size
    steps = config.num_envs * config.num_steps
    return config.num_epochs * config.num_minibatches / steps, steps // config.num_minibatches


def theirs(rival: str, arguments: dict) -> tuple[float, int]:
    if rival == "rejax":
        steps = arguments["num_envs"] * arguments["num_steps"]
        minibatches = arguments["num_minibatches"]
        return arguments["num_epochs"] * minibatches / steps, steps // minibatches
    size = arguments["batch_size"]
    if "n_steps" in arguments:
        minibatches, rest = divmod(arguments["n_steps"], size)
        assert rest == 0  # a remainder would be a minibatch of its own
        return arguments["n_epochs"] * minibatches / arguments["n_steps"], size
    return arguments["gradient_steps"] / arguments["train_freq"], size


@pytest.mark.parametrize(("comparison", "rival"), PAIRS, ids=lambda x: getattr(x, "key", x))
def test_both_sides_learn_as_much(comparison, rival):
    config = comparison.config
    arguments = rival_settings(rival, comparison.algo, config)["arguments"]
    assert theirs(rival, arguments) == ours(config)
    network = arguments.get("agent_kwargs") or arguments["policy_kwargs"]
    sizes = network["hidden_layer_sizes" if rival == "rejax" else "net_arch"]
    assert tuple(sizes) == config.hidden_sizes


def test_the_table_is_what_was_asked_for():
    found = {c.key: ours(c.config) for c in MATCHUPS}
    assert found == {
        "learn/HalfCheetah-v5/ppo": (10 / 64, 64),
        "learn/HalfCheetah-v5/sac": (1.0, 256),
        "learn/HalfCheetah-v5/td3": (1.0, 256),
        "learn/CartPole-v1/dqn": (0.5, 128),
        "learn/CartPole-v1/ppo": (10 * 32 / 4096, 128),
    }
    sizes = [c.config.hidden_sizes for c in MATCHUPS]
    assert sizes == [(64, 64), (256, 256), (256, 256), (128, 128), (64, 64)]
    td3 = next(c for c in MATCHUPS if c.algo == "td3")
    assert rival_settings("sbx", "td3", td3.config)["arguments"]["policy_delay"] == 2


def test_slices_are_whole():
    for comparison, rival in PAIRS:
        settings = rival_settings(rival, comparison.algo, comparison.config)
        arguments = settings["arguments"]
        if rival == "rejax":  # evaluates once, at the end of so many iterations
            steps = arguments["num_envs"] * arguments["num_steps"]
            assert arguments["eval_freq"] == arguments["total_timesteps"] == ITERATIONS * steps
        else:
            assert settings["slice"] % arguments.get("n_steps", arguments.get("train_freq")) == 0
            assert settings["warm_up"] > arguments.get("learning_starts", 0)


@pytest.mark.slow
def test_our_iterations_take_as_many_gradient_steps_as_is_said():
    # CartPole stands in for HalfCheetah: the ratio is the learner's business, not the task's.
    small = {"buffer_size": 500, "warmup_steps": 8, "batch_size": 4, "hidden_sizes": (4, 4)}
    dqn = next(c for c in MATCHUPS if c.algo == "dqn")
    for config in (
        dataclasses.replace(dqn.config, **small),
        dataclasses.replace(dqn.config, **small, num_envs=1, num_steps=1, update_ratio=1.0),
    ):
        algo = ALGORITHMS["dqn"](config, envs.make("CartPole-v1"))
        state = jax.jit(algo.init)(jax.random.key(0))
        after, _ = jax.jit(algo.step)(state)
        assert after.env_steps - state.env_steps == algo.iteration_steps
        assert after.updates - state.updates == algo.iteration_steps * ours(config)[0]

    config = dataclasses.replace(SMALL.config, num_steps=16, num_epochs=3, num_minibatches=4)
    algo = ALGORITHMS["ppo"](config, envs.make("CartPole-v1"))
    after, _ = jax.jit(algo.step)(jax.jit(algo.init)(jax.random.key(0)))
    counts = {int(x) for x in jax.tree.leaves(after.opt_state) if x.dtype == "int32"}
    assert counts == {3 * 4} == {round(algo.iteration_steps * ours(config)[0])}


def test_what_a_rival_cannot_do_is_refused():
    ppo, dqn = MATCHUPS[0].config, MATCHUPS[3].config
    with pytest.raises(ValueError, match="sbx's ppo has activation tanh, ours relu"):
        rival_settings("sbx", "ppo", dataclasses.replace(ppo, activation="relu"))
    with pytest.raises(ValueError, match="two layers of one width"):
        rival_settings("sbx", "dqn", dataclasses.replace(dqn, hidden_sizes=(64, 32)))
    for extra in ("double", "layer_norm"):
        with pytest.raises(ValueError, match="a plain network, and is neither double"):
            rival_settings("sbx", "dqn", dataclasses.replace(dqn, **{extra: True}))


def test_rivals_are_told_their_settings_and_a_missing_one_is_left_out(tmp_path, capsys):
    # A rate of 2 steps a second from the one; the other's package is not there.
    said = tmp_path / "said.json"
    program = interpreter(
        tmp_path,
        f"""test "$2" = sbx && {{ echo Traceback >&2; echo "No module named 'sbx'" >&2; exit 1; }}
printf %s "$4" > {shlex.quote(str(said))}
echo ready; while read seconds; do echo 2.0; done""",
    )
    saved: list[dict] = []
    figures = learners.bench_learners(program, 2, 0.01, saved.append, (SMALL,))
    key = SMALL.key
    assert figures[f"{key}/sb3"] == 2.0
    assert figures[f"{key}/of_sb3"] == pytest.approx(figures[f"{key}/here"] / 2.0)
    assert not [name for name in figures if name.endswith("sbx")]
    assert saved == [figures]
    assert json.loads(said.read_text()) == rival_settings("sb3", "ppo", SMALL.config)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "left out: sbx on CartPole-v1: No module named 'sbx'"
    assert len(lines) == 3


def test_a_package_that_is_not_installed_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(learners, "training", lambda algo: lambda: 1)  # compiles nothing
    # The worker itself, in this interpreter: it starts without the project and dies of the import.
    comparison = dataclasses.replace(SMALL, rivals=("rejax",))
    missing = interpreter(tmp_path, f'exec {shlex.quote(sys.executable)} -S "$@"')
    figures = against_learners(comparison, missing, 1, 0.01)
    assert set(figures) == {f"{SMALL.key}/here", f"{SMALL.key}/of_here"}
    assert "rejax on CartPole-v1: ModuleNotFoundError: No module named" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["--learners", "--tasks", "CartPole-v1"],
        ["--learners", "--tokens"],
        ["--rounds", "0"],
        ["--seconds", "-1"],
        ["--rivals-python", "/nowhere", "--tasks", "CartPole-v1"],
    ],
)
def test_flags_that_cannot_be_measured_leave_no_file(argv, tmp_path, monkeypatch, capsys):
    figures = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", ["bench", *argv, "--json", str(figures)])
    with pytest.raises(SystemExit) as stopped:
        bench.main()
    assert stopped.value.code == exits.BAD_INPUT
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1
    assert argv[0] in message[0] or argv[1] in message[0]
    assert not figures.exists()


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path, monkeypatch, capsys):
    path = tmp_path / "package.json"
    path.write_text('{"mine": 1}')
    monkeypatch.setattr("sys.argv", ["bench", "--tokens", "--json", str(path)])
    with pytest.raises(SystemExit) as stopped:
        bench.main()
    assert stopped.value.code == exits.BAD_INPUT
    assert "package.json was not written by this command" in capsys.readouterr().err
    assert path.read_text() == '{"mine": 1}'
    for published in ("classic", "learners", "mujoco", "mujoco-threads", "tokens"):
        text = (Path(__file__).parents[2] / f"results/bench/{published}.json").read_text()
        assert bench._is_ours(text)
