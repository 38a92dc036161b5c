import jax
import numpy as np
import pytest
from PIL import Image

import envs
from experiments import plots, video


@pytest.fixture(scope="module")
def episode():
    """Twelve states in which the robot glides ahead."""
    env = envs.make("walker")
    start = jax.tree.map(np.asarray, env.initial(jax.random.key(0)))
    states = jax.tree.map(lambda x: np.repeat(x[None], 12, 0), start)
    states.physics.qpos[:, 0] = np.linspace(0, 0.2, 12)
    return env, states


def test_without_a_gl_driver_the_motion_is_drawn(tmp_path, monkeypatch, episode):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "nonsense")
    monkeypatch.delenv("DISPLAY", raising=False)
    said = []
    paths = video.write(*episode, tmp_path / "video", said.append)
    assert [p.name for p in paths] == ["video.mp4", "video.gif"]
    assert "drawn instead" in said[0]
    with Image.open(paths[1]) as gif:
        assert (gif.size, gif.n_frames) == ((480, 270), 6)
        assert gif.info["duration"] == 50  # every second control step of 25 ms: real time
    assert paths[0].stat().st_size > 2000


def test_a_driver_that_hangs_is_given_up(monkeypatch, episode):
    env, states = episode
    monkeypatch.setattr(video, "GL_SECONDS", 0.01)
    frames, said = video._gl_frames(env.engine.model, np.asarray(states.physics.qpos))
    assert frames == []
    assert "drawn instead" in said


def test_curves_with_gaps_and_without_any_episode_can_be_drawn(tmp_path):
    def row(steps, value):
        names = ("train/return", "train/length", "eval/return", "eval/length")
        return {"env_steps": steps, **dict.fromkeys(names, value)}

    full = [row(i * 1000, None if i % 3 else float(i)) for i in range(20)]
    for seeds in ([full], [full, full[:10]], [[row(1, None)]], [[]]):
        assert plots.learning_curve(seeds, tmp_path / "curve.png", "title").stat().st_size > 1000
    assert plots.comparison({"a": [full], "b": [full, full]}, tmp_path / "c.png").exists()
