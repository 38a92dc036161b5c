"""Runs that cannot be are refused in one line, before anything is compiled or written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import agents
from experiments.run import command, limits, memory
from tests.experiments import stub

ROOT = Path(__file__).parents[2]
CARTPOLE = "--env CartPole-v1"
SMALL = "--num-envs 4 --num-steps 8 --num-minibatches 2 --hidden-sizes 8 --total-steps 64"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)


def refused(capsys, flags, **kwargs):
    assert command.main(flags.split(), **kwargs) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert len(captured.err) < 400
    assert not list(Path().iterdir())
    return captured.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--algo dqn --buffer-size 99999999999999999999", "buffer_size must be below 2147483648"),
        ("--algo dqn --batch-size 4294967296", "batch_size must be below 2147483648"),
        ("--algo dqn --update-ratio 1e30", "update_ratio x total_steps"),
        ("--algo dqn --target-period 2147483648", "target_period must be below 2147483648"),
        ("--algo ppo --max-episode-steps 2147483648", "max_episode_steps must be below 2147483648"),
        ("--algo ppo --max-episode-steps 99999999999999999999", "max_episode_steps must be below"),
        ("--algo ppo --num-envs 2147483647", "num_envs x num_steps must be below 2147483648"),
        ("--algo ppo --seeds 2147483649", "--seeds must be at most 2147483648"),
        ("--algo ppo --seed 99999999999999999999", "--seed must be between 0 and 2147483647"),
        ("--algo ppo --gamma 1e-300", "gamma must be 0 or at least 1.2e-38"),
        ("--algo ppo --learning-rate 1e300", "learning_rate must be at most 3.4e+38"),
        ("--algo stub --num-envs 3000000000", "an iteration has 3000000000 steps"),
        ("--algo ppo --num-envs " + "9" * 5000, "a number of 5000 digits is beyond all bounds"),
        ("--algo ppo --gamma " + "x" * 5000, "is not a number"),
        ("--algo ppo --" + "x" * 5000, "unknown flag --xxx"),
        ("--algo ppo --hidden-sizes" + " 8" * 1000, "hidden_sizes must be of at most 100 layers"),
        ("--algo ppo --out " + "x" * 5000, "File name too long"),
    ],
    ids=lambda text: text[:40],
)
def test_sizes_that_cannot_be(capsys, flags, message):
    assert message in refused(capsys, f"{CARTPOLE} {flags}")


def test_a_million_layers_of_a_transformer(capsys):
    said = refused(capsys, "--task sort --layers 1000000", domain="tokens")
    assert said == "error: layers must be at most 100, got 1000000\n"


def test_a_transformer_that_no_machine_holds(capsys, monkeypatch):
    monkeypatch.setattr(memory, "free_on_device", lambda: 2**30)
    said = refused(capsys, "--task sort --layers 90 --width 8192", domain="tokens")
    assert said.startswith("error: memory: the model with its optimiser would take ")
    assert said.endswith(" and 1 GiB are free: lower --width\n")


PICTURE = """
import flax.struct, gymnasium, jax, jax.numpy as jnp, numpy as np
from envs.base import Env

@flax.struct.dataclass
class Picture(Env):
    max_episode_steps: int = flax.struct.field(pytree_node=False, default=50)
    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)
    def initial(self, key): return jnp.zeros(2)
    def transition(self, state, action, key): return state + action
    def observation(self, state): return jnp.zeros((64, 64, 3), jnp.uint8)
    def reward(self, state, action, next_state): return 1.0
    def terminal(self, state): return state[0] > 20
"""


def test_a_replay_buffer_of_pictures(capsys, tmp_path_factory):
    """The case 16-replay-of-pictures. No machine has 22,897 GiB."""
    file = tmp_path_factory.mktemp("mine") / "my_env.py"
    file.write_text(PICTURE)
    flags = f"--env {file}:Picture --algo dqn --buffer-size 1000000000 --total-steps 3000"
    said = refused(capsys, flags)
    assert "memory: the replay buffer would take 22897 GiB or more, and " in said
    assert said.endswith(" are free: lower --buffer-size\n")


@pytest.mark.parametrize(
    ("flags", "what", "flag"),
    [
        (f"{SMALL} --hidden-sizes 100000 100000", "the networks", "hidden-sizes"),
        (f"{SMALL} --seeds 5000000", "the networks", "seeds"),
        (f"{SMALL} --num-steps 40000000 --total-steps 999999999", "training", "num-steps"),
        ("--algo dqn --buffer-size 100000000", "the replay buffer", "buffer-size"),
        ("--algo dqn --batch-size 100000000", "training", "batch-size"),
    ],
)
def test_memory_asked_for_is_compared_with_memory_there_is(capsys, monkeypatch, flags, what, flag):
    monkeypatch.setattr(memory, "free_on_device", lambda: 2**30)
    said = refused(capsys, f"{CARTPOLE} {flags}")
    assert said.startswith(f"error: memory: {what}")
    assert said.endswith(f" GiB or more, and 1 GiB are free: lower --{flag}\n")


@pytest.mark.parametrize("free", [2**30, None])
def test_what_fits_is_traced_and_not_refused(monkeypatch, free):
    monkeypatch.setattr(memory, "free_on_device", lambda: free)
    folder, spec, algo, *_ = command.prepare(f"{CARTPOLE} --algo ppo {SMALL}".split(), None)
    programs = limits.traced_programs(spec, algo)
    assert programs.compile_s > 0
    assert 2**10 < limits._evaluation(spec, algo, programs) < 2**30
    assert not folder.exists()


def test_memory_that_runs_out_all_the_same_is_one_line(capsys, monkeypatch):
    def full(*_, **__):
        raise MemoryError("Unable to allocate 9 GiB\nfor an array")

    monkeypatch.setattr(command, "train", full)
    assert command.main(f"{CARTPOLE} --algo stub --out run".split()) == 1
    assert capsys.readouterr().err == "error: out of memory: Unable to allocate 9 GiB\n"


@pytest.mark.slow
def test_a_run_that_is_still_compiling_stops_at_once(tmp_path):
    layers = ["8"] * 60  # some minutes of compiling
    words = [sys.executable, "-m", "experiments.train", *CARTPOLE.split(), *SMALL.split()]
    words += ["--hidden-sizes", *layers, "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        assert "run folder: run" in next(iter(run.stdout))
        time.sleep(1)
        run.send_signal(signal.SIGTERM)
        start = time.monotonic()
        assert run.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - start < 10
        assert "resume with: python -m experiments.train --resume run" in run.stdout.read()


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (1, "1 B"), (1000, "1000 B"), (1536, "1.5 KiB"), (1010 * 1024, "1010 KiB"), (1024**2, "1 MiB"),
     (1024**3, "1 GiB"), (5 * 1024**4, "5120 GiB")],
)  # fmt: skip
def test_bytes_for_people(n, text):
    assert limits.human_bytes(n) == text
