"""Start states are drawn as Gymnasium draws them, and options are checked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import base
from envs.gymnasium_mujoco import arms
from tests.envs.gymnasium_mujoco.parity import TASKS, make_pair

N = 4000
RESETS = 500
DEVIATIONS = 5.0


def draw(env, n):
    states = jax.jit(jax.vmap(env.initial))(jax.random.split(jax.random.key(0), n))
    return np.asarray(states.qpos), np.asarray(states.qvel)


@pytest.mark.parametrize("name", TASKS)
def test_initial_states_are_distributed_as_gymnasiums(name):
    """Mean, spread and, roughly, the extremes of every coordinate and speed."""
    ours, theirs = make_pair(name)
    theirs.reset(seed=0)
    resets = []
    for _ in range(RESETS):
        theirs.reset_model()
        resets.append((theirs.data.qpos.copy(), theirs.data.qvel.copy()))
    for x, y in zip(draw(ours, RESETS), map(np.stack, zip(*resets, strict=True)), strict=True):
        spread = y.std(0)
        standard_error = spread * np.sqrt(2 / RESETS) + 1e-7
        assert (np.abs(x.mean(0) - y.mean(0)) < DEVIATIONS * standard_error).all()
        # of a sample's standard deviation: at most that of a Gaussian's
        assert (np.abs(x.std(0) - spread) < DEVIATIONS * standard_error / np.sqrt(2)).all()
        assert (np.abs(x.max(0) - y.max(0)) < 2 * spread + 1e-6).all()
        assert (np.abs(x.min(0) - y.min(0)) < 2 * spread + 1e-6).all()


def test_reachers_goals_are_uniform_in_the_disc():
    goals = np.asarray(jax.vmap(arms.draw_goal)(jax.random.split(jax.random.key(1), N)))
    radius = np.linalg.norm(goals, axis=1)
    assert radius.max() <= 0.2 + 1e-6
    # uniform in the disc: (radius / 0.2)^2 and the angle are uniform, and independent
    assert_uniform((radius / 0.2) ** 2)
    turns = np.arctan2(goals[:, 1], goals[:, 0]) / (2 * np.pi) % 1
    assert_uniform(turns)
    assert abs(np.corrcoef(radius, np.cos(2 * np.pi * turns))[0, 1]) < 5 / np.sqrt(N)


def test_pushers_objects_are_uniform_outside_the_disc():
    """Counts in a grid of cells against those of Gymnasium's rejection."""
    places = np.asarray(jax.vmap(arms.draw_object)(jax.random.split(jax.random.key(2), N)))
    assert (np.linalg.norm(places, axis=1) > 0.17).all()
    rng = np.random.default_rng(0)
    reference = rng.uniform([-0.3, -0.2], [0.0, 0.2], (100 * N, 2))
    reference = reference[np.linalg.norm(reference, axis=1) > 0.17]
    cells = {"bins": (6, 8), "range": [(-0.3, 0.0), (-0.2, 0.2)]}
    counts, expected = (np.histogram2d(*p.T, **cells)[0] for p in (places, reference))
    expected *= N / len(reference)
    assert (counts[expected == 0] == 0).all()
    assert (np.abs(counts - expected) < DEVIATIONS * np.sqrt(expected + 1)).all()


def assert_uniform(x):
    """Kolmogorov and Smirnov's distance, at its 1e-6 quantile."""
    distance = np.abs(np.sort(x) - (np.arange(len(x)) + 0.5) / len(x)).max()
    assert distance < 2.7 / np.sqrt(len(x))


# --- as environments ------------------------------------------------------------------------------------------------


def test_numeric_options_are_leaves_that_may_be_swept():
    weights = jnp.array([0.5, 1.0, 2.0])
    hopper = envs.make("Hopper-v5", backend="native")

    @jax.jit
    def reward(weight):
        env = hopper.replace(forward_reward_weight=weight, ctrl_cost_weight=0.0, healthy_reward=0.0)
        state = env.initial(jax.random.key(0))
        return env.reward(state, jnp.ones(3), env.transition(state, jnp.ones(3), jax.random.key(1)))

    rewards = jax.vmap(reward)(weights)
    np.testing.assert_allclose(rewards, weights * rewards[1], rtol=1e-6)


