"""The settings that suit an environment: what a command uses for flags that were not given."""

from __future__ import annotations

from typing import Any

# (environment, algorithm): fields of the algorithm's Config that differ from its defaults.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("walker", "ppo"): {
        "total_steps": 9_000_000,
        # Many environments: the fixed cost of a step of the batch vanishes beside its physics.
        "num_envs": 512,
        "num_steps": 16,
        "num_epochs": 3,
        "num_minibatches": 4,
        "learning_rate": 1e-3,
        # A second and a quarter ahead: in trials with one seed each, longer horizons
        # walked slower (0.99: return 200-224) and shorter ones fell (0.97: 8%).
        "gamma": 0.98,
        "hidden_sizes": (128, 128),
        # Torques saturate at 1: with the usual deviation of 1 every policy dives for the first million steps.
        "initial_log_std": -1.0,
    },
}


def preset(env: str, algo: str, config_type: type) -> Any:
    """`config_type` with the numbers of the table, or its own defaults where the table has none."""
    return config_type(**PRESETS.get((env, algo), {}))
