"""What a run is made of, as plain data: enough to build its environment and its learner again."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import jax

import envs
from agents import ALGORITHMS, TOKEN_ALGORITHMS
from envs.base import Env
from experiments import checkpoints, runs, user_env
from experiments.suggest import suggestion

TOKENS = "tokens-"  # what names of their environments begin with
ALIASES = {"actor_critic": "a2c", "actor-critic": "a2c"}  # other names that --algo takes
Domain = Literal["control", "tokens"]  # acting step by step, or writing responses to prompts


@dataclasses.dataclass(frozen=True)
class Spec:
    env: str
    env_kwargs: dict[str, Any]
    algo: str
    config: Any  # the algorithm's Config
    seed: int
    seeds: int
    domain: Domain = "control"

    def build(self) -> Any:
        """The algorithm on its environment. Raises ValueError with one line on impossible settings."""
        return algorithm(self.algo, self.domain)(self.config, make_env(self.env, self.env_kwargs))

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "config": dataclasses.asdict(self.config)}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Spec:
        """From config.json. Raises ValueError where this version of the code cannot hold it."""
        domain = stored.get("domain", "control")
        if domain not in get_args(Domain):
            raise ValueError(f"config.json does not fit this version: unknown domain {domain!r}")
        config_type = algorithm(stored["algo"], domain).Config
        fields = {field.name for field in dataclasses.fields(cls)}
        kept = {name: _tuples(value) for name, value in stored.items() if name in fields}
        try:
            return cls(**{**kept, "config": config_type(**kept["config"])})
        except TypeError as error:
            raise ValueError(f"config.json does not fit this version: {error}") from None


def algorithm(name: str, domain: Domain = "control") -> Any:
    known = ALGORITHMS if domain == "control" else TOKEN_ALGORITHMS
    if name not in known:
        raise ValueError(f"unknown algorithm {name!r}: {suggestion(name, known)}")
    return known[name]


def algorithm_name(given: str) -> str:
    """The name under which an algorithm's runs are kept."""
    return ALIASES.get(given, given)


def make_env(name: str, kwargs: dict[str, Any]) -> Env:
    """The environment called `name`, be it a registered one, `gym:ID` or `path/to/file.py:NAME`.

    Raises ValueError with one line where there is none, or what is there is no environment.
    """
    factory = env_factory(name)
    try:
        inspect.signature(factory).bind(**kwargs)
    except TypeError as error:
        raise ValueError(f"environment {name!r} does not take these options: {error}") from None
    if not user_env.is_file(name):
        return factory(**kwargs)
    return user_env.build(name, factory, kwargs)


def env_factory(name: str) -> Callable[..., Env]:
    """What makes the environment. Raises ValueError with one line where there is none."""
    return user_env.factory(name) if user_env.is_file(name) else envs.factory(name)


def token_env(task: str) -> str:
    """The name of the environment of a token task."""
    return task if user_env.is_file(task) else TOKENS + task


def domain_of(env: str) -> Domain:
    return "tokens" if env.startswith(TOKENS) else "control"


def full_name(env: str) -> str:
    """The name under which it is found from any folder: a file's path is made absolute."""
    return user_env.absolute(env) if user_env.is_file(env) else env


def short_name(env: str) -> str:
    """For titles and folders: the class of a file, the last part of a Gymnasium name."""
    return env.rpartition(":")[2].rpartition("/")[2]


def initial_keys(spec: Spec) -> jax.Array:
    """Seed i's whole run follows from `jax.random.key(seed + i)`. [seeds]"""
    return jax.numpy.stack([jax.random.key(spec.seed + i) for i in range(spec.seeds)])


def load_state(folder: Path, spec: Spec, algo: Any, warn) -> tuple[Any, dict[str, Any], int]:
    """The newest usable checkpoint of a run: (states with a leading axis of seeds, progress, env steps)."""
    template = jax.eval_shape(jax.vmap(algo.init), initial_keys(spec))
    return checkpoints.restore(folder / "checkpoints", template, warn)


def refuse_tokens(folder: Path, spec: Spec) -> None:
    """For what acts step by step. Raises ValueError."""
    if spec.domain == "tokens":
        raise ValueError(f"{folder} is a run of tokens: what it wrote is in its samples.jsonl")


def open_run(folder: Path) -> tuple[Spec, Any]:
    """The spec and the algorithm of a run on disk."""
    spec = Spec.from_json(runs.read_config(folder))
    return spec, spec.build()


def _tuples(x: Any) -> Any:
    """JSON has lists only; our settings have tuples only."""
    if isinstance(x, dict):
        return {name: _tuples(value) for name, value in x.items()}
    return tuple(_tuples(v) for v in x) if isinstance(x, list) else x
