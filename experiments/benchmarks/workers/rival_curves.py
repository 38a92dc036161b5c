"""Learning curves of sb3-contrib's TRPO with rl-zoo3's settings: rival_curves.py FILE.csv TASK SEED ...

Adds a row for every evaluation to a CSV that `experiments.compare` reads: ten episodes every 50,000 steps and a hundred
in the end, deterministic policy. Stand-alone: it runs in an interpreter that has sb3-contrib and may lack this project.
"""

import sys

sys.path.pop(0)  # this folder: its `statistics` would stand before Python's own

import csv
import time
from pathlib import Path

ALGO = "sb3-contrib-trpo"
STEPS, EVERY = 1_000_000, 50_000
# hyperparams/trpo.yml of rl-zoo3, `mujoco-defaults`, with `normalize: true` and two environments.
SETTINGS = {
    "n_steps": 1024,
    "batch_size": 128,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "sub_sampling_factor": 1,
    "cg_max_steps": 25,
    "cg_damping": 0.1,
    "n_critic_updates": 20,
    "learning_rate": 1e-3,
}


def curve(task, seed):
    """Returns (environment steps, mean return, seconds since the beginning) of each evaluation."""
    import torch  # type: ignore[import-not-found]
    from sb3_contrib import TRPO  # type: ignore[import-not-found]
    from stable_baselines3.common.env_util import make_vec_env  # type: ignore[import-not-found]
    from stable_baselines3.common.evaluation import (  # type: ignore[import-not-found]
        evaluate_policy,
    )
    from stable_baselines3.common.vec_env import VecNormalize  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    training = VecNormalize(make_vec_env(task, 2, seed=seed), gamma=SETTINGS["gamma"])
    fresh = VecNormalize(make_vec_env(task, 1, seed=seed + 1000), training=False, norm_reward=False)
    model = TRPO("MlpPolicy", training, seed=seed, device="cpu", **SETTINGS)
    points, begin, due = [], time.time(), EVERY

    def evaluate(episodes):
        fresh.obs_rms = training.obs_rms
        value, _ = evaluate_policy(model, fresh, episodes, deterministic=True)
        points.append((model.num_timesteps, value, time.time() - begin))

    def after_step(*_):
        nonlocal due
        if model.num_timesteps >= due:
            due += EVERY
            evaluate(10)
        return True  # go on

    model.learn(STEPS, callback=after_step)
    evaluate(100)
    return points


def main():
    path, task, *seeds = sys.argv[1:]
    for seed in map(int, seeds):
        points = curve(task, seed)
        new = not Path(path).exists()
        with Path(path).open("a", newline="") as f:
            rows = csv.writer(f)
            if new:
                rows.writerow(["env", "algo", "seed", "env_steps", "value", "wall_clock_s"])
            rows.writerows(
                [task, ALGO, seed, steps, round(value, 2), round(seconds, 1)]
                for steps, value, seconds in points
            )


if __name__ == "__main__":
    main()
