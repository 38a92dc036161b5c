from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import flax.struct
import jax
import numpy as np
import pytest
from PIL import Image

import envs
from envs import probes
from experiments.evaluation import frame_rate, video
from experiments.figures import comparison, training


@pytest.fixture(scope="module")
def episode():
    """Twelve states in which the robot glides ahead."""
    env = envs.make("walker")
    start = jax.tree.map(np.asarray, env.initial(jax.random.key(0)))
    states = jax.tree.map(lambda x: np.repeat(x[None], 12, 0), start)
    states.physics.qpos[:, 0] = np.linspace(0, 0.2, 12)
    return env, states, np.ones(12)


def test_without_a_gl_driver_the_motion_is_drawn(tmp_path, monkeypatch, episode):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "nonsense")
    monkeypatch.delenv("DISPLAY", raising=False)
    said = []
    paths = video.write(*episode, tmp_path / "weight-0.02", said.append)
    assert [p.name for p in paths] == ["weight-0.02.mp4", "weight-0.02.gif"]
    assert "drawn instead" in said[0]
    with Image.open(paths[1]) as gif:
        assert (gif.size, gif.n_frames) == ((480, 270), 6)
        assert gif.info["duration"] == 50  # every second control step of 25 ms: real time
    assert paths[0].stat().st_size > 2000


def test_a_driver_that_hangs_is_given_up(monkeypatch, episode):
    env, states, _ = episode
    monkeypatch.setattr(video, "GL_SECONDS", 0.01)
    frames, said = video._gl_frames(env.engine.model, np.asarray(states.physics.qpos))
    assert frames == []
    assert "drawn instead" in said


@flax.struct.dataclass
class Disc(probes.TruncationOnly):
    """A grey picture, lighter from step to step."""

    render_fps: Any = flax.struct.field(pytree_node=False, default=100)

    def render(self, state, width, height):
        return np.full((height, width, 3), min(int(state[1]), 255), np.uint8)


def counting(steps):
    return np.zeros((steps, 1), np.float32), np.arange(steps)


@pytest.mark.parametrize(
    ("fps", "steps", "shown", "rate"),
    [
        (4, 20, 20, 4),
        (50, 30, 30, 50),
        (100, 30, 15, 50),
        (120, 31, 11, 40),
        (2, 60, 40, 2),
        # Of any kind of number:
        (1 / 0.02, 30, 30, 50),
        (0.5, 60, 10, 0.5),
        (np.float64(30), 20, 20, 30),
        (np.float32(50.000004), 20, 20, 50.000004),
        (Fraction(100, 3), 20, 20, 100 / 3),
        (0.05, 60, 1, 0.05),
        (10_000, 400, 2, 50),
    ],
)
def test_any_environment_that_draws_itself(tmp_path, monkeypatch, fps, steps, shown, rate):
    monkeypatch.setattr(video, "WIDTH", 96)
    monkeypatch.setattr(video, "HEIGHT", 54)
    written = {}

    def keep(frames, fps, path, *_):
        written[path.suffix] = [np.asarray(f) for f in frames], fps
        return [path] if path.suffix == ".mp4" else path

    monkeypatch.setattr(video, "_write_mp4", keep)
    monkeypatch.setattr(video, "_write_gif", keep)
    video.write(Disc(render_fps=fps), counting(steps), np.ones(steps), tmp_path / "v", print)
    frames, given = written[".mp4"]
    # Real time: at most 50 frames a second, at most 20 seconds.
    assert len(frames) == shown
    assert given == pytest.approx(rate)
    every = round(float(fps) / rate)
    assert [int(f[30, 10, 0]) for f in frames] == [min(i * every, 255) for i in range(shown)]
    assert np.any(frames[0][:10, 48:] == 255)  # the caption


@pytest.mark.parametrize(
    "fps",
    [0, -3, float("nan"), float("inf"), 1e9, 10**400, 1e-9, True, "30", [30], np.ones(2), 1j],
    ids=str,
)
def test_a_rate_at_which_nothing_can_be_shown_is_one_line(fps):
    env = SimpleNamespace(render_fps=fps, max_episode_steps=7)
    with pytest.raises(
        ValueError, match=r"\Arender_fps is [^\n]*: give the steps of a second"
    ) as said:
        frame_rate.frame_rate(env)
    assert len(str(said.value)) < 150
    assert not frame_rate.drawable(env)
    assert frame_rate.shown_steps(env) is None


