"""Checks before a run on a token task begins. They raise ValueError; nothing is written."""

from __future__ import annotations

import warnings
from pathlib import Path

from envs.base import Env
from envs.tokens import TokenEnv
from experiments.run.spec import Spec, algorithm, is_a_task, short_name
from experiments.user_envs import check, load
from experiments.user_envs.check import Finding
from experiments.user_envs.token_checks import OF_EXPERT, TOKEN_CHECKS


def require_trainable(spec: Spec, env: Env) -> None:
    """Raises ValueError with one line where a run's environment cannot be trained on in its domain; warns of what may
    be meant, or not.

    A task that is not one of ours is checked as `experiments.envs --check` does it.
    """
    if not isinstance(env, TokenEnv):
        return
    name = short_name(spec.env)
    if spec.domain != "tokens":
        raise ValueError(is_a_task(spec.env, spec.algo))
    if env.split == "held-out" and env.task.splits:
        raise ValueError(
            "--split held-out would train on the very prompts that evaluation asks: leave it out"
        )
    if is_shipped(env):
        return
    imitates = algorithm(spec.algo, spec.domain).imitates or spec.config.imitation_steps > 0
    folder = None
    if load.is_file(spec.env):
        folder = Path(spec.env.rpartition(":")[0]).parent
    for finding in check.check(env, folder):
        remark = finding.problem or finding.note
        if remark and (finding.note or (_of_expert(finding) and not imitates)):
            _warn(name, remark)
        elif remark:
            raise ValueError(f"{name}: {remark}")


def is_shipped(env: TokenEnv) -> bool:
    """Tells the tasks of this package, which its tests check."""
    return type(env.task).__module__.startswith("envs.tokens.")


def _of_expert(finding: Finding) -> bool:
    return any(name == finding.check for name, look, _ in TOKEN_CHECKS if look in OF_EXPERT)


def _warn(name: str, text: str) -> None:
    warnings.warn(f"{name}: {text}", stacklevel=2)
