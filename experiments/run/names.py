"""Short and unique names of environments and runs, for pages and figures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from experiments.run.spec import short_name

_WHERE = {"actors": 0, "sync": False, "devices": 1}  # where a run computes


def short_names(envs: Iterable[str]) -> dict[str, str]:
    """Returns a short, unique name for each environment.

    Names with equal ends keep as much of their beginning as distinguishes them: `a.py:Robot` and `b.py:Robot`,
    `CartPole-v1` and `gym:CartPole-v1`.
    """
    every = list(dict.fromkeys(envs))
    names = {env: short_name(env) or env for env in every}
    alike = [env for env in every if sum(names[env] == names[other] for other in every) > 1]
    return names | {env: _tail(env, [other for other in alike if other != env]) for env in alike}


def _tail(env: str, others: list[str]) -> str:
    """Returns the shortest end of a name, at a colon or slash, that is the end of no other; all of it where there is
    none."""
    starts = [match.end() for match in re.finditer(r"[:/]", env)]
    ends = [env[start:] for start in reversed(starts)]
    return next(
        (end for end in ends if end and not any(_ends(other, end) for other in others)), env
    )


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith((f":{end}", f"/{end}"))


def label_runs(configs: list[dict[str, Any]]) -> list[str]:
    """Returns labels that tell runs apart: environment, algorithm, seeds, and the settings in which those of the same
    kind differ."""
    flat: list[dict[str, Any]] = []
    for c in configs:
        names = {"env": c["env"], "algo": c["algo"]}
        learned = {"reward": c["reward"]} if c.get("reward") else {}
        learned |= {"dataset": c["dataset"]["id"]} if c.get("dataset") else {}
        settings = {**c["env_kwargs"], **learned, **c["config"]}
        where = {name: c.get(name, default) for name, default in _WHERE.items()}
        flat.append({**names, **settings, **where, "seed": c["seed"], **names})
    every = dict.fromkeys(name for c in flat for name in c)
    kinds = ("env", "algo", "dataset", *_WHERE)
    labels: list[str] = []
    for c in flat:
        # Learners of different kinds differ in dozens of settings that say nothing more.
        alike = [other for other in flat if all(other.get(n) == c.get(n) for n in kinds)]
        differing = [n for n in every if n in c and _differs(n, flat if n in kinds else alike)]
        parts = [c[n] if n in ("env", "algo") else f"{n} {c[n]}" for n in differing]
        label = ", ".join(parts) or f"{c['env']}, {c['algo']}"
        same = sum(known.split(" #")[0] == label for known in labels)
        labels.append(f"{label} #{same + 1}" if same else label)
    return labels


def _differs(name: str, runs: list[dict[str, Any]]) -> bool:
    return len({str(run.get(name)) for run in runs}) > 1
