"""The model of cost, by hand arithmetic."""

import dataclasses

import pytest

from experiments.actors.cost import Costs, gigabits_needed, most_hosts, predict

# A batch takes 0.8 s to collect and 0.1 s to learn from; 125 MB are one second at 1 Gbit/s.
COSTS = Costs(
    collect_s=0.8, update_s=0.1, batch_bytes=12.5e6, parameter_bytes=0.5e6, batch_steps=8000
)


def test_two_hosts_in_turn():
    found = predict(COSTS, 2, 1.0, sync=True)
    assert found.seconds == pytest.approx(0.4 + 0.1 + 0.1)
    assert found.steps_per_s == pytest.approx(8000 / 0.6)
    assert found.speed_up == pytest.approx(0.9 / 0.6)
    assert found.efficiency == pytest.approx(0.75)
    assert found.actor_idle == pytest.approx(1 - 0.4 / 0.6)
    assert found.learner_idle == pytest.approx(1 - 0.1 / 0.6)


@pytest.mark.parametrize(
    ("hosts", "gigabits", "seconds", "bound"),
    [
        (2, 1.0, 0.4, "collect"),
        (16, 1.0, 0.1, "transfer"),  # collecting takes 0.05, the link 0.1
        (16, 10.0, 0.1, "update"),
        # 64 copies of the parameters, 32 MB, are more than the batch.
        (64, 1.0, 0.256, "transfer"),
        (64, 100.0, 0.1, "update"),
    ],
)
def test_at_once_the_slowest_part_decides(hosts, gigabits, seconds, bound):
    # At equal times the first counts: a hair less to learn makes the link the slower one.
    costs = dataclasses.replace(COSTS, update_s=0.1 if bound == "update" else 0.0999)
    found = predict(costs, hosts, gigabits)
    assert found.seconds == pytest.approx(seconds)
    assert found.bound == bound


def test_hosts_that_bring_their_own_batch():
    costs = dataclasses.replace(COSTS, update_s=0.11)
    found = predict(costs, 4, 10.0, grow=True)
    assert found.seconds == pytest.approx(0.8)
    assert found.bound == "collect"
    assert found.speed_up == pytest.approx(4 * 0.91 / 0.8)
    # From 8 hosts on the learner takes longer: 8 x 0.11 s.
    assert most_hosts(costs, 10.0, grow=True) == 7
    assert predict(costs, 8, 10.0, grow=True).bound == "update"


def test_latency_is_paid_once_an_update():
    costs = dataclasses.replace(COSTS, latency_s=0.03)
    assert predict(costs, 2, None, sync=True).seconds == pytest.approx(0.4 + 0.03 + 0.1)


def test_one_machine_has_no_more_than_its_cores():
    # 0.9 s of work on two cores.
    found = predict(COSTS, 2, None, cores=2)
    assert found.seconds == pytest.approx(0.45)
    assert found.bound == "cores"
    assert found.speed_up == pytest.approx(2.0)


def test_the_bandwidth_from_which_on_the_link_is_not_the_slowest():
    # 16 hosts collect in 0.05 s, the learner takes 0.1: 12.5 MB in 0.1 s are 1 Gbit/s.
    assert gigabits_needed(COSTS, 16) == pytest.approx(1.0)
    assert gigabits_needed(COSTS, 2) == pytest.approx(0.25)
