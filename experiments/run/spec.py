"""The specification of a run as plain data: enough to build its environment and its learner again."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

import envs
from agents import ALGORITHMS, OFFLINE_ALGORITHMS, TOKEN_ALGORITHMS
from envs.base import Env
from envs.process import require_single_precision
from envs.tokens import Task, TokenEnv, TokenFactory, plain_name, sized_name, token_factory
from experiments.console.suggest import suggestion
from experiments.data.scores import scores
from experiments.data.transitions import Facts
from experiments.evaluation.evaluator import Domain
from experiments.run import checkpoints, folders, inputs, kinds, models, schema
from experiments.run.trust import require_trusted
from experiments.user_envs import load

CONFIG = Path("config.json")
TOKENS = "tokens-"  # what names of their environments begin with
ALIASES = {"actor_critic": "a2c", "actor-critic": "a2c"}  # other names that --algo takes


LAYOUT: dict[str, Any] = {
    "devices": 1,
    "actors": 0,
    "sync": False,
}  # fields about who computes, and their defaults
RARE: dict[str, Any] = {**LAYOUT, "adapter": None}  # not written where they have their defaults


@dataclasses.dataclass(frozen=True)
class Spec:
    """The specification of a run."""

    env: str
    env_kwargs: dict[str, Any]
    algo: str
    config: Any  # the algorithm's Config
    seed: int
    seeds: int
    domain: Domain = "control"
    imports: tuple[str, ...] = ()  # FILE.py or FILE.py:ALGORITHM, executed first
    reward: str | None = (
        None  # learnt from in place of the verifier's score, see `experiments.run.rewards`
    )
    model: str | None = None  # folder of published weights that the policy starts from
    best_of: int = 1  # samples of a prompt that the reward picks the best from, at the end
    devices: int = 1  # that share the environments, see `experiments.run.devices`
    actors: int = (
        0  # processes that act, see `experiments.run.elsewhere`; 0: the learner acts itself
    )
    sync: bool = False  # actors wait for the learner, and it for them
    dataset: Facts | None = None  # learnt from, or begun with
    start: str | None = None  # folder of a run whose networks this one begins with
    adapter: str | None = None  # folder of low-rank adapters for `model`

    def build(self) -> Any:
        """Returns the algorithm on its environment. Raises ValueError with one line on impossible settings."""
        execute(self.imports)
        env = make_env(self.env, self.env_kwargs, self.domain)
        return learner(self, env)

    def to_json(self) -> dict[str, Any]:
        """Returns the spec in JSON's types, for config.json."""
        # A run as it always was has the config.json that it always had.
        whole = {n: v for n, v in vars(self).items() if n not in RARE or v != RARE[n]}
        facts = None if self.dataset is None else dataclasses.asdict(self.dataset)
        return {**whole, "config": dataclasses.asdict(self.config), "dataset": facts}

    @classmethod
    def from_json(cls, stored: dict[str, Any], file: Path = CONFIG) -> Spec:
        """Reads the spec from the content of a config.json, which is `file`. Raises ValueError with one line where a
        setting is missing, of another kind, impossible, or unknown to this version."""
        schema.require(stored, schema.Table({"domain": kinds.kind_of(Domain)}), file)
        with _naming(file):
            config_type = algorithm(stored["algo"], stored["domain"]).Config
        kinds.require_settings(stored["config"], config_type, file)
        with _naming(file):
            config = config_type(**_tuples(stored["config"]))
        fields = {field.name for field in dataclasses.fields(cls)}
        kept = {name: _tuples(value) for name, value in stored.items() if name in fields}
        facts = stored.get("dataset")
        return cls(**{**kept, "config": config, "dataset": Facts(**facts) if facts else None})


def eval_scores(spec: Spec, mean_return: float, prefix: str = "eval/") -> dict[str, float | None]:
    """Returns the normalised scores of an evaluation, by the references of the run's dataset and by D4RL's, under names
    that begin with `prefix`; {} without a dataset."""
    if spec.dataset is None:
        return {}
    found = scores(mean_return, spec.env, spec.dataset.ref_min, spec.dataset.ref_max)
    return {f"{prefix}{name}": value for name, value in found.items()}


