"""Training against other people's learners: `python -m experiments.bench --learners`.

Environment steps a second of training, compilation and warm-up apart, ours and theirs in turn. Equal in every
comparison are the algorithm, the number, widths and activation of the networks' layers, the size of a minibatch, and
the number of gradient steps for each environment step: `rival_settings` makes the rival's from ours, and what it does
not name is the rival's own default. What differs:

- `HalfCheetah-v5/ppo`: 64 environments of ours for 32 steps against one of theirs for 2048, as their default is. Either
  way 10 epochs of 32 minibatches of 64: 320 gradient steps for 2048 environment steps. Ours also normalises
  observations and returns.
- `HalfCheetah-v5/sac`, `HalfCheetah-v5/td3`: one environment on both sides, a gradient step of batch 256 after each of
  its steps. SBX's TD3 moves its targets at every gradient step and ours at every second, with the actor; ours explores
  with noise, which SBX adds only on request.
- `CartPole-v1/dqn`: one gradient step of batch 128 for two environment steps. Ours takes 4 steps of 8 environments,
  then 16 gradient steps, bounds the gradient's length and normalises observations; SBX takes 2 of one environment, then
  one. SBX has neither double Q-learning nor another loss than Huber's, so ours goes without the one and with the other,
  and with one-step targets.
- `CartPole-v1/ppo`: Rejax compiles all of its training, as we do. Equal too are environments (16) and steps (256), and
  that observations and rewards are normalised. Rejax clips the value loss and has an optimiser each for policy and
  value. Evaluation cannot be switched off there, so it is replaced by a function that does nothing.

SBX and SB3 run as their documentation has it, on a task's name (of which they make a DummyVecEnv), by
`learn(n, reset_num_timesteps=False)` without logs, evaluation, callbacks or progress bar. A slice of `n` is 2048 steps
of PPO and 512 of the others, so that what `learn` itself costs is spread over them.

A rival that is not installed is left out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import envs
from agents import ALGORITHMS
from agents.dqn import DQNConfig
from agents.off_policy import OffPolicyConfig
from agents.ppo import PPOConfig
from agents.td3 import TD3Config
from experiments.benchmarks.rivals import Rival, report, start, take_turns
from experiments.benchmarks.workloads import ITERATIONS, rate, training
from experiments.run.presets import preset

WORKER = Path(__file__).parent / "workers" / "rival_learner.py"
SLICE = 512  # environment steps of one call of an off-policy rival's `learn`


@dataclasses.dataclass(frozen=True)
class Comparison:
    task: str
    algo: str
    rivals: tuple[str, ...]
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """fields of our Config in which the preset is not what the rival can do"""

    @property
    def key(self) -> str:
        return f"learn/{self.task}/{self.algo}"

    @property
    def config(self) -> Any:
        learner: Any = ALGORITHMS[self.algo]
        default = preset(self.task, self.algo, learner.Config)
        return dataclasses.replace(default, **self.changes)


COMPARISONS = (
    Comparison("HalfCheetah-v5", "ppo", ("sbx", "sb3")),
    Comparison("HalfCheetah-v5", "sac", ("sbx",)),
    Comparison("HalfCheetah-v5", "td3", ("sbx",)),
    Comparison(
        "CartPole-v1",
        "dqn",
        ("sbx",),
        {"double": False, "loss": "huber", "n_step": 1, "update_ratio": 0.5},
    ),
    Comparison("CartPole-v1", "ppo", ("rejax",)),
)


def bench_learners(
    python: Path | None,
    rounds: int,
    seconds: float,
    save: Callable[[dict[str, float]], None] = lambda _: None,
    comparisons: tuple[Comparison, ...] = COMPARISONS,
) -> dict[str, float]:
    """Rates and ratios; `save` is called after each comparison, with all so far."""
    figures: dict[str, float] = {}
    for comparison in comparisons:
        figures |= against_learners(comparison, python, rounds, seconds)
        save(figures)
    return figures


def against_learners(
    comparison: Comparison, python: Path | None, rounds: int, seconds: float
) -> dict[str, float]:
    """Rates of training, and how many times faster than each rival ours is (median over rounds)."""
    task, config = comparison.task, comparison.config
    rivals: dict[str, Rival] = {}
    try:
        for name in comparison.rivals:
            settings = json.dumps(rival_settings(name, comparison.algo, config))
            start(rivals, python, name, task, settings, WORKER)
        here = training(ALGORITHMS[comparison.algo](config, envs.make(task)))
        measures: dict[str, Callable[[], float]] = {"here": partial(rate, here, seconds)}
        measures |= {name: partial(rival.measure, seconds) for name, rival in rivals.items()}
        rates = take_turns(measures, rounds)
    finally:
        for rival in rivals.values():
            rival.close()
    return report(comparison.key, rates, "training")


def rival_settings(rival: str, algo: str, config: Any) -> dict[str, Any]:
    """What `rival_learner.py` is to do: the algorithm's class, its keyword arguments, how many environment steps to
    warm up with, and how many to do at a time. Raises ValueError where the rival cannot do the same as ours."""
    if rival == "rejax":
        return {"algo": algo.upper(), "arguments": _rejax(config)}
    default = "tanh" if isinstance(config, PPOConfig) else "relu"
    if config.activation != default:
        raise ValueError(f"{rival}'s {algo} has activation {default}, ours {config.activation}")
    if isinstance(config, PPOConfig):
        arguments, slice_steps = _on_policy(config), config.num_envs * config.num_steps
        warm_up = slice_steps
    else:
        arguments, slice_steps = _off_policy(config), SLICE
        warm_up = config.warmup_steps + SLICE
    arguments["policy_kwargs"] = {"net_arch": list(config.hidden_sizes)}
    return {
        "algo": algo.upper(),
        "arguments": arguments,
        "warm_up": warm_up,
        "slice": slice_steps,
    }


def _on_policy(config: PPOConfig) -> dict[str, Any]:
    """The same number of steps in one environment, hence minibatches of the same size and number."""
    steps = config.num_envs * config.num_steps
    return {
        "n_steps": steps,
        "batch_size": steps // config.num_minibatches,
        "n_epochs": config.num_epochs,
    }


def _off_policy(config: OffPolicyConfig) -> dict[str, Any]:
    """`gradient_steps` after every `train_freq` steps of one environment are our `update_ratio` in lowest terms."""
    ratio = Fraction(config.update_ratio).limit_denominator(1000)
    arguments: dict[str, Any] = {
        "train_freq": ratio.denominator,
        "gradient_steps": ratio.numerator,
        "batch_size": config.batch_size,
        "buffer_size": config.buffer_size,
        "learning_starts": config.warmup_steps,
    }
    if isinstance(config, TD3Config):
        arguments["policy_delay"] = config.policy_delay
    if isinstance(config, DQNConfig):
        # SBX counts environment steps between its copies, we count gradient steps.
        arguments["target_update_interval"] = round(config.target_period / config.update_ratio)
        if len(set(config.hidden_sizes)) != 1 or len(config.hidden_sizes) != 2:
            raise ValueError(f"sbx's dqn has two layers of one width, ours {config.hidden_sizes}")
        extras = config.double or config.dueling or config.prioritized or config.layer_norm
        if extras or config.n_step > 1 or config.loss != "huber":
            raise ValueError(
                "sbx's dqn has one-step targets, Huber's loss and a plain network, and is neither double, dueling nor "
                "prioritized"
            )
    return arguments


def _rejax(config: PPOConfig) -> dict[str, Any]:
    """Its names for the same numbers; one call of its `train` does as many iterations as ours is timed in."""
    steps = ITERATIONS * config.num_envs * config.num_steps
    return {
        "num_envs": config.num_envs,
        "num_steps": config.num_steps,
        "num_epochs": config.num_epochs,
        "num_minibatches": config.num_minibatches,
        "total_timesteps": steps,
        "eval_freq": steps,
        "skip_initial_evaluation": True,
        "normalize_observations": config.normalize_observations,
        "normalize_rewards": config.normalize_returns,
        "agent_kwargs": {
            "hidden_layer_sizes": list(config.hidden_sizes),
            "activation": config.activation,
        },
    }
