import json
from pathlib import Path

import jax
import mujoco
import numpy as np
import pytest

from envs.biped import body, gait
from envs.biped.body import CORNERS, MODEL, WEIGHT, WalkerState
from envs.physics import PhysicsState

RESULTS = Path(__file__).parents[3] / "results"
PERIOD = 0.025
RIGHT, LEFT = 0, 1
BENT = np.array([0.45, 0.9, 0.45])  # ankle, knee, hip: a flat foot under the hip


def episode(right, left, x=None, legs=None, **columns):
    """Columns [T] of contact flags to states of one episode, [T, 1, ...]; forward at 0.4 m/s unless told.

    `legs` [T, 2, 3]: joint angles. `columns`: entries of qpos by name.
    """
    contact = np.stack([right, left], -1).astype(bool)
    steps = len(contact)
    qpos = np.zeros((steps, 13))
    qpos[:, 0] = 0.4 * PERIOD * np.arange(1, steps + 1) if x is None else x
    qpos[:, 2], qpos[:, 3] = body.STANDING_HEIGHT, 1
    qpos[:, body.QPOS_ADDRESS] = np.tile(BENT, 2) if legs is None else legs.reshape(steps, 6)
    for name, column in columns.items():
        qpos[:, {"y": 1, "z": 2, "qw": 3, "qx": 4, "qz": 6}[name]] = column
    touch = np.repeat(contact * WEIGHT / 4, 4, axis=-1)  # a foot on the floor carries the weight
    qpos, qvel, touch = qpos[:, None], np.zeros((steps, 1, 12)), touch[:, None]
    return WalkerState(PhysicsState(qpos, qvel, None, touch), np.zeros((steps, 1, 6)))


def together(*episodes):
    """Episodes side by side, [T, N, ...]."""
    return jax.tree.map(lambda *x: np.concatenate(x, 1), *episodes)


def analyse(states, alive=None, **kwargs):
    shape = states.action.shape[:2]
    return gait.analyse(states, np.ones(shape, bool) if alive is None else alive, **kwargs)


def steps(pattern, times):
    return np.tile(np.array([c == "#" for c in pattern]), times)


def test_walking_by_hand():
    """A period of 20 steps: each foot is down for 12 and up for 8, they overlap for 2."""
    right = steps("############........", 20)
    left = steps("##........##########", 20)
    report = analyse(episode(right, left), episode_return=np.array([7.0]))
    assert report["survival"] == 1
    assert report["return"] == 7
    assert report["distance"] == pytest.approx(4.0)
    assert report["speed"] == pytest.approx(0.4)
    assert report["alternation"] == 1
    assert report["duty_right"] == report["duty_left"] == pytest.approx(0.6)
    assert report["double_support"] == pytest.approx(0.2)
    assert report["single_support"] == pytest.approx(0.8)
    assert report["flight"] == 0
    # both feet land once in a period; the right foot's first contact was under way at the start
    assert report["touchdowns_per_second"] == pytest.approx((20 + 19) / 10)
    assert report["max_lateral"] == report["max_yaw"] == report["max_roll"] == 0
    assert report["cost_of_transport"] == 0
    assert gait.walks(report)


