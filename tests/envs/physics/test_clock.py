import mujoco
import pytest

from envs import process
from envs.physics.native import NativeEngine

MODEL = "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"


@pytest.fixture
def model():
    yield mujoco.MjModel.from_xml_string(MODEL)
    mujoco.set_mjcb_time(None)


def timed(model):
    """The seconds that a step says it took, and the steps that said so."""
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data)
    timer = data.timer[mujoco.mjtTimer.mjTIMER_STEP]
    return timer.duration, timer.number


def test_an_engine_stops_the_clock_and_mujoco_starts_it_again(model):
    mujoco.set_mjcb_time(None)
    duration, number = timed(model)
    assert duration > 0
    assert number == 1
    NativeEngine(model, 1)
    assert timed(model)[0] == 0
    mujoco.set_mjcb_time(None)
    assert timed(model)[0] > 0


def test_a_users_clock_goes_on(model):
    calls = []
    mujoco.set_mjcb_time(lambda: calls.append(None) or 0.0)
    process.stop_clock()
    timed(model)
    assert calls


def test_where_the_library_is_not_found_nothing_changes(model, monkeypatch):
    monkeypatch.setattr(process, "_clock_pointer", process._clock_pointer.__wrapped__)
    for name in ("no such library*", "__init__.py"):  # not there; there, but no library
        monkeypatch.setattr(process, "_MUJOCO_LIBRARY", name)
        process.stop_clock()
        assert timed(model)[0] > 0
