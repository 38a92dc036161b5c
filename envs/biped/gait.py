"""Measures of a gait, from the states of whole episodes, and the criterion of walking.

Plain NumPy, after the fact. A foot is in contact while the force on it exceeds 2% of the body's weight, debounced by
the majority of three control steps (75 ms).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from envs.biped import body
from envs.biped.body import CONTROL_PERIOD, WalkerState

CONTACT_SHARE = 0.02  # of body weight
MAX_TORQUE = 3.0  # N m

# The yardstick. See `walks`.
MIN_SURVIVAL, MIN_DISTANCE, MIN_ALTERNATION = 0.95, 3.0, 0.9
DUTY_RANGE, MAX_FLIGHT = (0.3, 0.7), 0.2
# s, more than four control steps: feet that chatter while the robot slides are off the ground for less
MIN_SWING = 0.105


def analyse(
    states: WalkerState,
    alive: Bool[np.ndarray, "T N"],
    episode_return: Float[np.ndarray, " N"] | None = None,
) -> dict[str, float]:
    """Measures of N episodes of up to T steps.

    Args:
      states: leaves [T, N, ...]; `states[t]` is the state after step t.
      alive: whether step t was taken, the one that ended the episode included.
      episode_return: reported as its mean, if given.

    Returns, pooled over episodes (means over episodes for the first six):
      survival: share of episodes that did not end in a fall (or a drift off the track)
      return; distance, m; speed, m/s
      max_lateral, m; max_yaw, max_roll, rad: largest absolute value in an episode
      alternation: share of successive touchdowns made by alternate feet; both at once is not alternate
      single_support, double_support, flight: shares of time
      duty_right, duty_left: share of time each foot is on the ground
      landing_ahead: share of touchdowns at which the landing foot is ahead of the other
      touchdowns_per_second: of both feet
      swing_clearance: largest height of a foot's lowest point within a swing, mean over swings, m
      stance_slip: horizontal speed of a foot in contact, m/s
      cost_of_transport: sum of |torque x joint speed| over weight x distance
    Ratios without a denominator (no touchdowns, say) are NaN.
    """
    qpos, qvel = np.asarray(states.physics.qpos), np.asarray(states.physics.qvel)
    touch, action = np.asarray(states.physics.sensordata), np.asarray(states.action)
    steps = alive.sum(0)
    last = steps - 1
    episodes = np.arange(alive.shape[1])

    final = qpos[last, episodes]
    distance = final[:, 0]
    attitude = np.abs(np.asarray(body.yaw_pitch_roll(np.moveaxis(qpos[..., 3:7], -1, 0))))
    contact = _contact(touch, alive)
    feet, lowest = _feet(qpos)

    down = _rising(contact) & alive[..., None]
    right, left = contact[..., 0] & alive, contact[..., 1] & alive
    time = steps.sum()
    ahead = feet[..., 0] > feet[..., ::-1, 0]
    speed = np.linalg.norm(np.diff(feet[..., :2], axis=0), axis=-1) / CONTROL_PERIOD
    stance = contact[1:] & contact[:-1] & alive[1:, :, None]
    power = np.abs(MAX_TORQUE * action * qvel[..., body.QVEL_ADDRESS]).sum(-1)
    work = CONTROL_PERIOD * np.where(alive, power, 0.0).sum()

    def largest(x):
        return float(np.where(alive, np.abs(x), 0.0).max(0).mean())

    report = {
        "survival": float(np.mean(alive[-1] & ~np.asarray(body.fallen(final.T)))),
        "return": float("nan") if episode_return is None else float(np.mean(episode_return)),
        "distance": float(distance.mean()),
        "speed": float((distance / (steps * CONTROL_PERIOD)).mean()),
        "max_lateral": largest(qpos[..., 1]),
        "max_yaw": largest(attitude[0]),
        "max_roll": largest(attitude[2]),
        "alternation": _alternation(down),
        "single_support": float((right ^ left).sum() / time),
        "double_support": float((right & left).sum() / time),
        "flight": float((alive & ~right & ~left).sum() / time),
        "duty_right": float(right.sum() / time),
        "duty_left": float(left.sum() / time),
        "landing_ahead": _ratio((down & ahead).sum(), down.sum()),
        "touchdowns_per_second": float(down.sum() / (time * CONTROL_PERIOD)),
        "swing_clearance": _swing_clearance(contact, lowest, alive),
        "stance_slip": _ratio(speed[stance].sum(), stance.sum()),
        "cost_of_transport": _ratio(work, body.WEIGHT * distance.clip(min=0).sum()),
    }
    return report


def walks(report: dict[str, float]) -> bool:
    """True if the measures amount to walking: survival of at least 95%, 3 m, feet that alternate, each foot on the
    ground between 30% and 70% of the time, both in the air for less than 20%, and swings of more than 0.105 s on
    average.

    Swings are counted by `touchdowns_per_second`; a report without it is judged by the rest.
    """
    off_the_ground = sum(1 - report[f"duty_{side}"] for side in body.FEET)
    shortest = MIN_SWING * report.get("touchdowns_per_second", 0.0)
    return bool(
        report["survival"] >= MIN_SURVIVAL
        and report["distance"] >= MIN_DISTANCE
        and report["alternation"] >= MIN_ALTERNATION
        and all(DUTY_RANGE[0] <= report[f"duty_{side}"] <= DUTY_RANGE[1] for side in body.FEET)
        and report["flight"] < MAX_FLIGHT
        and off_the_ground > shortest
    )


def _contact(touch: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """[T, N, 8] forces to debounced contact flags [T, N, 2], right foot first."""
    force = touch.reshape(*touch.shape[:2], 2, 4).sum(-1)
    raw = (force > CONTACT_SHARE * body.WEIGHT) & alive[..., None]
    padded = np.concatenate([raw[:1], raw, raw[-1:]]).astype(np.int8)
    return (padded[:-2] + padded[1:-1] + padded[2:]) >= 2


def _rising(contact: np.ndarray) -> np.ndarray:
    """True at the first step of each contact; a contact under way at the start does not count."""
    return np.concatenate([np.zeros_like(contact[:1]), contact[1:] & ~contact[:-1]])


def _alternation(down: np.ndarray) -> float:
    pairs = alternate = 0
    events = down[..., 0] + 2 * down[..., 1].astype(np.int8)  # 1 right, 2 left, 3 both at once
    for episode in events.T:
        feet = episode[episode > 0]
        pairs += max(len(feet) - 1, 0)
        alternate += int(np.sum(feet[1:] + feet[:-1] == 3))
    return _ratio(alternate, pairs)


def _swing_clearance(contact: np.ndarray, lowest: np.ndarray, alive: np.ndarray) -> float:
    """Mean over swings (from lift-off to touchdown, both seen) of the largest height, m."""
    heights = []
    for foot in (0, 1):
        for n in range(contact.shape[1]):
            flags = contact[: alive[:, n].sum(), n, foot].astype(np.int8)
            edges = np.diff(flags)
            lift, land = np.flatnonzero(edges == -1) + 1, np.flatnonzero(edges == 1) + 1
            land = land[land > lift[0]] if len(lift) else land[:0]
            heights += [lowest[a:b, n, foot].max() for a, b in zip(lift, land, strict=False)]
    return float(np.mean(heights)) if heights else float("nan")


def _feet(qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ankle positions [..., 2, 3] in the world and heights [..., 2] of each foot's lowest point, right foot first."""
    legs = qpos[..., body.QPOS_ADDRESS].reshape(*qpos.shape[:-1], 2, 3)
    points = np.asarray(body.foot_points(legs, np))  # [..., 2, 1 + 4, 3] in the torso's frame
    rotation = _rotation(qpos[..., 3:7])
    points = np.einsum("...ij,...fpj->...fpi", rotation, points) + qpos[..., None, None, :3]
    return points[..., 0, :], points[..., 1:, 2].min(-1) - body.CORNER_RADIUS


def _rotation(quat: np.ndarray) -> np.ndarray:
    w, x, y, z = np.moveaxis(quat, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def _ratio(a, b) -> float:
    return float(a / b) if b else float("nan")