def with_scores(spec: Spec, row: dict[str, float]) -> dict[str, Any]:
    """Returns columns of an evaluation, and its normalised scores where the run has a dataset."""
    return row | (eval_scores(spec, row["eval/return"]) if spec.dataset else {})


def learner(spec: Spec, env: Env) -> Any:
    """Returns the algorithm on its environment, with the reward, the pairs and the weights that the spec names.

    Raises OSError and ValueError with one line on impossible settings and unusable files.
    """
    kind = algorithm(spec.algo, spec.domain)
    algo = kind(spec.config, env, **inputs.given(spec, env, kind))
    return models.begin(algo, models.Folders(spec.model, spec.adapter))


def algorithm(name: str, domain: Domain = "control") -> Any:
    """Returns the algorithm's class. Raises ValueError for an unknown name."""
    known = ALGORITHMS | OFFLINE_ALGORITHMS if domain == "control" else TOKEN_ALGORITHMS
    if name not in known:
        raise ValueError(f"unknown algorithm {name!r}: {suggestion(name, known)}")
    return known[name]


def algorithm_name(given: str) -> str:
    """Returns the name under which an algorithm's runs are kept."""
    return ALIASES.get(given, given)


def make_env(name: str, kwargs: dict[str, Any], domain: Domain = "control") -> Env:
    """Returns the environment called `name`: a registered one, `gym:ID` or `path/to/file.py:NAME`.

    Raises ValueError with one line where there is none, or what is there is no environment.
    """
    require_single_precision()
    factory = env_factory(name, domain)
    try:
        inspect.signature(factory).bind(**kwargs)
    except TypeError as error:
        raise ValueError(f"environment {name!r} does not take these options: {error}") from None
    if not load.is_file(name):
        return factory(**kwargs)
    return load.build(name, factory, kwargs)


def env_factory(name: str, domain: Domain = "control") -> Callable[..., Env]:
    """Returns the factory of the environment, whose parameters are its options. Raises ValueError with one line where
    there is none.

    A task of a file has the options of its environment as well as its own. That a function makes a task, the domain
    of tokens says.
    """
    if not load.is_file(name):
        return envs.factory(name)
    factory = load.factory(name)
    if domain == "tokens" or is_task(factory):
        return TokenFactory(factory, name=short_name(name), environment=TokenEnv)
    return factory


def is_task(kind: Any) -> bool:
    """Tells a class of token tasks."""
    return isinstance(kind, type) and issubclass(kind, Task)


def token_env(task: str) -> str:
    """Returns the name of the environment of a token task."""
    return task if load.is_file(task) else TOKENS + task


def domain_of(env: str) -> Domain:
    """Raises ValueError with one line where a file has no such environment."""
    if load.is_file(env):
        return "tokens" if is_task(load.factory(env)) else "control"
    return "tokens" if env.startswith(TOKENS) else "control"


def full_name(env: str) -> str:
    """Returns the name under which runs are kept: a file's path is made absolute, and a token task's size left out
    where the task has it anyway, so that "tokens-sort-6" is "tokens-sort"."""
    if load.is_file(env):
        return load.absolute(env)
    if env.startswith(TOKENS) and env not in envs.names():
        return TOKENS + plain_name(env.removeprefix(TOKENS))
    return env


def is_env_of(given: str, stored: Spec) -> bool:
    """Tells that `given` names the environment of a run; the size of a token task may be in its name or an option."""
    size = _size(given)
    if not size:
        return full_name(given) == stored.env
    options = inspect.signature(env_factory(stored.env, stored.domain)).parameters.values()
    has = {p.name: p.default for p in options} | stored.env_kwargs
    same_task = _sizeless(given) == _sizeless(stored.env)
    return same_task and all(has.get(name) == value for name, value in size.items())


def _size(env: str) -> dict[str, Any]:
    """Returns the option that the number at the end of a token task's name sets."""
    if load.is_file(env) or not env.startswith(TOKENS) or env in envs.names():
        return {}
    return dict(token_factory(env.removeprefix(TOKENS)).fixed)


