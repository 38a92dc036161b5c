import sys
import time

import pytest

from agents.ppo import PPOConfig
from experiments import tracking
from experiments.spec import Spec

SPEC = Spec("probe-constant", {}, "ppo", PPOConfig(), seed=0, seeds=1)


def test_rows_arrive_in_tensorboard(tmp_path):
    track = tracking.start("tensorboard", tmp_path, SPEC)
    track(0, [{"env_steps": 64, "train/return": 3.5, "kl": None}])
    (file,) = (tmp_path / "tensorboard" / "seed_0").iterdir()
    deadline = time.monotonic() + 20  # a thread of its own writes it
    while "train/return" not in (found := scalars(file)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found == {"train/return": (64, 3.5)}


def scalars(file):
    from tensorboardX.proto.event_pb2 import Event

    found, data = {}, file.read_bytes()
    while (
        len(data) > 16
    ):  # TFRecord: length (8 bytes), its checksum (4), the event, its checksum (4)
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
    return found


def test_none_does_nothing(tmp_path):
    tracking.require("none")
    tracking.start("none", tmp_path, SPEC)(0, [{"env_steps": 1}])
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_the_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"needs the extra stride-rl\[wandb\]"):
        tracking.require("wandb")
