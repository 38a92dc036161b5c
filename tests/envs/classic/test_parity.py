"""The classic tasks against Gymnasium's."""

import math

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import base
from tests.envs.classic import parity

# Largest error allowed, relative to the quantity's own size. In float64 it is rounding, magnified along the episode:
# by 1e7 and more where a pole or pendulum stands upright for seconds and only Gymnasium's copy is balanced.
ALLOWED = {
    ("float64", "episodes"): 1e-12,
    ("float64", "single steps"): 1e-12,
    ("float32", "episodes"): 1e-4,
    ("float32", "single steps of episodes"): 1e-5,
    ("float32", "single steps"): 1e-4,
}
UPRIGHT = {"CartPole-v1": 1e-7, "Pendulum-v1": 1e-5}


@pytest.mark.parametrize("name", parity.TASKS)
def test_equals_gymnasium(name):
    for row in parity.errors(name):
        kind = (row["precision"], row["what"])
        allowed = UPRIGHT.get(name, 1e-12) if kind == ("float64", "episodes") else ALLOWED[kind]
        assert max(row["obs"], row["reward"]) < allowed, row
        assert row["terminations_equal"], row
        assert row["steps"] >= parity.STEPS * len(parity.SEEDS)


def test_the_table_has_every_task():
    table = parity.worst_errors()
    assert {row["env"] for row in table} == set(parity.TASKS)
    keys = {"env", "steps", "obs", "reward", "terminations_equal", "precision"}
    assert all(keys <= row.keys() for row in table)


def test_the_records_go_everywhere():
    """The comparison is worth something only if ends, walls, limits and wraps occur in it."""
    cart = parity.record("CartPole-v1", True)
    off_track = np.abs(cart.obs[..., 0]) > 2.4
    assert off_track.any()
    assert (cart.terminated & ~off_track).any()
    balanced = [not run.any() for run in cart.terminated]
    assert sum(balanced) >= len(parity.SEEDS)

    acrobot = parity.record_anywhere("Acrobot-v1", True)
    for joint, limit in ((4, 4 * math.pi), (5, 9 * math.pi)):
        assert {-limit, limit} <= set(acrobot.obs[..., joint].flat)
    assert parity.record("Acrobot-v1", True).terminated.any()

    for name in parity.STABLE:
        episodes, steps = parity.record(name, True), parity.record_anywhere(name, True)
        assert episodes.terminated.sum() >= len(parity.SEEDS)
        assert {-0.07, 0.07} <= set(steps.obs[..., 1].flat)
        for edge in (-1.2, 0.6):
            assert (steps.obs[..., 0] == edge).any()
        stopped = (steps.obs[..., 0] == -1.2) & (steps.obs[..., 1] == 0)
        assert stopped.any()

    pendulum = parity.record("Pendulum-v1", True)
    assert (pendulum.obs[..., 0] > 0.99).any()
    assert np.abs(pendulum.before[..., 0]).max() > math.pi
    assert np.abs(parity.record_anywhere("Pendulum-v1", True).obs[..., 2]).max() == 8
    assert np.abs(pendulum.action).max() > 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CartPole-v1", {"sutton_barto_reward": True}),
        ("Acrobot-v1", {"book_or_nips": "nips"}),
        ("MountainCar-v0", {"goal_velocity": 0.03}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.03}),
        ("Pendulum-v1", {"g": 9.81}),
    ],
)
def test_options_mean_what_they_mean_there(name, options):
    env = envs.make(name, **options)
    recorded = parity.record_anywhere(name, True, **options)
    row = parity.compare(name, env, recorded, True, "float64", "single steps")
    assert max(row["obs"], row["reward"]) < 1e-12
    assert row["terminations_equal"]
    plain = parity.record_anywhere(name, True)
    assert any(
        (getattr(recorded, what) != getattr(plain, what)).any()
        for what in ("obs", "reward", "terminated")
    )


@pytest.mark.parametrize("name", parity.TASKS)
def test_spaces_and_limits(name):
    ours, theirs = envs.make(name), gymnasium.make(name)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.max_episode_steps == theirs.spec.max_episode_steps
    assert ours.render_fps == theirs.metadata["render_fps"]


