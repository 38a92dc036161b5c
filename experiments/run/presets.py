"""The settings that suit an environment: what a command uses for flags that were not given.

One configuration a family of environments; a single environment has one of its own only where that is its point. The
measurements behind these numbers are in the notes of the published results: results/walker-algorithms/notes.md,
results/classic/notes.md, results/mujoco/notes.md and results/tokens/notes.md.
"""

from __future__ import annotations

from typing import Any

from agents.tokens.settings import TokenConfig
from envs import TOKENS_PREFIX
from envs.tokens import sized_name

CLASSIC = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")
MUJOCO = (
    "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5",
    "Reacher-v5",
    "Pusher-v5",
    "Swimmer-v5",
    "Hopper-v5",
    "HalfCheetah-v5",
    "Walker2d-v5",
    "Ant-v5",
)
FAMILIES = dict.fromkeys(CLASSIC, "classic") | dict.fromkeys(MUJOCO, "mujoco")

_OFF_POLICY: dict[str, Any] = {
    "total_steps": 20_000,
    "warmup_steps": 1_000,
    "buffer_size": 20_000,
    "learning_rate": 1e-3,
    "hidden_sizes": (128, 128),
}
# MountainCarContinuous, where independent noise rocks the car on the spot.
_SWING: dict[str, Any] = {
    "total_steps": 60_000,
    "buffer_size": 60_000,
    "noise_correlation": 0.9,
    "exploration_noise": 0.5,
}

_SCALED: Any = {"optimizer": "adam", "whiten_advantages": True, "entropy_coefficient": 0.0}
# A2C where rewards are far from what earned them.
_LONG_ROLLOUTS: dict[str, Any] = _SCALED | {
    "total_steps": 500_000,
    "num_steps": 64,
    "num_minibatches": 16,
    "estimator": "gae",
}

# The walker by on-policy learners.
_WALKER: dict[str, Any] = {
    "gamma": 0.98,  # a horizon of a second and a quarter
    "hidden_sizes": (128, 128),
    # Torques saturate at 1: with the usual deviation of 1 every policy dives for the first million steps.
    "initial_log_std": -1.0,
}
_WALKER_PPO: dict[str, Any] = _WALKER | {
    "total_steps": 8_000_000,
    # Many environments amortise the fixed cost of a batched step.
    "num_envs": 512,
    "num_steps": 16,
    "hidden_sizes": (128, 64),
    "num_epochs": 3,
    "num_minibatches": 4,
    "learning_rate": 1e-3,
    # With smaller deviations the robot meets no stumble any more and forgets how to save one.
    "min_log_std": -1.6,
}
# The walker by learners with a replay buffer: one gradient step for eight steps of 64 robots.
_WALKER_REPLAY: dict[str, Any] = {
    "num_envs": 64,
    "update_ratio": 0.125,
    "learning_rate_schedule": "linear",
    "gamma": 0.98,
    "hidden_sizes": (128, 128),
}

# MuJoCo's tasks by PPO.
_MUJOCO_PPO: dict[str, Any] = {
    "total_steps": 1_000_000,
    "num_envs": 64,
    "num_steps": 32,
    "num_epochs": 10,
    "num_minibatches": 32,
    "initial_log_std": -0.5,
}
# Without exploration to the end, large angles are forgotten.
_POLES: dict[str, Any] = {"min_log_std": -1.0}

# Many expressions reach a target, and faster steps settle on few of them.
_COUNTDOWN: dict[str, Any] = {
    "imitation_steps": 100,
    "total_steps": 3_200_000,
    "learning_rate": 3e-4,
    "width": 128,
    "mlp_width": 384,
}

