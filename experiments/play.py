"""Shows the trained policy of a run: python -m experiments.play DIR [--viewer]"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import envs  # isort: skip  # noqa: F401  sets XLA's flags before JAX starts
import jax
import numpy as np
import tyro

from envs.base import ALL_EPISODES
from envs.mujoco_env import MujocoEnv
from experiments.console.display import Display
from experiments.console.exits import run_main
from experiments.console.flags import parse_flags
from experiments.evaluation import control, nonfinite, video, viewer
from experiments.evaluation.frame_rate import frame_rate
from experiments.run import spec
from experiments.run.whole import write_whole
from experiments.user_envs.load import located


@dataclasses.dataclass(frozen=True)
class PlayFlags:
    """Flags of `python -m experiments.play`."""

    run: tyro.conf.Positional[Path]
    """folder of the run"""
    seed_index: int = 0
    """index of the seed among the run's seeds, from 0"""
    episodes: int = 16
    """number of episodes played at once; the one of median return is shown"""
    out: Path | None = None
    """the video, without its suffix; None: "play" in the run's folder"""
    viewer: bool = False
    """show the episode in MuJoCo's viewer, on a screen, instead of writing a video"""
    trust: bool = False
    """execute the files that the run names, even if they changed or another user began the run"""


def main() -> None:
    run_main(lambda: play(sys.argv[1:]))


def play(argv: Sequence[str]) -> int:
    """Plays the run that `argv` names. Returns 0; raises ValueError for bad input."""
    flags = parse_flags(PlayFlags, argv, None, "Replays the policy of a run, deterministically.")
    if flags.viewer and not (os.environ.get("DISPLAY") or sys.platform in ("darwin", "win32")):
        raise ValueError(
            "--viewer needs a screen, and there is none here; without it a video is written"
        )
    if flags.episodes < 1:
        raise ValueError(f"--episodes must be at least 1, got {flags.episodes}")
    if flags.out:
        for path in video.files(flags.out):
            if path.exists():
                raise ValueError(
                    f"{path} exists already and is not overwritten: --out takes another name"
                )
    display = Display()
    stored, algo = spec.open_run(flags.run, flags.trust)
    spec.refuse_tokens(flags.run, stored)
    if not 0 <= flags.seed_index < stored.seeds:
        raise ValueError(
            f"{flags.run} has {stored.seeds} seeds, there is no index {flags.seed_index}"
        )
    if flags.viewer and not isinstance(algo.env, MujocoEnv):
        raise ValueError(
            f"--viewer is MuJoCo's, and {spec.short_name(stored.env)} has no physics; without it a video is written"
        )
    states, _, steps = spec.load_state(flags.run, stored, algo, display.warn)
    state = jax.tree.map(lambda x: x[flags.seed_index], states)
    keys = control.keys(stored.seed + flags.seed_index, 0, flags.episodes)
    record = ALL_EPISODES if flags.viewer else control.records(algo.env)
    episodes = jax.device_get(
        jax.jit(lambda s, k: control.run_episodes(algo, s, k, record))(state, keys)
    )
    display.say(
        f"policy of env step {steps}: return {np.mean(episodes.returns):.1f} ± {np.std(episodes.returns):.1f}, "
        f"survival {np.mean(episodes.survived):.0%} of {flags.episodes} episodes"
    )
    spoiled = nonfinite.episodes_warning(episodes.bad, algo.env.on_host)
    if spoiled:
        display.warn(spoiled)
    frame_rate(algo.env)  # raises ValueError where nothing can be shown at it
    if not record:
        display.say(f"{spec.short_name(stored.env)} has nothing to show: it has no `render_fps`")
        return 0
    states, rewards = control.episode(episodes, control.typical(episodes))
    if flags.viewer:
        bodies = video.coordinates(algo.env, states)
        assert bodies is not None  # or it was refused above
        viewer.show(*bodies, 1 / (frame_rate(algo.env) or 1.0))
    else:
        stem = flags.out or flags.run / "play"
        for path in _write(algo.env, states, rewards, stem, display):
            display.say(str(path))
    return 0


def _write(env: Any, states: Any, rewards: np.ndarray, stem: Path, display: Display) -> list[Path]:
    """Writes the video's files, whole, and returns their paths. Raises ValueError with one line where drawing fails,
    which may be a user's own code."""
    try:
        return write_whole(
            lambda fresh: video.write(env, states, rewards, fresh, display.say), stem
        )
    except OSError:
        raise  # of the disk
    except Exception as error:
        raise ValueError(f"no video: {located(error, Path.cwd())}") from error


if __name__ == "__main__":
    main()
