"""A reward model on disk: a folder with config.json (for which task, by which settings, how good) and params.npz."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agents.tokens.reward import Reward
from agents.tokens.reward_model import RewardModel, RewardModelConfig, RewardParams
from envs.tokens import sized_name
from experiments.run import folders, kinds, schema
from experiments.run.provenance import provenance
from experiments.run.schema import NAME, SETTINGS, Flag, ListOf, Whole

PARAMETERS = "params.npz"
_CONFIG = schema.Table(
    {
        "reward_model": Whole(1, 1),  # of the format
        "env": NAME,
        "env_kwargs": SETTINGS,
        "vocabulary": ListOf(NAME),
        "pad": Whole(0),
        "every_token": Flag(),
        "config": SETTINGS,
        "seed": Whole(0),
        "sha256": NAME,
    }
)
_OF_ENV = ("reward", "split")  # options that leave the task as it is


def save(
    folder: Path,
    model: RewardModel,
    params: RewardParams,
    *,
    env_name: str,
    env_kwargs: dict[str, Any],
    env: Any,
    seed: int,
    report: dict[str, Any],
) -> None:
    """Writes a calibrated model into a folder. Raises OSError where it cannot be written or is there already.

    Args:
      report: further fields of config.json, for people.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "config.json").exists():
        raise FileExistsError(f"{folder} exists already and is not overwritten")
    leaves = {name: np.asarray(x) for name, x in _leaves(params).items()}
    with folders.naming(folder / PARAMETERS), (folder / PARAMETERS).open("wb") as file:
        np.savez(file, **leaves)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    config = {
        "reward_model": 1,
        "env": env_name,
        "env_kwargs": env_kwargs,
        "vocabulary": list(env.task.vocabulary),
        "pad": env.pad,
        "every_token": model.every_token,
        "config": dataclasses.asdict(model.config),
        "seed": seed,
        "sha256": _sha256(folder / PARAMETERS),
        **report,
        **provenance(),
    }
    folders.write_json(folder / "config.json", config)


def load(folder: Path) -> tuple[Reward, dict[str, Any]]:
    """Returns the reward of a folder, and its config.json.

    Raises ValueError with one line where the folder is none, a file is damaged, or the scores are not numbers.
    """
    config = read_config(folder)
    file = folder / PARAMETERS
    if not file.is_file():
        raise ValueError(f"{folder} is not a reward model: it has no {PARAMETERS}")
    if _sha256(file) != config["sha256"]:
        raise ValueError(f"{file} is damaged: it is not the file that config.json names")
    where = folder / "config.json"
    kinds.require_settings(config["config"], RewardModelConfig, where)
    try:
        settings = RewardModelConfig(**config["config"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    model = RewardModel(settings, len(config["vocabulary"]), config["pad"], config["every_token"])
    params = _read(file, model)
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(params)):
        raise ValueError(f"{folder} scores NaN: some of its parameters are not finite")
    return Reward(model.score, params), config


def read_config(folder: Path) -> dict[str, Any]:
    """Returns config.json of a reward model. Raises ValueError with one line where the folder is none."""
    file = folder / "config.json"
    try:
        config = schema.parse(file)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} is not a reward model: it has no config.json") from None
    if isinstance(config, dict) and "reward_model" not in config:
        what = "a run" if "algo" in config else "something else"
        raise ValueError(
            f"{folder} is {what}, not a reward model: see python -m experiments.reward"
        )
    schema.require(config, _CONFIG, file)
    return config


def require_task(
    folder: Path, config: dict[str, Any], env_name: str, env_kwargs: dict[str, Any], env: Any
) -> None:
    """Raises ValueError with one line where a reward model is of another vocabulary or task than a run's.

    Args:
      config: the reward model's config.json.
    """
    ours, theirs = list(env.task.vocabulary), config["vocabulary"]
    if ours != theirs:
        raise ValueError(
            f"{folder} is a reward model of another vocabulary: {len(theirs)} tokens, and the task has {len(ours)}"
            + (", named differently" if len(ours) == len(theirs) else "")
        )
    same_options = _task_options(config["env_kwargs"]) == _task_options(env_kwargs)
    if not same_options or _sizeless(config["env"]) != _sizeless(env_name):
        raise ValueError(
            f"{folder} is a reward model of {_shown(config['env'], config['env_kwargs'])}, not of "
            f"{_shown(env_name, env_kwargs)}"
        )


def digest(folder: Path) -> str:
    """Returns the SHA-256 of what a reward model is: its settings and its parameters."""
    content = b"".join((folder / name).read_bytes() for name in ("config.json", PARAMETERS))
    return hashlib.sha256(content).hexdigest()


def _task_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    return folders.plain({name: x for name, x in kwargs.items() if name not in _OF_ENV})


def _sizeless(env: str) -> str:
    """A task's name without the size that its options have, too."""
    return sized_name(env)[0]


def _shown(env: str, kwargs: dict[str, Any]) -> str:
    options = ", ".join(f"{name} {value}" for name, value in _task_options(kwargs).items())
    return f"{env} ({options})" if options else env


def _read(file: Path, model: RewardModel) -> RewardParams:
    """The parameters, held against those that the settings make."""
    shapes = jax.eval_shape(lambda key: model.start(key).params, jax.random.key(0))
    number: Any = jax.ShapeDtypeStruct((), np.float32)
    template = RewardParams(shapes, number, number)
    try:
        with np.load(file, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    wanted = _leaves(template)
    for name, x in wanted.items():
        if name not in found or (found[name].shape, found[name].dtype) != (x.shape, x.dtype):
            raise ValueError(f"{file} does not fit the settings in config.json: {name}")
    leaves = [jax.numpy.asarray(found[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _leaves(tree: Any) -> dict[str, Any]:
    """Leaves by a readable, unique name."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
