"""The command line that trains a reward model, and the same of a training that is resumed."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.tokens.grpo import TokenGRPOConfig
from agents.tokens.pairs import Pairs
from agents.tokens.reward_model import RewardModel, RewardModelConfig
from agents.tokens.sft import SFT, SFTConfig
from experiments.console import options
from experiments.console.flags import ImportFlag, parse_flags
from experiments.run import limits, presets, reward_training
from experiments.run.arguments import refuse_contradiction
from experiments.run.pair_files import read_pairs
from experiments.run.spec import TOKENS, env_factory, execute, full_name, make_env, token_env
from experiments.run.which import WhichTask
from experiments.user_envs import load


@dataclasses.dataclass(frozen=True)
class RewardFlags:
    """Flags of `python -m experiments.reward`, in addition to those of the task and the model."""

    seed: int = 0
    """seed of all random numbers"""
    out: Path | None = None
    """the model's folder; None: a new one under results/rewards"""
    resume: Path | None = None
    """resume the stopped training in this folder; takes no other flag"""
    pairs: Path | None = None
    """FILE.jsonl with your own pairs; None: samples of the imitated policy, ranked by gold score"""
    imitation_steps: int | None = None
    """gradient steps of imitation of the policy that generates the samples; None: the task's preset for GRPO"""
    imports: ImportFlag = ()
    """a Python file to execute first; it may register tasks; may be given several times"""
    trust: bool = False
    """with --resume: execute the files that the training names, even if they changed or another user began it"""
    compile_cache: bool = True
    """keep compiled programs in the user's cache folder, for the next start"""


@dataclasses.dataclass(frozen=True)
class Order:
    """The command line, read and checked."""

    run: RewardFlags
    config: RewardModelConfig
    env_name: str
    env_kwargs: dict[str, Any]
    env: Any
    policy: SFT
    pairs: Pairs | None

    def to_json(self) -> dict[str, Any]:
        """Returns what a resumed training needs, in JSON's types."""
        return {
            "env": self.env_name,
            "env_kwargs": self.env_kwargs,
            "imports": list(self.run.imports),
            "config": dataclasses.asdict(self.config),
            "seed": self.run.seed,
            "pairs": None if self.run.pairs is None else str(self.run.pairs),
            "imitation_steps": self.policy.config.imitation_steps,
        }


def read(argv: Sequence[str]) -> Order:
    """Reads the command line. Raises ValueError with one line for whatever is wrong; nothing is written."""
    first = _first_flags(argv)
    kept = None
    if first.resume is not None:
        kept = reward_training.read(Path(first.resume), first.trust)
        execute(kept["imports"])
    execute(first.imports)
    name = full_name(token_env(first.task or "sort")) if kept is None else kept["env"]
    factory = env_factory(name, "tokens")
    kinds = (RewardFlags, RewardModelConfig)
    taken = {"task"} | {field.name for kind in kinds for field in dataclasses.fields(kind)}
    has_reward = any(option.name == "reward" for option in options.options(factory))
    own = kept["env_kwargs"] if kept else {"reward": "process"} if has_reward else {}
    of_env = options.flags(factory, taken, own)
    parts = [
        ("which", WhichTask(name.removeprefix(TOKENS))),
        ("run", _run_flags(kept)),
        ("environment", of_env.default),
        ("model", RewardModelConfig(**kept["config"]) if kept else RewardModelConfig()),
    ]
    arguments = dataclasses.make_dataclass("Arguments", [(k, type(v)) for k, v in parts])
    what = "Trains a reward model for a token task."
    parsed = parse_flags(arguments, argv, arguments(*(v for _, v in parts)), what)
    run = _absolute(parsed.run)
    if kept is not None:
        _refuse_another_task(first, kept)
        for (_, old), new in zip(parts[1:], (run, parsed.environment, parsed.model), strict=True):
            refuse_contradiction(run, new, old)
        run = dataclasses.replace(run, imports=tuple(kept["imports"]))
    kwargs = {**(kept["env_kwargs"] if kept else {}), **of_env.kwargs(parsed.environment)}
    return _checked(run, parsed.model, name, kwargs)


def _checked(run: RewardFlags, config: RewardModelConfig, name: str, kwargs: Any) -> Order:
    """The order, where it can be carried out. Raises ValueError with one line where not."""
    limits.require_seeds(run.seed, 1)
    if run.trust and run.resume is None:
        raise ValueError("--trust goes with --resume: a new training executes the files you name")
    if run.out is not None and run.resume is None:
        reward_training.refuse_taken(run.out)
    env: Any = make_env(name, kwargs, "tokens")
    if run.pairs is not None and config.kind == "process":
        raise ValueError("--kind process judges samples by the verifier: leave out --pairs")
    pairs = None if run.pairs is None else read_pairs(run.pairs, env)
    RewardModel(config, 1, 0).total_steps(config.num_pairs if pairs is None else len(pairs.weight))
    return Order(run, config, name, kwargs, env, _policy(name, env, run), pairs)


def _first_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The flags that decide which other flags there are."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--task")
    first.add_argument("--resume")
    first.add_argument("--trust", action="store_true")
    first.add_argument("--import", dest="imports", action="append", default=[])
    try:
        return first.parse_known_args(list(argv))[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None


def _run_flags(kept: dict[str, Any] | None) -> RewardFlags:
    """The values of flags that are not given."""
    if kept is None:
        return RewardFlags()
    return RewardFlags(
        seed=kept["seed"],
        pairs=None if kept["pairs"] is None else Path(kept["pairs"]),
        imitation_steps=kept["imitation_steps"],
        imports=tuple(kept["imports"]),
    )


def _absolute(run: RewardFlags) -> RewardFlags:
    """The flags with paths that name the same files from any folder."""
    imports = tuple(map(load.absolute, run.imports))
    pairs = None if run.pairs is None else run.pairs.absolute()
    return dataclasses.replace(run, imports=imports, pairs=pairs)


def _refuse_another_task(first: argparse.Namespace, kept: dict[str, Any]) -> None:
    if first.task is not None and full_name(token_env(first.task)) != kept["env"]:
        raise ValueError(f"{first.resume} is a training for {kept['env']}, not {first.task}")


def _policy(name: str, env: Any, run: RewardFlags) -> SFT:
    """The learner whose imitated policy writes the samples: by the settings with which GRPO would begin."""
    settings = vars(presets.preset(name, "grpo", TokenGRPOConfig))
    names = {field.name for field in dataclasses.fields(SFTConfig)}
    config = SFTConfig(**{name: value for name, value in settings.items() if name in names})
    if run.imitation_steps is not None:
        config = dataclasses.replace(config, imitation_steps=run.imitation_steps)
    return SFT(config, env)