@pytest.mark.parametrize("down", [2, 3, 4])
def test_sliding_on_chattering_feet_is_no_walking(down):
    """Feet that lose and find contact in turn, every 50 to 100 ms, while the robot slides on at 0.4 m/s."""
    right = np.tile(np.arange(2 * down) < down, 400 // (2 * down))
    report = analyse(episode(right, ~right))
    assert report["alternation"] == 1
    assert report["duty_right"] == report["duty_left"] == pytest.approx(0.5, abs=0.01)
    assert report["distance"] > 3
    assert report["flight"] < 0.01
    assert not gait.walks(report)


def test_swings_of_an_eighth_of_a_second_are_walking():
    right = steps("#####.....", 40)
    assert gait.walks(analyse(episode(right, ~right)))


def test_the_published_walkers_still_walk():
    records = json.loads((RESULTS / "walker" / "runs.json").read_text())
    gaits = [seed["gait"] for run in records for seed in run["summary"]["per_seed"]]
    assert len(gaits) >= 5
    table = json.loads((RESULTS / "walker-algorithms" / "records.json").read_text())["records"]
    gaits += [record["report"]["gait"] for record in table if "gait" in record["report"]]
    for measures in gaits:
        numbers = {name: float(x) for name, x in measures.items() if x is not None}
        assert gait.walks(numbers) == measures["walks"]
    assert len({measures["walks"] for measures in gaits}) == 2


def test_running_flies():
    report = analyse(episode(steps("####........", 20), steps("......####..", 20)))
    assert report["alternation"] == 1
    assert report["double_support"] == 0
    assert report["single_support"] == pytest.approx(8 / 12)
    assert report["flight"] == pytest.approx(4 / 12)
    assert not gait.walks(report)


def test_hopping_does_not_alternate():
    both = steps("....######", 40)
    report = analyse(episode(both, both))
    assert report["alternation"] == 0
    assert report["single_support"] == 0
    assert report["flight"] == pytest.approx(0.4)
    assert not gait.walks(report)


def test_hopping_on_one_foot_does_not_alternate():
    report = analyse(episode(steps("....######", 40), steps("..........", 40)))
    assert report["alternation"] == 0
    assert report["duty_left"] == 0


def test_every_second_pair_alternates():
    """Right, right, left, left, ... and not across episodes."""
    right, left = steps("..##..##............", 10), steps("............##..##..", 10)
    one = analyse(episode(right, left))
    assert one["alternation"] == pytest.approx(19 / 39)
    two = analyse(together(episode(right, left), episode(right, left)))
    assert two["alternation"] == pytest.approx(38 / 78)


def test_landing_on_both_feet_is_no_alternation():
    """Both, right, both, left: no pair alternates."""
    report = analyse(episode(steps("..##..##..##....", 5), steps("..##......##..##", 5)))
    assert report["alternation"] == 0


def test_standing():
    still = np.ones(400, bool)
    report = analyse(episode(still, still, x=np.zeros(400)))
    assert report["double_support"] == 1
    assert report["duty_right"] == report["duty_left"] == 1
    assert report["flight"] == report["single_support"] == report["touchdowns_per_second"] == 0
    assert report["distance"] == report["stance_slip"] == 0
    for undefined in (
        "return",
        "alternation",
        "landing_ahead",
        "swing_clearance",
        "cost_of_transport",
    ):
        assert np.isnan(report[undefined])
    assert not gait.walks(report)  # with NaN among its measures too


def test_contact_is_debounced_and_above_two_percent():
    flicker = steps("##.##", 8)
    report = analyse(episode(flicker, ~flicker))
    assert (report["duty_right"], report["duty_left"]) == (1, 0)
    states = episode(np.ones(40), np.ones(40))
    states.physics.sensordata[:, :, :4] *= 0.019
    states.physics.sensordata[:, :, 4:] *= 0.021
    report = analyse(states)
    assert (report["duty_right"], report["duty_left"]) == (0, 1)


def test_episodes_cut_by_a_fall():
    """What comes after the end counts for nothing."""
    right, left = steps("############........", 20), steps("##........##########", 20)
    whole = episode(right, left)
    rng = np.random.default_rng(0)
    fallen = episode(right, left, z=np.where(np.arange(400) < 99, 0.21, 0.05))
    alive = np.ones((400, 2), bool)
    alive[100:, 1] = False
    for x in (fallen.physics.qpos, fallen.physics.sensordata, fallen.action):
        x[100:] = rng.uniform(0, 50, x[100:].shape)
    report = analyse(together(whole, fallen), alive)
    assert report["survival"] == 0.5
    assert report["distance"] == pytest.approx((4 + 1) / 2)
    assert report["speed"] == pytest.approx(0.4)
    assert report["alternation"] == 1
    assert report["flight"] <= 1 / 500 + 1e-9
    assert report["duty_right"] == pytest.approx(0.6, abs=0.01)
    assert report["max_lateral"] == 0
    assert report["touchdowns_per_second"] == pytest.approx((39 + 9) / 12.5, abs=0.1)


def test_a_fall_at_the_last_step_is_no_survival():
    on = np.ones(20)
    high = np.full(20, 0.21)
    for final, survival in ((0.21, 1), (0.1, 0)):
        assert analyse(episode(on, on, z=np.r_[high[:-1], final]))["survival"] == survival
    assert analyse(episode(on, on, y=np.r_[0 * high[:-1], -1.01]))["survival"] == 0


def test_largest_deviations():
    on, angle = np.ones(40), np.linspace(0, -0.3, 40)
    report = analyse(
        episode(on, on, y=np.linspace(0.02, -0.1, 40), qw=np.cos(angle / 2), qz=np.sin(angle / 2))
    )
    assert report["max_lateral"] == pytest.approx(0.1)
    assert report["max_yaw"] == pytest.approx(0.3)
    assert report["max_roll"] == pytest.approx(0, abs=1e-9)
    report = analyse(episode(on, on, qw=np.cos(angle / 2), qx=np.sin(angle / 2)))
    assert report["max_roll"] == pytest.approx(0.3)


def test_landing_ahead():
    """The right foot always lands ahead of the left, the left always behind the right."""
    right, left = steps("######....", 10), steps("#....#####", 10)
    legs = np.tile(BENT, (100, 2, 1))
    legs[:, RIGHT, 2] += 0.2
    report = analyse(episode(right, left, legs=legs))
    landings_right, landings_left = 9, 10
    assert report["landing_ahead"] == pytest.approx(
        landings_right / (landings_right + landings_left)
    )


def test_swing_clearance():
    """The right foot is lifted by bending ankle, knee and hip; the torso stands still."""
    right = steps("#####.....", 4)
    legs = np.tile(BENT, (40, 2, 1))
    knee = np.where(right, 0.9, 1.1) + np.where(np.arange(40) % 10 == 7, 0.1, 0.0)  # highest: 1.2
    legs[:, RIGHT] = np.stack([knee / 2, knee, knee / 2], -1)
    report = analyse(episode(right, np.ones(40), legs=legs))
    sole = 0.21 - 0.02 - 0.2 * np.cos(0.6) - 0.01
    assert report["swing_clearance"] == pytest.approx(sole, abs=1e-9)


def test_stance_slip():
    """The whole robot slides at 0.4 m/s on its right foot while the left is in the air."""
    report = analyse(episode(np.ones(40), np.zeros(40)))
    assert report["stance_slip"] == pytest.approx(0.4)
    # the foot stays where it is: the leg swings back as the torso moves on
    angle = np.linspace(0.2, -0.2, 40)
    legs = np.tile(BENT, (40, 2, 1))
    legs[:, RIGHT] = np.stack([-angle, 0 * angle, angle], -1)
    report = analyse(episode(np.ones(40), np.zeros(40), x=-0.2 * np.sin(angle), legs=legs))
    assert report["stance_slip"] == pytest.approx(0, abs=1e-9)


def test_cost_of_transport():
    states = episode(np.ones(40), np.ones(40))
    states.action[:] = 0.5  # 1.5 N m
    states.physics.qvel[:, :, 6:] = -2.0  # rad/s
    # six motors of 3 W for a second, over 0.4 m
    assert analyse(states)["cost_of_transport"] == pytest.approx(18 / (WEIGHT * 0.4))


def test_foot_kinematics_against_mujoco():
    rng = np.random.default_rng(0)
    qpos = rng.uniform(-0.7, 0.7, (20, 13))
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    ankles, lowest = gait._feet(qpos)
    data = mujoco.MjData(MODEL)
    for q, ankle, low in zip(qpos, ankles, lowest, strict=True):
        data.qpos[:] = q
        mujoco.mj_kinematics(MODEL, data)
        for foot, side in enumerate(("right", "left")):
            np.testing.assert_allclose(ankle[foot], data.body(f"{side}_foot").xpos, atol=1e-12)
            corners = [data.geom(name).xpos[2] for name in CORNERS if name.startswith(side)]
            assert low[foot] == pytest.approx(min(corners) - 0.005)
    data.qpos[:] = [0, 0, 0, 1, 0, 0, 0, *qpos[0, 7:]]
    mujoco.mj_kinematics(MODEL, data)
    legs = data.qpos[body.QPOS_ADDRESS].reshape(2, 3)
    points = np.asarray(body.foot_points(legs, np))[:, 1:].reshape(8, 3)
    np.testing.assert_allclose(points, [data.geom(name).xpos for name in CORNERS], atol=1e-12)


WALKING = {
    "survival": 0.95,
    "distance": 3.0,
    "alternation": 0.9,
    "duty_right": 0.3,
    "duty_left": 0.7,
    "flight": 0.199,
    "touchdowns_per_second": 9.5,
}


def test_the_yardstick():
    """survival >= 95%, distance >= 3 m, alternation >= 0.9, duty 0.3 to 0.7 on each foot, flight < 20%, swings of
    more than 0.105 s (of a second's time that the two feet are off the ground, in nine and a half swings)."""
    assert gait.walks(WALKING)
    assert gait.walks(WALKING | {"duty_right": 0.7, "duty_left": 0.3})


@pytest.mark.parametrize(
    "spoiled",
    [
        {"survival": 0.949},
        {"distance": 2.99},
        {"alternation": 0.899},
        {"alternation": float("nan")},
        {"duty_right": 0.299},
        {"duty_right": 0.701},
        {"duty_left": 0.299},
        {"duty_left": 0.701},
        {"flight": 0.2},
        {"touchdowns_per_second": 9.6},
    ],
    ids=str,
)
def test_the_yardstick_is_strict(spoiled):
    assert not gait.walks(WALKING | spoiled)
