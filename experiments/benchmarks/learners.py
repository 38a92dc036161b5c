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
from typing import Any, NamedTuple

import envs
from agents import ALGORITHMS
from agents.dqn import DQNConfig
from agents.off_policy_settings import OffPolicyConfig
from agents.ppo import PPOConfig
from agents.td3 import TD3Config
from experiments.benchmarks.rivals import Rival, print_ratios, start, take_turns
from experiments.benchmarks.workloads import ITERATIONS, rate, training
from experiments.run.presets import preset

WORKER = Path(__file__).parent / "workers" / "rival_learner.py"
SLICE = 512  # environment steps of one call of an off-policy rival's `learn`


@dataclasses.dataclass(frozen=True)
class Matchup:
    """An algorithm on a task, ours against theirs."""

    task: str
    algo: str
    rivals: tuple[str, ...]
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """fields of our Config in which the preset is not what the rival can do"""

    @property
    def key(self) -> str:
        """The prefix of its figures."""
        return f"learn/{self.task}/{self.algo}"

    @property
    def config(self) -> Any:
        """Our Config: the preset with `changes`."""
        learner: Any = ALGORITHMS[self.algo]
        default = preset(self.task, self.algo, learner.Config)
        return dataclasses.replace(default, **self.changes)


MATCHUPS = (
    Matchup("HalfCheetah-v5", "ppo", ("sbx", "sb3")),
    Matchup("HalfCheetah-v5", "sac", ("sbx",)),
    Matchup("HalfCheetah-v5", "td3", ("sbx",)),
    Matchup(
        "CartPole-v1",
        "dqn",
        ("sbx",),
        {"double": False, "loss": "huber", "n_step": 1, "update_ratio": 0.5},
    ),
    Matchup("CartPole-v1", "ppo", ("rejax",)),
)


def bench_learners(
    python: Path | None,
    rounds: int,
    seconds: float,
    save: Callable[[dict[str, float]], None] = lambda _: None,
    matchups: tuple[Matchup, ...] = MATCHUPS,
) -> dict[str, float]:
    """Returns steps per second and ratios of all `matchups`; calls `save` after each of them, with all so far."""
    figures: dict[str, float] = {}
    for matchup in matchups:
        figures |= against_learners(matchup, python, rounds, seconds)
        save(figures)
    return figures


def against_learners(
    matchup: Matchup, python: Path | None, rounds: int, seconds: float
) -> dict[str, float]:
    """Returns environment steps per second of training, and how many times as fast as each rival ours is (medians over
    rounds)."""
    task, config = matchup.task, matchup.config
    rivals: dict[str, Rival] = {}
    try:
        for name in matchup.rivals:
            settings = json.dumps(rival_settings(name, matchup.algo, config))
            start(rivals, python, name, task, settings, WORKER)
        here = training(ALGORITHMS[matchup.algo](config, envs.make(task)))
        measures: dict[str, Callable[[], float]] = {"here": partial(rate, here, seconds)}
        measures |= {name: partial(rival.measure, seconds) for name, rival in rivals.items()}
        rates = take_turns(measures, rounds)
    finally:
        for rival in rivals.values():
            rival.close()
    return print_ratios(matchup.key, rates, "training")


def rival_settings(rival: str, algo: str, config: Any) -> dict[str, Any]:
    """Returns the settings of workers/rival_learner.py: the algorithm's class, its keyword arguments, environment steps
    to warm up with (`warm_up`), and environment steps of one measurement (`slice`). Raises ValueError where the rival
    cannot do the same as ours."""
    if rival == "rejax":
        return {"algo": algo.upper(), "arguments": _rejax(config)}
    activation, arguments_of = _THEIRS[algo]
    if config.activation != activation:
        raise ValueError(f"{rival}'s {algo} has activation {activation}, ours {config.activation}")
    theirs = arguments_of(config)
    theirs.arguments["policy_kwargs"] = {"net_arch": list(config.hidden_sizes)}
    return {
        "algo": algo.upper(),
        "arguments": theirs.arguments,
        "warm_up": theirs.warm_up,
        "slice": theirs.slice_steps,
    }


class _Theirs(NamedTuple):
    arguments: dict[str, Any]  # of the rival's class
    warm_up: int  # environment steps
    slice_steps: int  # environment steps


def _ppo(config: PPOConfig) -> _Theirs:
    """Returns the same number of steps in one environment, hence minibatches of the same size and number."""
    steps = config.num_envs * config.num_steps
    arguments = {
        "n_steps": steps,
        "batch_size": steps // config.num_minibatches,
        "n_epochs": config.num_epochs,
    }
    return _Theirs(arguments, steps, steps)


def _sac(config: OffPolicyConfig) -> _Theirs:
    """Returns our `update_ratio` in lowest terms: `gradient_steps` after every `train_freq` steps of one
    environment."""
    ratio = Fraction(config.update_ratio).limit_denominator(1000)
    arguments = {
        "train_freq": ratio.denominator,
        "gradient_steps": ratio.numerator,
        "batch_size": config.batch_size,
        "buffer_size": config.buffer_size,
        "learning_starts": config.warmup_steps,
    }
    return _Theirs(arguments, config.warmup_steps + SLICE, SLICE)


def _td3(config: TD3Config) -> _Theirs:
    theirs = _sac(config)
    theirs.arguments["policy_delay"] = config.policy_delay
    return theirs


def _dqn(config: DQNConfig) -> _Theirs:
    theirs = _sac(config)
    # SBX counts environment steps between its copies, we count gradient steps.
    theirs.arguments["target_update_interval"] = round(config.target_period / config.update_ratio)
    if len(set(config.hidden_sizes)) != 1 or len(config.hidden_sizes) != 2:
        raise ValueError(f"sbx's dqn has two layers of one width, ours {config.hidden_sizes}")
    extras = config.double or config.dueling or config.prioritized or config.layer_norm
    if extras or config.n_step > 1 or config.loss != "huber":
        raise ValueError(
            "sbx's dqn has one-step targets, Huber's loss and a plain network, and is neither double, dueling nor "
            "prioritized"
        )
    return theirs


# Of Stable-Baselines3 and SBX: the activation they are left with, and our settings in their words.
_THEIRS: dict[str, tuple[str, Callable[[Any], _Theirs]]] = {
    "ppo": ("tanh", _ppo),
    "sac": ("relu", _sac),
    "td3": ("relu", _td3),
    "dqn": ("relu", _dqn),
}


def _rejax(config: PPOConfig) -> dict[str, Any]:
    """Returns our numbers under Rejax's names; one call of its `train` does as many iterations as ours is timed in."""
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