# (environment or family, algorithm): fields of the algorithm's Config that differ from its defaults.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("walker", "ppo"): _WALKER_PPO,
    ("walker", "pref-ppo"): _WALKER_PPO
    | {
        "total_steps": 3_000_000,
        "warmup_steps": 51_200,
        "segment_length": 25,  # 0.6 s, about a stride
        "reward_updates": 4,
    },
    ("walker", "trpo"): _WALKER
    | {
        "total_steps": 9_000_000,
        "num_envs": 512,
        "num_steps": 16,
        # Small steps and a strong damping: the network has more parameters than a batch has steps.
        "max_kl": 0.015,
        "max_kl_schedule": "linear",
        "damping": 1.0,
        "entropy_coefficient": 0.005,
        "fisher_fraction": 0.25,
        "learning_rate_schedule": "linear",
        "value_epochs": 3,
        "num_minibatches": 4,
    },
    ("walker", "a2c"): _WALKER
    | _SCALED
    | {
        "total_steps": 5_000_000,
        "num_envs": 64,
        "num_steps": 32,
        "estimator": "gae",
    },
    ("walker", "impala"): _WALKER
    | _SCALED
    | {
        "total_steps": 8_000_000,
        "num_envs": 256,
        "num_steps": 16,
        "num_minibatches": 4,
        "learning_rate": 5e-4,
        # Weights cut at 1 let a policy that has moved move on where the critic expects too much: updates ran away.
        "rho_bar": 2.0,
        "trace": 0.95,
        "min_log_std": -1.6,
    },
    ("walker", "reinforce"): _WALKER
    | {
        "total_steps": 5_000_000,
        "num_envs": 64,
        "num_steps": 64,
        "learning_rate": 1e-3,
        "whiten_advantages": True,
    },
    ("walker", "grpo"): {
        "total_steps": 8_000_000,
        "num_envs": 128,
        "learning_rate": 1e-3,
        "hidden_sizes": (128, 128),
        "initial_log_std": -1.0,
    },
    ("walker", "pqn"): {
        "total_steps": 3_000_000,
        "num_envs": 256,
        "num_steps": 16,
        "gamma": 0.98,
        "normalize_observations": True,
    },
    ("walker", "sac"): _WALKER_REPLAY | {"total_steps": 1_500_000, "learning_rate": 1e-3},
    # Not tuned: no run has measured these two.
    ("walker", "crossq"): _WALKER_REPLAY | {"total_steps": 1_000_000},
    ("walker", "xqc"): _WALKER_REPLAY | {"total_steps": 1_000_000, "learning_rate": 1e-3},
    ("walker", "td3"): _WALKER_REPLAY | {"total_steps": 2_500_000, "learning_rate": 1e-3},
    ("walker", "ddpg"): _WALKER_REPLAY | {"total_steps": 1_000_000, "learning_rate": 1e-3},
    # Where the choices span all of the torques' range, the robot learns faster and hops.
    ("walker", "dqn"): _WALKER_REPLAY
    | {
        "total_steps": 2_400_000,
        "num_steps": 1,
        "n_step": 3,
        "batch_size": 256,
        "buffer_size": 1_000_000,
        "epsilon_fraction": 0.1,
        "warmup_steps": 5_000,
        "layer_norm": True,
        "bins": 7,
        "bin_span": 0.65,
    },
    ("classic", "ppo"): {
        "total_steps": 500_000,
        "num_envs": 16,
        "num_steps": 256,
        "num_epochs": 10,
        "num_minibatches": 32,
        "learning_rate": 1e-3,
        # Deviations wide enough to meet MountainCarContinuous' flag.
        "initial_log_std": 0.5,
    },
    ("classic", "trpo"): {
        "total_steps": 500_000,
        "num_envs": 16,
        "num_steps": 256,
        "learning_rate_schedule": "linear",
        "initial_log_std": 0.5,
    },
    ("classic", "a2c"): {"total_steps": 500_000},
    ("classic", "impala"): {"total_steps": 500_000},
    ("Pendulum-v1", "a2c"): _LONG_ROLLOUTS | {"initial_log_std": 0.5},
    # Without an entropy bonus: a clipped action costs no more than the bound, and deviations would grow.
    ("MountainCarContinuous-v0", "a2c"): _LONG_ROLLOUTS | {"initial_log_std": 0.5},
    ("MountainCar-v0", "a2c"): _LONG_ROLLOUTS | {"learning_rate": 2e-3},
    ("classic", "reinforce"): {
        "total_steps": 500_000,
        "num_envs": 8,
        "num_steps": 128,
        "learning_rate": 5e-3,
    },
    # An update for every two episodes.
    ("Pendulum-v1", "reinforce"): {
        "total_steps": 500_000,
        "num_envs": 2,
        "num_steps": 200,
        "learning_rate": 5e-3,
        "whiten_advantages": True,
        "initial_log_std": 0.5,
    },
    ("classic", "pqn"): {"total_steps": 500_000},
    # The car's speed is too small for the network otherwise.
    ("MountainCar-v0", "pqn"): {"total_steps": 500_000, "normalize_observations": True},
    ("MountainCarContinuous-v0", "pqn"): {"total_steps": 500_000, "normalize_observations": True},
    ("classic", "dqn"): {"learning_rate": 1e-3, "update_ratio": 0.5},
    # With the family's one-step targets and four times the updates, evaluations fall and rise until the end.
    ("CartPole-v1", "dqn"): {"n_step": 5, "update_ratio": 0.125, "epsilon_end": 0.02},
    ("classic", "sac"): _OFF_POLICY,
    ("classic", "td3"): _OFF_POLICY,
    ("classic", "ddpg"): _OFF_POLICY,
    ("MountainCarContinuous-v0", "sac"): _OFF_POLICY | {"noise_correlation": 0.9},
    ("MountainCarContinuous-v0", "td3"): _OFF_POLICY | _SWING,
    ("MountainCarContinuous-v0", "ddpg"): _OFF_POLICY | _SWING,
    ("mujoco", "ppo"): _MUJOCO_PPO,
    ("mujoco", "a2c"): _SCALED
    | {
        "num_envs": 64,
        "num_steps": 32,
        "num_minibatches": 16,
        "estimator": "gae",
        "initial_log_std": -0.5,
    },
    ("mujoco", "reinforce"): {
        "total_steps": 10_000_000,
        "num_envs": 32,
        "num_steps": 64,
        "learning_rate": 1e-3,
        "whiten_advantages": True,
        "initial_log_std": -0.5,
    },
    ("mujoco", "sac"): {"learning_rate": 1e-3},
    ("InvertedDoublePendulum-v5", "ppo"): _MUJOCO_PPO | _POLES,
    ("InvertedDoublePendulum-v5", "trpo"): _POLES,
    ("InvertedPendulum-v5", "trpo"): _POLES,
}

