"""The flag `--reward` of token runs: which reward is learnt from in place of the verifier's exact score.

    verifier (exact), process, rule     the task's own rewards: an option of its environment
    model:DIR                           a reward model, see `python -m experiments.reward`
    ensemble:DIR,DIR,...                the least of several models' scores
    ensemble-variance:DIR,DIR,...       their mean less half their variance
    sum:W*TERM+W*TERM+...               a weighted sum of any of these

Whatever is learnt from, the verifier's verdict is logged beside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from agents.tokens.reward import Reward
from agents.tokens.reward_sets import Agreement, ensemble, verifier_reward, weighted_sum
from envs.tokens.task import RewardKind
from experiments.console.flags import split_words
from experiments.console.suggest import suggestion
from experiments.run import reward_models

_ENSEMBLES: dict[str, Agreement] = {"ensemble": "min", "ensemble-variance": "mean-variance"}
_LEARNED = ("model", *_ENSEMBLES, "sum")
_OWN: dict[str, str] = {"verifier": "exact", **{kind: kind for kind in get_args(RewardKind)}}
_TERM = re.compile(r"\+(?=[-+0-9.e]+\*)")  # between the terms of a sum


def split_flag(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Returns a command line without a `--reward` that names a learned one, and that, with absolute paths.

    The task's own rewards stay on the line: they are an option of the environment; `verifier` is its exact one.
    """
    rest: list[str] = []
    learned = None
    for word, value in split_words(argv, ["--reward"]):
        if value is None:
            rest.append(word)
        elif value.partition(":")[0] in _LEARNED and ":" in value:
            learned = _absolute(value)
        else:
            rest += [word, _OWN.get(value, value)] if value else [word]
    return rest, learned


def model_folders(text: str | None) -> list[Path]:
    """Returns the folders of reward models that a reward names."""
    if text is None:
        return []
    kind, _, rest = text.partition(":")
    if kind == "sum":
        return [folder for _, term in _terms(rest) for folder in model_folders(term)]
    return [Path(name) for name in rest.split(",")] if kind in _LEARNED else []


def build(text: str, env_name: str, env_kwargs: dict[str, Any], env: Any) -> Reward:
    """Returns the reward that a flag names, for a run on this environment.

    Raises ValueError with one line for what is none, for folders that hold no reward model, and for models of another
    task.
    """
    kind, colon, rest = text.partition(":")
    if kind in _OWN and not colon:
        return verifier_reward(env.replace(reward_kind=_OWN[kind]))
    if kind not in _LEARNED or not rest:
        known = [*_OWN, *(f"{name}:" for name in _LEARNED)]
        raise ValueError(f"--reward {text} is none: {suggestion(kind, known)}")
    if kind == "sum":
        terms = _terms(rest)
        return weighted_sum([(w, build(term, env_name, env_kwargs, env)) for w, term in terms])
    names = rest.split(",")
    if kind == "model" and len(names) > 1:
        raise ValueError(f"--reward {text}: several models are ensemble:DIR,DIR")
    members = []
    for name in names:
        reward, config = reward_models.load(Path(name))
        reward_models.require_task(Path(name), config, env_name, env_kwargs, env)
        members.append(reward)
    return members[0] if kind == "model" else ensemble(members, _ENSEMBLES[kind])


def _terms(text: str) -> list[tuple[float, str]]:
    """Weights and terms of a sum. Raises ValueError with one line."""
    found = []
    for part in _TERM.split(text):
        weight, star, term = part.partition("*")
        try:
            found.append((float(weight), term))
        except ValueError:
            star = ""
        if not star or not term or term.startswith("sum:"):
            raise ValueError(
                f"--reward sum:{text} is none: wanted is sum:W*TERM+W*TERM, as in sum:0.5*rule+1*model:DIR"
            )
    return found


def _absolute(text: str) -> str:
    """The same reward with paths that any folder can be left and entered with."""
    kind, _, rest = text.partition(":")
    if kind == "sum":
        parts = [f"{weight:g}*{_absolute(term)}" for weight, term in _terms(rest)]
        return f"sum:{'+'.join(parts)}"
    if kind not in _LEARNED or not rest:
        return text
    return f"{kind}:{','.join(str(Path(name).absolute()) for name in rest.split(','))}"
