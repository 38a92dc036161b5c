"""What a token learner is given beside its settings and its task, from files that a run names: pairs and rewards.

A run's config.json keeps the SHA-256 of each such file, and a resumed run refuses another content.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from pathlib import Path
from typing import Any

from agents.tokens.preference import FILE_OF_PAIRS, PreferenceConfig
from experiments.run import reward_models, rewards
from experiments.run.pair_files import read_pairs


def with_absolute_paths(config: Any) -> Any:
    """Returns settings that name the same files from any folder."""
    if isinstance(config, PreferenceConfig) and config.pairs.endswith(FILE_OF_PAIRS):
        return dataclasses.replace(config, pairs=str(Path(config.pairs).absolute()))
    return config


def given(spec: Any, env: Any, kind: type) -> dict[str, Any]:
    """Returns further arguments of a learner, read from files. Raises OSError and ValueError with one line.

    Args:
      spec: a `Spec`.
      kind: the learner's class.
    """
    found: dict[str, Any] = {}
    for file in _pair_files(spec):
        found["pairs"] = read_pairs(file, env)
    if spec.reward is not None:
        if "reward" not in inspect.signature(kind).parameters:
            raise ValueError(
                f"--reward {spec.reward} is nothing to {spec.algo}, which learns from no reward"
            )
        found["reward"] = rewards.build(spec.reward, spec.env, spec.env_kwargs, env)
    return found


def record(spec: Any) -> dict[str, Any]:
    """Returns what config.json keeps besides: the hash of each file and each reward model that is read."""
    paths = [*_pair_files(spec), *rewards.model_folders(spec.reward)]
    hashes = {str(path): _hash(path) for path in paths}
    return {"inputs": hashes} if hashes else {}


def require_unchanged(folder: Path, config: dict[str, Any]) -> None:
    """Raises ValueError with one line where a file that the run in `folder` reads is gone, or another one.

    Args:
      config: the run's config.json.
    """
    for name, sha in config.get("inputs", {}).items():
        try:
            now = _hash(Path(name))
        except OSError:
            raise ValueError(f"{folder} reads {name}, which is not there any more") from None
        if now != sha:
            raise ValueError(f"{folder} reads {name}, which has changed since the run began")


def _pair_files(spec: Any) -> list[Path]:
    config = spec.config
    if isinstance(config, PreferenceConfig) and config.pairs.endswith(FILE_OF_PAIRS):
        return [Path(config.pairs)]
    return []


def _hash(path: Path) -> str:
    """Of a file, or of a reward model's folder. Raises OSError where it is not there."""
    if path.is_dir():
        return reward_models.digest(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