def test_an_episode_without_a_step_makes_no_video(tmp_path):
    said = []
    assert video.write(Disc(), counting(0), np.ones(0), tmp_path / "v", said.append) == []
    assert said == ["no video: the episode has no step"]
    assert not list(tmp_path.iterdir())


def test_render_fps_a_float(tmp_path):
    """Both files are written, at 50 frames a second and at one in two seconds."""
    for fps, duration in ((1 / 0.02, 40), (0.5, 2000)):
        env = Disc(render_fps=fps)
        paths = video.write(env, counting(8), np.ones(8), tmp_path / f"v{fps}", print)
        assert [p.suffix for p in paths] == [".mp4", ".gif"]
        with Image.open(paths[1]) as gif:
            assert gif.info["duration"] == duration


def test_the_gif_of_a_slow_environment_keeps_its_pace_and_late_colours(tmp_path):
    colours = [(200, 0, 0)] * 5 + [(0, 0, 200)] * 5
    frames = [Image.new("RGB", (64, 36), c) for c in colours]
    with Image.open(video._write_gif(frames, 4, tmp_path / "v.gif")) as gif:
        assert gif.info["duration"] == 5 * 250  # equal frames become one
        gif.seek(gif.n_frames - 1)
        assert gif.convert("RGB").getpixel((5, 5)) == (0, 0, 200)


def test_a_robot_of_any_kind_is_drawn_from_its_coordinates():
    env = envs.make("Reacher-v5", max_episode_steps=5)
    start = jax.tree.map(np.asarray, env.initial(jax.random.key(0)))
    states = jax.tree.map(lambda x: np.repeat(x[None], 3, 0), start)
    model, qpos = video.coordinates(env, states)
    assert qpos.shape == (3, model.nq)
    frames = video._drawn(model, qpos)
    assert len(frames) == 3
    assert len(frames[0].getcolors(10**6)) > 3
    assert video.coordinates(Disc(), counting(3)) is None


def test_curves_with_gaps_and_without_any_episode_can_be_drawn(tmp_path):
    def row(steps, value):
        names = ("train/return", "train/length", "eval/return", "eval/length")
        return {"env_steps": steps, **dict.fromkeys(names, value)}

    full = [row(i * 1000, None if i % 3 else float(i)) for i in range(20)]
    for seeds in ([full], [full, full[:10]], [[row(1, None)]], [[]]):
        assert training.learning_curve(seeds, tmp_path / "curve.png", "title").stat().st_size > 1000
    assert comparison.mean_curves({"a": [full], "b": [full, full]}, tmp_path / "c.png").exists()


def test_curves_of_unequal_length_with_a_start_at_zero_and_empty_ones_can_be_drawn(tmp_path):
    short, long = (np.array([0.0, n / 2, n]) for n in (1e4, 1e6))
    nothing = np.zeros(0)
    for seeds in ([(short, short)], [(short, short), (long, long)], [(nothing, nothing)]):
        curves = {"sac": seeds[:1], "ppo": seeds[1:]}
        assert (
            comparison.quartile_bands(curves, tmp_path / "bands.png", "title").stat().st_size > 1000
        )


@flax.struct.dataclass
class Captioned(Disc):
    """Black, and says what it shows."""

    def render(self, state, width, height):
        return np.zeros((height, width, 3), np.uint8)

    def caption(self, states, rewards, t):
        return ("HHHHHH",) if t < 5 else ()


def test_an_environment_writes_on_its_pictures(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(video, "_write_mp4", lambda frames, *_: kept.extend(frames) or [])
    video.write(Captioned(render_fps=10), counting(10), np.ones(10), tmp_path / "v", print)
    left = [np.asarray(frame)[:100, : video.WIDTH // 2].any() for frame in kept]
    right = [np.asarray(frame)[:100, video.WIDTH // 2 :].any() for frame in kept]
    assert left == [True] * 5 + [False] * 5
    assert right == [False] * 5 + [True] * 5  # time and return