# What `--quick` changes of these: a result in the shortest time, not the best.
QUICK: dict[tuple[str, str], dict[str, Any]] = {
    # Meant for a walk within a minute on two cores; not measured yet.
    ("walker", "ppo"): {
        "total_steps": 1_500_000,
        "learning_rate": 1.5e-3,
        "learning_rate_schedule": "linear",
    },
}

# Sorting by groups: 150 iterations.
_SORT_GROUPS: dict[str, Any] = {
    "total_steps": 806_400,
    "num_responses": 768,
    "entropy_coefficient": 0.01,
}

# (task, learner): the same for token tasks, of every size.
TOKEN_PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    # 120 iterations.
    ("sort", "ppo"): {
        "total_steps": 430_080,
        "num_responses": 512,
        "entropy_coefficient": 0.01,
    },
    ("sort", "grpo"): _SORT_GROUPS | {"kl_coefficient": 0.02},
    # GRPO's numbers, without trials of their own.
    ("sort", "dapo"): _SORT_GROUPS,
    # The paper's clip range is for responses of thousands of tokens: a mean over seven varies far more. The study of
    # alignment (results/alignment) has both.
    ("sort", "gspo"): _SORT_GROUPS | {"clip_low": 0.03, "clip_high": 0.04},
    ("sort", "cispo"): _SORT_GROUPS,
    ("sort", "reinforce++"): _SORT_GROUPS,
    # Depth counts for more than time. The bonus falls with the learning rate, so that the policy settles in the end.
    ("countdown", "grpo"): _COUNTDOWN
    | {
        "imitation_steps": 60,
        "total_steps": 4_000_000,
        "layers": 4,
        "num_responses": 1024,
        "kl_coefficient": 0.02,
        "entropy_coefficient": 0.02,
        "entropy_fraction": 1.0,
    },
    ("countdown", "ppo"): _COUNTDOWN
    | {
        "imitation_steps": 80,
        "num_responses": 1024,
        "kl_in_reward": 0.01,
        "entropy_coefficient": 0.02,
        "entropy_fraction": 1.0,
    },
    ("add", "grpo"): {
        "total_steps": 819_200,
        "imitation_steps": 150,
        "kl_coefficient": 0.02,
        "entropy_coefficient": 0.01,
    },
}

# By task, for every learner.
TASK_PRESETS: dict[str, dict[str, Any]] = {
    "add": {"imitation_steps": 150, "total_steps": 819_200},
    "countdown": _COUNTDOWN,
}


def preset(env: str, algo: str, config_type: type, quick: bool = False) -> Any:
    """Returns `config_type` with the settings of the environment, else of its family, else its own defaults; for a
    token learner with those of the task and learner, else of the task, whatever the task's size.

    Args:
      quick: with the changes of `QUICK`. Raises ValueError where there are none.
    """
    if quick and (env, algo) not in QUICK:
        known = ", ".join(f"{of} on {where}" for where, of in QUICK)
        raise ValueError(f"--quick has no settings for {algo} on {env}, only for {known}")
    if issubclass(config_type, TokenConfig):
        task, _ = sized_name(env.removeprefix(TOKENS_PREFIX))
        return config_type(**TOKEN_PRESETS.get((task, algo), TASK_PRESETS.get(task, {})))
    family = PRESETS.get((FAMILIES.get(env, env), algo), {})
    changes = QUICK[env, algo] if quick else {}
    return config_type(**PRESETS.get((env, algo), family) | changes)