def test_a_diverged_ant_ends_its_episode_alone():
    ant = envs.make("Ant-v5", backend="native")
    states = jax.vmap(ant.initial)(jax.random.split(jax.random.key(0), 3))
    states = states.replace(qvel=states.qvel.at[1].set(1e12))
    running = base.Running(states, jnp.zeros(3, jnp.int32))
    keys = jax.random.split(jax.random.key(1), 3)
    step = jax.jit(jax.vmap(base.step, (None, 0, 0, 0)))
    _, timestep = step(ant, keys, running, jnp.zeros((3, 8)))
    np.testing.assert_array_equal(timestep.terminated, [False, True, False])
    np.testing.assert_array_equal(timestep.info["nonfinite"], [0, 1, 0])
    assert timestep.reward[1] == 0
    assert np.isfinite(timestep.reward).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Ant-v5", {"xml_file": "no_ant.xml"}, "there is no model file .*no_ant.xml"),
        ("Ant-v5", {"main_body": "head"}, "ant.xml has no body 'head', which Ant needs"),
        ("Ant-v5", {"main_body": 14}, "ant.xml has bodies 0 to 13, not 14"),
        ("Hopper-v5", {"frame_skip": 0}, "frame_skip must be an integer of at least 1, got 0"),
        ("HalfCheetah-v5", {"frame_skip": 2.5}, "frame_skip must be an integer .* got 2.5"),
        ("Hopper-v5", {"reset_noise_scale": float("nan")}, "reset_noise_scale must be a finite"),
        ("Hopper-v5", {"healthy_z_range": (float("nan"), 2.0)}, "healthy_z_range must be numbers"),
        ("Ant-v5", {"max_episode_steps": 2.5}, "max_episode_steps must be an integer .* got 2.5"),
        ("Reacher-v5", {"xml_file": "hopper.xml"}, "hopper.xml has no body 'fingertip'"),
        (
            "InvertedDoublePendulum-v5",
            {"xml_file": "hopper.xml"},
            "hopper.xml has no site, which InvertedDoublePendulum needs",
        ),
    ],
)
def test_bad_options(unchecked, name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.make(name, backend="native", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "needs"), [("Hopper-v5", 3), ("HalfCheetah-v5", 1), ("Swimmer-v5", 2), ("Ant-v5", 3)]
)
def test_a_model_that_lacks_what_the_task_looks_at(name, needs, tmp_path):
    still = tmp_path / "still.xml"
    still.write_text("<mujoco><worldbody><geom size='1'/><body/></worldbody></mujoco>")
    with pytest.raises(ValueError, match=rf"has 0 degrees of freedom: \w+ needs {needs} or more"):
        envs.make(name, backend="native", xml_file=str(still))
    joint = "<joint type='slide'/>" * 3 + "<geom size='1'/>"
    still.write_text(f"<mujoco><worldbody><body>{joint}</body></worldbody></mujoco>")
    with pytest.raises(ValueError, match=r"still.xml has 0 actuators: \w+ needs 1 or more"):
        envs.make(name, backend="native", xml_file=str(still))


def test_a_model_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "bad.xml"
    path.write_text("<mujoco><worldbody><body></mujoco>")
    with pytest.raises(ValueError, match=r"\A[^\n]*bad.xml is no model: [^\n]*\Z"):
        envs.make("Hopper-v5", backend="native", xml_file=str(path))


def test_pictures_need_no_more_than_a_state():
    env = envs.make("HalfCheetah-v5", backend="native")
    state = jax.tree.map(np.asarray, env.initial(jax.random.key(0)))
    image = env.render(state, 64, 48)
    assert image.shape == (48, 64, 3)
    assert image.std() > 0
