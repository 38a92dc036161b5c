"""Reads the files that a run names beside its environment's: pairs and rewards of token learners.

A run's config.json keeps the SHA-256 of each such file, and a resumed run refuses another content.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from envs.tokens import published_tokenizer
from experiments.run import reward_models, rewards
from experiments.run.pair_files import read_pairs
from experiments.weights import adapter
from experiments.weights.folder import digest


def with_absolute_paths(config: Any) -> Any:
    """Returns settings that name the same files from any folder."""
    paths = {name: str(path.absolute()) for name, path in _files(config).items()}
    return dataclasses.replace(config, **paths)


def given(spec: Any, env: Any, kind: Any) -> dict[str, Any]:
    """Returns further arguments of a learner, read from files. Raises OSError and ValueError with one line.

    Args:
      spec: a `Spec`.
      kind: the learner's class.
    """
    found: dict[str, Any] = {}
    for name, file in _files(spec.config).items():
        found[name] = read_pairs(file, env)
    if spec.reward is not None:
        if not kind.takes_reward:
            raise ValueError(
                f"--reward {spec.reward} is nothing to {spec.algo}, which learns from no reward"
            )
        found["reward"] = rewards.build(spec.reward, spec.env, spec.env_kwargs, env)
    return found


def record(spec: Any) -> dict[str, Any]:
    """Returns what config.json keeps besides: the hash of each file and each reward model that is read."""
    paths = [*_files(spec.config).values(), *rewards.model_folders(spec.reward)]
    paths += [] if spec.model is None else [Path(spec.model)]
    paths += [] if spec.adapter is None else adapter.files(Path(spec.adapter))
    tokenizer = spec.env_kwargs.get("tokenizer")
    paths += published_tokenizer.files(Path(tokenizer)) if tokenizer else []
    found = hashes(paths)
    return {"inputs": found} if found else {}


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Returns the SHA-256 of each file, reward model or folder of weights by its path. Raises OSError where one is not
    there."""
    return {str(path): _hash(path) for path in paths}


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


def _files(config: Any) -> dict[str, Path]:
    """Returns the files that settings name, by field: a field's metadata has the ending by which a file is known."""
    values = {
        field.name: (getattr(config, field.name), field.metadata["file"])
        for field in dataclasses.fields(config)
        if "file" in field.metadata
    }
    return {name: Path(value) for name, (value, ending) in values.items() if value.endswith(ending)}


def _hash(path: Path) -> str:
    """Returns the SHA-256 of a file, or of a model's folder. Raises OSError where it is not there."""
    if path.is_dir():
        of_reward = (path / reward_models.PARAMETERS).is_file()
        return reward_models.digest(path) if of_reward else digest(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
