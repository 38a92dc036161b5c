"""Records a dataset: rounds of episodes until there are enough steps, and the file they become."""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np

from envs import HOST_PREFIX
from experiments.console.display import Display, si
from experiments.console.signals import RunInterruptedError, Stop
from experiments.data import store
from experiments.data.episodes import Episode
from experiments.recording.behaviour import Behaviour, policy_of, random_behaviour, replayed
from experiments.recording.parts import Parts
from experiments.recording.rounds import MOST_ENVS, Rounds, envs_of_round
from experiments.run import folders, spec, stored
from experiments.run.provenance import provenance
from experiments.user_envs import load

REFERENCE_EPISODES = 128  # of random actions, for the lower reference


@dataclasses.dataclass(frozen=True)
class Order:
    """The recording that a command line asks for."""

    run: Path | None
    env: str | None
    algo: str
    id: str | None
    steps: int | None
    source: Literal["policy", "replay"]
    seed: int
    seed_index: int
    deterministic: bool
    expert: Path | None
    ref_min: float | None
    ref_max: float | None
    trust: bool


def record(order: Order, display: Display) -> str:
    """Records, and returns the dataset's name. Raises ValueError with one line on bad input, OSError, and
    RunInterruptedError where a signal stops it: the same command goes on then."""
    store.require_minari()
    ref_max = _expert_score(order)
    behaviour, episodes = _behaviour(order, display)
    dataset = order.id or default_name(behaviour, order.source)
    parts = Parts(dataset, _content(order, behaviour))
    steps = order.steps or 1_000_000
    num_envs = envs_of_round(behaviour.env, steps)
    rounds = Rounds(behaviour, order.seed, num_envs)
    parts.begin()
    if parts.resumed:
        display.say(f"goes on with {len(parts)} parts of {dataset}, {si(parts.steps())} steps")
    with Stop() as stop:
        if episodes is None:
            _record_rounds(parts, rounds, steps, display, stop)
        else:
            for i in range(0, len(episodes), MOST_ENVS):
                parts.write(i // MOST_ENVS, episodes[i : i + MOST_ENVS])
        ref_min = order.ref_min if order.ref_min is not None else _random_score(behaviour, order)
        metadata = _metadata(dataset, order, behaviour, ref_min, ref_max)
        most = steps if episodes is None else order.steps
        env = behaviour.env
        folder = parts.finish(
            most,
            (env.observation_space, env.action_space),
            metadata,
            gym_spec(behaviour.env_name, behaviour.env_kwargs),
        )
    display.say(str(folder))
    return dataset


def default_name(behaviour: Behaviour, source: str) -> str:
    """Returns a dataset's name without --id."""
    env = spec.short_name(behaviour.env_name).lower()
    base, mark, version = env.rpartition("-v")
    env = base if mark and version.isdigit() else env
    kind = "replay" if source == "replay" else behaviour.name
    return f"stride/{env}/{kind}-v0"


def gym_spec(env_name: str, env_kwargs: dict[str, Any]) -> Any:
    """Returns Gymnasium's spec, by which others make the environment again; None where there is none."""
    if env_name.startswith(HOST_PREFIX):
        return gymnasium.spec(env_name.removeprefix(HOST_PREFIX))
    name = f"stride/{'Walker-v0' if env_name == 'walker' else env_name}"
    if load.is_file(env_name) or name not in gymnasium.registry:
        return None
    found = copy.deepcopy(gymnasium.spec(name))
    found.kwargs |= folders.plain(env_kwargs)
    return found


def _record_rounds(parts: Parts, rounds: Rounds, wanted: int, display: Display, stop: Stop) -> None:
    steps = parts.steps()
    display.start(wanted, min(steps, wanted))
    try:
        while steps < wanted:
            if stop.received is not None:
                raise RunInterruptedError(stop.received)
            start = time.monotonic()
            episodes = rounds.episodes(len(parts))
            parts.write(len(parts), episodes)
            new = sum(len(x.rewards) for x in episodes)
            steps += new
            row: dict[str, float | None] = {
                "train/return": float(np.mean([x.rewards.sum(dtype=np.float64) for x in episodes])),
                "train/length": new / len(episodes),
            }
            display.update(min(steps, wanted), new / (time.monotonic() - start), [row])
    finally:
        display.close()


def _behaviour(order: Order, display: Display) -> tuple[Behaviour, list[Episode] | None]:
    """Who acts; and the episodes, where they are recorded already."""
    if (order.run is None) == (order.env is None):
        raise ValueError(
            "what is to be recorded? give the folder of a run, or --env NAME for random actions"
        )
    if order.steps is not None and order.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {order.steps}")
    if order.env is not None:
        if order.algo != "random":
            raise ValueError(
                f"--env records random actions alone; the policy of {order.algo} is a run's: give its folder"
            )
        if order.source == "replay":
            raise ValueError("--source replay is of a run's replay buffer: give the run's folder")
        name = spec.full_name(order.env)
        spec.refuse_task(name, None)
        return random_behaviour(name, {}, spec.make_env(name, {})), None
    assert order.run is not None
    if order.source == "replay":
        return replayed(order.run, order.trust, display.warn)
    behaviour = policy_of(
        order.run, order.seed_index, order.deterministic, order.trust, display.warn
    )
    return behaviour, None


def _content(order: Order, behaviour: Behaviour) -> dict[str, Any]:
    """Returns all settings that decide which episodes are recorded."""
    return {
        "env": behaviour.env_name,
        "env_kwargs": behaviour.env_kwargs,
        "policy": behaviour.source,
        "run": str(order.run.absolute()) if order.run else None,
        "source": order.source,
        "seed": order.seed,
        "steps": order.steps,
        "deterministic": order.deterministic,
    }


def _expert_score(order: Order) -> float | None:
    if order.expert is None:
        return order.ref_max
    if order.ref_max is not None:
        raise ValueError("--expert and --ref-max both give the upper reference: leave one out")
    config = stored.read_config(order.expert)
    return stored.read_summary(order.expert, config)["eval_return_mean"]


def _random_score(behaviour: Behaviour, order: Order) -> float:
    """Mean return of random actions in the same environment."""
    acts = random_behaviour(behaviour.env_name, behaviour.env_kwargs, behaviour.env)
    most = envs_of_round(behaviour.env, REFERENCE_EPISODES * behaviour.env.max_episode_steps)
    episodes = Rounds(acts, order.seed, most).episodes(0)
    return float(np.mean([x.rewards.sum(dtype=np.float64) for x in episodes]))


def _metadata(
    dataset: str,
    order: Order,
    behaviour: Behaviour,
    ref_min: float,
    ref_max: float | None,
) -> dict[str, Any]:
    made = provenance()
    return {
        "dataset_id": dataset,
        "algorithm_name": behaviour.name,
        "description": f"{behaviour.env_name}: {behaviour.source}; whole episodes, recorded with stride-rl",
        "num_episodes_average_score": REFERENCE_EPISODES,
        "ref_min_score": ref_min,
        **({} if ref_max is None else {"ref_max_score": ref_max}),
        store.OUR_ENTRY: folders.plain(
            {
                "env": behaviour.env_name,
                "env_kwargs": behaviour.env_kwargs,
                "policy": behaviour.source,
                "policy_steps": behaviour.env_steps,
                "deterministic": order.deterministic,
                "seed": order.seed,
                "commit": made["commit"],
                "versions": made["versions"],
            }
        ),
    }
