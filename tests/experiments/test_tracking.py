import json
import sys
import time
import types

import pytest

from agents.ppo import PPOConfig
from experiments.run import tracking
from experiments.run.folders import create
from experiments.run.spec import Spec

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


class Wandb(types.ModuleType):
    """Keeps what it is begun with."""

    def __init__(self):
        super().__init__("wandb")
        self.begun = []

    def init(self, **settings):
        self.begun.append(settings)
        return self

    def define_metric(self, *_, **__):
        pass


def test_wandb_ids_are_unique_and_kept(tmp_path, monkeypatch):
    """Two runs of the same settings, in folders of the same name; the first is resumed."""
    monkeypatch.setitem(sys.modules, "wandb", wandb := Wandb())
    folders = [tmp_path / name / "run" for name in ("a", "b")]
    for folder in folders:
        create(folder, SPEC.to_json())
    for folder in (*folders, folders[0]):
        tracking.start("wandb", folder, SPEC)
    ids = [settings["id"] for settings in wandb.begun]
    assert ids[0] == ids[2] != ids[1]
    assert {settings["name"] for settings in wandb.begun} == {"run"}
    assert {settings["resume"] for settings in wandb.begun} == {"allow"}


def test_an_older_runs_wandb_id_is_its_folders_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb := Wandb())
    create(tmp_path / "run", SPEC.to_json())
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    del config["id"]
    file.write_text(json.dumps(config))
    tracking.start("wandb", tmp_path / "run", SPEC)
    assert wandb.begun[0]["id"] == "run"


def test_a_missing_package_is_named_before_the_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"needs the extra stride-rl\[wandb\]"):
        tracking.require("wandb")