def _sizeless(env: str) -> str:
    return sized_name(env.removeprefix(TOKENS))[0]


def short_name(env: str) -> str:
    """Returns a name for titles and folders: the class in a file, the last part of a Gymnasium name."""
    return env.rpartition(":")[2].rpartition("/")[2]


def initial_keys(spec: Spec) -> jax.Array:
    """Returns the keys [seeds] from which the whole runs follow: `jax.random.key(seed + i)` for seed i."""
    return jax.numpy.stack([jax.random.key(spec.seed + i) for i in range(spec.seeds)])


def load_state(folder: Path, spec: Spec, algo: Any, warn) -> tuple[Any, dict[str, Any], int]:
    """Returns the newest usable checkpoint of a run: (states with a leading axis of seeds, progress, env steps)."""
    template = jax.eval_shape(jax.vmap(algo.init), initial_keys(spec))
    return checkpoints.restore(folder / "checkpoints", template, warn)


def refuse_task(env: str, algo: str | None) -> None:
    """Raises ValueError for a token task, where training goes step by step."""
    if domain_of(env) == "tokens":
        raise ValueError(is_a_task(env, algo))


def is_a_task(env: str, algo: str | None) -> str:
    """Returns the line that refuses a token task, with the command that trains on it."""
    task = env if load.is_file(env) else env.removeprefix(TOKENS)
    learner = f" --algo {algo}" if algo in TOKEN_ALGORITHMS else ""
    command = shlex.join(["python", "-m", "experiments.tokens", "--task", task])
    return f"{short_name(env)} is a token task: train on it with {command}{learner}"


def refuse_tokens(folder: Path, spec: Spec) -> None:
    """Raises ValueError for a run on tokens, where a policy acts step by step."""
    if spec.domain == "tokens":
        raise ValueError(
            f"{folder} is a run on tokens: its responses are in samples.jsonl, and python -m experiments.tokens "
            f"--answer {folders.quoted(folder)} asks it"
        )


def read_run(folder: Path, trust: bool = False) -> Spec:
    """Returns the spec of a run on disk. Executes the files that the run imports.

    Raises ValueError with one line where the folder is no run, where a field of its config.json is missing or of
    another kind, and where it names files that may not be run unless the user says so, by `trust`.
    """
    file, stored = folder / CONFIG, folders.read_config(folder)
    require_trusted(folder, stored, trust)
    execute(stored.get("imports", ()))  # the algorithm may be one that they register
    spec = Spec.from_json(stored, file)
    inputs.require_unchanged(folder, stored)
    for line in kinds.require_options(
        stored["env_kwargs"], env_factory(spec.env, spec.domain), file
    ):
        print(f"warning: {line}", file=sys.stderr)
    return spec


def open_run(folder: Path, trust: bool = False) -> tuple[Spec, Any]:
    """Returns the spec and the algorithm of a run on disk. Raises ValueError as `read_run` does."""
    spec = read_run(folder, trust)
    return spec, spec.build()


def execute(files: Iterable[str]) -> None:
    """Executes files, each once in a process. The class of `FILE.py:NAME` becomes the algorithm NAME: of control where
    it has `act`, else of token tasks.

    Raises ValueError with one line where a file fails or has no such algorithm, and for a name of stride's own.
    """
    for file in files:
        named = load.algorithm(file)
        if named is None:
            continue
        name, kind = named
        table = ALGORITHMS if "act" in dir(kind) else TOKEN_ALGORITHMS
        if name in table and table[name].__module__.startswith("agents."):
            raise ValueError(f"{file}: stride has an algorithm {name}; rename the class")
        table[name] = kind


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Raises ValueErrors with the name of the file that is to blame."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _tuples(x: Any) -> Any:
    """Returns lists as tuples: JSON has only lists, our settings only tuples."""
    if isinstance(x, dict):
        return {name: _tuples(value) for name, value in x.items()}
    return tuple(_tuples(v) for v in x) if isinstance(x, list) else x
