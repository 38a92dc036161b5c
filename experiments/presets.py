"""The settings that suit an environment: what a command uses for flags that were not given."""

from __future__ import annotations

from typing import Any

# (environment, algorithm): fields of the algorithm's Config that differ from its defaults.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("walker", "ppo"): {
        "total_steps": 8_000_000,
        "num_envs": 128,
        "num_steps": 64,
        "num_epochs": 5,
        "num_minibatches": 4,
        "learning_rate": 7e-4,
        "gamma": 0.99,
        "hidden_sizes": (128, 128),
    },
}


def preset(env: str, algo: str, config_type: type) -> Any:
    """`config_type` with the numbers of the table, or its own defaults where the table has none."""
    return config_type(**PRESETS.get((env, algo), {}))