@pytest.mark.parametrize("name", parity.TASKS)
def test_starts_are_distributed_alike(name):
    env, theirs = envs.make(name), gymnasium.make(name).unwrapped
    ours = np.asarray(jax.vmap(env.initial)(jax.random.split(jax.random.key(1), 4000)))
    theirs.reset(seed=1)
    reference = np.stack([(theirs.reset(), theirs.state)[1] for _ in range(4000)])
    low, high = reference.min(0), reference.max(0)
    size = np.maximum(high - low, 1e-6)
    for statistic in (
        np.min,
        np.max,
    ):  # both within 1/500 of the width from the true end, all but surely
        np.testing.assert_allclose(
            statistic(ours, 0) / size, statistic(reference, 0) / size, atol=6e-3
        )
    # Four standard errors of a difference of means (0.29 / sqrt(2000)) and a little more for the deviations.
    np.testing.assert_allclose(ours.mean(0) / size, reference.mean(0) / size, atol=0.026)
    np.testing.assert_allclose(ours.std(0) / size, reference.std(0) / size, atol=0.015)
    correlated = np.corrcoef(ours[:, size > 1e-5].T) - np.eye((size > 1e-5).sum())
    assert np.abs(correlated).max() < 0.08


def balance(obs):
    return (obs[2] + 0.5 * obs[3] + 0.05 * obs[0] + 0.1 * obs[1] > 0).astype(jnp.int32)


def pump(obs):
    return jnp.where(obs[..., 1] > 0, 2, 0)


@pytest.mark.parametrize(
    ("name", "policy", "end"),
    [
        ("CartPole-v1", balance, "truncated"),
        ("CartPole-v1", lambda obs: jnp.int32(1), "terminated"),
        ("MountainCar-v0", pump, "terminated"),
        ("MountainCar-v0", lambda obs: jnp.int32(2), "truncated"),
        ("MountainCarContinuous-v0", lambda obs: jnp.sign(obs[1:] + 1e-9), "terminated"),
        ("MountainCarContinuous-v0", lambda obs: jnp.ones(1), "truncated"),
        ("Acrobot-v1", lambda obs: jnp.where(obs[5] > 0, 2, 0), "terminated"),
        ("Acrobot-v1", lambda obs: jnp.int32(1), "truncated"),
        ("Pendulum-v1", lambda obs: jnp.ones(1), "truncated"),
    ],
)
def test_whole_episodes_end_as_in_gymnasium(name, policy, end):
    """Each drives its own copy, from the same start, until its own end."""
    theirs = gymnasium.make(name)
    obs, _ = theirs.reset(seed=5)
    start = jnp.asarray(theirs.unwrapped.state, jnp.float32)
    policy_on_host = jax.jit(policy)
    ended, total, length = False, 0.0, 0
    while not ended:
        action = np.asarray(policy_on_host(jnp.asarray(obs, jnp.float32)))
        action = action.item() if action.ndim == 0 else action
        obs, reward, terminated, truncated, _ = theirs.step(action)
        ended, total, length = terminated or truncated, total + float(reward), length + 1
    assert (terminated, truncated) == (end == "terminated", end == "truncated")

    timesteps = episode(envs.make(name), policy, start)
    done = np.asarray(timesteps.terminated | timesteps.truncated)
    assert done.argmax() + 1 == pytest.approx(length, abs=0 if end == "truncated" else 2)
    assert bool(timesteps.terminated[done.argmax()]) == terminated
    ours = float(timesteps.reward[: done.argmax() + 1].sum())
    assert ours == pytest.approx(total, rel=2e-2)


def episode(env, policy, start):
    def step(running, _):
        action = policy(env.observation(running.state))
        running, timestep = base.advance(env, jax.random.key(0), running, action)
        return running, timestep

    running = base.Running(start, jnp.int32(0))
    return jax.jit(lambda r: jax.lax.scan(step, r, length=env.max_episode_steps)[1])(running)
