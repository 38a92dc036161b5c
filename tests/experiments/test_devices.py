"""Several devices: one subprocess, which has four, compares 1, 2 and 4 of them; refusals need none."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agents import ALGORITHMS, TOKEN_ALGORITHMS
from experiments.run import devices

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("on_four_devices.py")


def run(*cases: str) -> dict:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(SCRIPT), *cases]
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(found: dict) -> None:
    """Differences are small; gradients are summed over devices, and nothing of the rollout is gathered."""
    for what, x in found.items():
        if " on " in what:
            assert x < 1e-5, what
        elif what.endswith("reduces"):
            assert x > 0, what
        elif what.endswith("gathers"):
            assert x == 0, what


@pytest.mark.slow
def test_one_two_and_four_devices_learn_the_same():
    found = run("ppo", "host")
    check(found)
    assert {"ppo on 2", "ppo on 4"} <= found.keys()
    # One call of two substeps for each step and device, for the device's own 4 of 8 environments.
    assert found["host"] == [[4, 2]] * (2 * 3)


@pytest.mark.slow
def test_all_learners_that_several_devices_may_have():
    names = ["ppo-kl", "a2c", "impala"]
    names += [f"token-{name}" for name in ("ppo", "grpo", "rloo", "reinforce")]
    found = run(*names)
    check(found)
    assert {f"{name} on 4" for name in names} <= found.keys()


@pytest.mark.slow
def test_two_processes_learn_as_one_of_two_devices_and_the_first_writes(tmp_path):
    script, files = (
        SCRIPT.with_name("on_two_processes.py"),
        [tmp_path / "one.npz", tmp_path / "two"],
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def begin(*arguments):
        words = [sys.executable, str(script), *map(str, arguments)]
        return subprocess.Popen(words, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    alone = [begin(files[0])]
    joined = [begin(f"{files[1]}-{rank}.npz", address, rank) for rank in (0, 1)]
    for process in alone + joined:
        said = process.communicate(timeout=240)[1]
        assert process.returncode == 0, said
    assert [path.name for path in sorted(tmp_path.glob("two*"))] == ["two-0.npz"]
    with np.load(files[0]) as one, np.load(f"{files[1]}-0.npz") as two:
        assert one.files == two.files
        for name in one.files:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6)


PPO = ALGORITHMS["ppo"].Config(num_envs=8, num_steps=4, num_minibatches=4)
GRPO = TOKEN_ALGORITHMS["grpo"].Config(num_responses=16, group_size=8, num_minibatches=2)


@pytest.mark.parametrize(
    ("number", "algo", "domain", "config", "line"),
    [
        (0, "ppo", "control", PPO, "--devices must be at least 1, got 0"),
        (2, "sac", "control", PPO, "--devices 2 goes with ppo, a2c, impala, not with sac"),
        (2, "dapo", "tokens", GRPO, "--devices 2 goes with ppo, grpo, .*, not with dapo"),
        (64, "ppo", "control", PPO, "--devices 64: JAX finds 1 device here; on a CPU, XLA_FLAGS="),
    ],
)
def test_what_cannot_be_spread_is_refused_in_one_line(number, algo, domain, config, line):
    with pytest.raises(ValueError, match=line):
        devices.require_devices(number, algo, domain, config)


def test_parts_must_be_equal_and_fit_the_update():
    with pytest.raises(ValueError, match="--devices 3 do not divide --num-envs 8 into equal parts"):
        devices.share_of(PPO, 3, "control")
    few = dataclasses.replace(PPO, num_steps=1, num_minibatches=4)
    with pytest.raises(ValueError, match=r"each of 4 devices has num_envs = 2: .*does not divide"):
        devices.share_of(few, 4, "control")
    with pytest.raises(ValueError, match="each of 4 devices has num_responses = 4: "):
        devices.share_of(GRPO, 4, "tokens")
    assert devices.share_of(PPO, 4, "control").num_envs == 2
