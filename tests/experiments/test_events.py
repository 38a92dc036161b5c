"""Event files, as tensorboardX and TensorFlow 2 write them."""

import struct

import numpy as np
import pytest

from experiments.analysis import events
from experiments.analysis.sources import METRIC, read

tensorboardx = pytest.importorskip("tensorboardX")
TAG = "eval/mean_reward"


def write(folder, points, name="0"):
    with tensorboardx.SummaryWriter(str(folder), filename_suffix=name) as writer:
        for step, value in points:
            writer.add_scalar(TAG, value, step)


def write_values(folder, *values):
    """Events with a summary's value each, framed by hand."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    folder.mkdir(parents=True)
    content = b""
    for step, value in enumerate(values):
        summary = Summary(value=[Summary.Value(tag=TAG, **value)])
        payload = Event(wall_time=1.0, step=step, summary=summary).SerializeToString()
        content += struct.pack("<Q", len(payload)) + b"CRC!" + payload + b"CRC!"
    (folder / f"{events.PREFIX}1.host").write_bytes(content)
    return folder


def tensor(dtype, **content):
    from tensorboardX.proto.tensor_pb2 import TensorProto

    return {"tensor": TensorProto(dtype=dtype, **content)}


def test_of_others(tmp_path):
    for seed in (0, 1):
        write(tmp_path / f"logs/Hopper-v5/sb3/{seed}", [(t, float(t + seed)) for t in (0, 10, 20)])
    found = read([tmp_path / "logs"], TAG).curves
    assert {(c.fields["env"], c.fields["algo"], c.fields["seed"]) for c in found} == {
        ("Hopper-v5", "sb3", "0"),
        ("Hopper-v5", "sb3", "1"),
    }
    np.testing.assert_allclose(sorted(c.value[-1] for c in found), [20, 21])
    found = read([tmp_path / "logs"], METRIC)
    assert [c.value[-1] for c in found.curves] == [20, 21]
    assert "eval/mean_reward is taken for eval/return" in found.notes[0]
    with pytest.raises(ValueError, match="no metric loss; there is eval/mean_reward"):
        read([tmp_path / "logs"], "loss")


def test_the_files_of_a_resumed_run_are_one_curve(tmp_path):
    folder = tmp_path / "X/sb3/0"
    write(folder, [(0, 1.0), (10, 2.0), (20, 3.0)], name="b")
    write(folder, [(20, 7.0), (30, 8.0)], name="a")  # whose name comes first
    for path in (folder, tmp_path, next(folder.iterdir())):
        (curve,) = read([path], TAG).curves
        assert (curve.steps.tolist(), curve.value.tolist()) == ([0, 10, 20, 30], [1, 2, 7, 8])
        assert np.all(np.diff(curve.seconds) >= 0)


def test_scalars_of_tensorflow_2_are_tensors(tmp_path):
    folder = write_values(
        tmp_path / "X/tf/0",
        tensor(1, float_val=[1.5]),
        tensor(1, tensor_content=struct.pack("<f", 2.5)),
        tensor(2, double_val=[3.5]),
        tensor(2, tensor_content=struct.pack("<d", 4.5)),
        {"simple_value": 5.5},
        tensor(1, float_val=[1.0, 2.0]),
        tensor(9, int64_val=[1]),
    )
    found = read([folder], TAG)
    assert found.curves[0].value.tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]
    assert "2 points are no single numbers and left out" in found.notes[0]
    folder = write_values(tmp_path / "X/tf/1", tensor(7, string_val=[b"1"]))
    with pytest.raises(ValueError, match=f"X/tf/1 holds {TAG}, but not as single numbers"):
        read([folder], TAG)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its event files hold no metric at all"),
        (struct.pack("<Q", 3) + b"CRC!\xff\xff\xffCRC!", "is damaged"),
    ],
)
def test_a_file_without_events_is_told_of(tmp_path, content, message):
    path = tmp_path / f"X/a/0/{events.PREFIX}1"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as told:
        read([path], TAG)
    assert "X/a/0" in str(told.value)


def test_half_an_event_is_no_event():
    content = struct.pack("<Q", 3) + b"CRC!abcCRC!" + struct.pack("<Q", 9)
    assert list(events.framed(content)) == [b"abc"]
