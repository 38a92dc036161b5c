"""The study of faults, without faults: its account, its page, and that it goes on where it was stopped."""

import json

import pytest

from experiments.actors.meter import Counts, Meter
from experiments.studies import __main__ as studies
from experiments.studies.faults import command, learner
from experiments.studies.faults.session import Fault, Session, checked, counted

COUNTS = Counts(updates=5, steps_learned=160, asked=17, used=10, dropped=2, lost=1, refused=1)
SESSION = Session(
    [Fault(0.5, 3.0), Fault(0.1, None, 0.2)],
    {"asked": 17, "used": 10, "dropped": 2, "lost": 1, "refused": 1, "abandoned": 0, "open": 3},
    {"a": True, "b": False},
)


def test_the_account_of_a_run():
    meter = Meter(16)
    meter.total = COUNTS
    assert all(checked(COUNTS, meter, steps=160, steps_each=16).values())
    assert counted(COUNTS, meter) == SESSION.counts
    assert not all(checked(COUNTS, meter, steps=144, steps_each=16).values())
    COUNTS.used += 1
    failed = [name for name, held in checked(COUNTS, meter, 160, 16).items() if not held]
    COUNTS.used -= 1
    assert "a batch is one rollout of each actor's worth" in failed


def test_a_study_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    done = []

    def strike(faults, seed):
        done.append((faults, seed))
        if len(done) == 3:
            raise KeyboardInterrupt
        return SESSION

    monkeypatch.setattr(command, "KINDS", {"killed": ("an actor is killed", strike)})
    monkeypatch.setattr(command, "PER_SESSION", {"killed": 5})
    monkeypatch.setattr(command, "require_cores", lambda actors: None)
    monkeypatch.setattr(command, "require_ray", lambda: None)
    monkeypatch.setattr(command, "keep_programs", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        studies.studies(["faults", "--out", str(tmp_path)])
    assert done == [(5, 0), (5, 1), (5, 2)]
    (tmp_path / "notes.md").write_text("By hand.")
    studies.studies(["faults", "--out", str(tmp_path)])
    assert done[3:] == [(5, 2), (5, 3)]
    page = (tmp_path / "README.md").read_text()
    assert "| an actor is killed | 8 | 4 | 3.0, 3.0 | 0.2, 0.2 |" in page
    assert "| an actor is killed | 68 | 40 | 8 | 4 | 4 | 0 | 12 |" in page
    assert "in all its 4 runs a; b in 0 only." in page
    assert page.endswith("By hand.\n")
    studies.studies(["faults", "--out", str(tmp_path)])
    assert len(done) == 5


def test_a_fault_that_is_followed_by_one_at_the_start_ends_with_it():
    faults = [Fault(1.0, None, 0.5), Fault(2.0, None, 0.25), Fault(3.0, 4.0, 0.0), Fault(0.0, None)]
    found = learner._with_those_struck_again(faults, [False, True, True, False, False])
    assert [fault.recovery_s for fault in found] == [9.25, 7.0, 4.0, None]


def test_a_damaged_record_is_one_line(tmp_path):
    (tmp_path / command.FILE).write_text(json.dumps({"study": "faults", "sessions": {"x": {}}}))
    with pytest.raises(ValueError, match=r"faults\.json"):
        command.stored(tmp_path)
    with pytest.raises(ValueError, match="--figures belongs to alignment"):
        studies.studies(["faults", "--figures", "1"])
