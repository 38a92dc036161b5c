"""Environment, algorithm and seed of other libraries' logs, by the names that these give to folders and files.

A name that follows no layout is refused: three folders above each other can be anything.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

EXPECTED = (
    "expected ENV/ALGO/SEED, Stable-Baselines3's ENV/ALGO_1 or its zoo's algo/ENV_1, CleanRL's ENV__NAME__SEED__TIME "
    "or Playground's ENV-DATE-TIME; ENV/ALGO/SEED=PATH names anything else"
)
# Returns by the names that others give to them, the most telling first.
EVALUATION = (
    *("eval/return", "eval/mean_reward", "eval/episode_reward", "eval/episodic_return"),
    *("eval/mean_return", "evaluation/return", "test/reward", "test/episodic_return"),
)
TRAINING = (
    *("train/return", "rollout/ep_rew_mean", "charts/episodic_return", "train/episode_reward"),
    *("train/reward", "Train/mean_reward", "episodic_return", "episode_reward"),
)
_SB3 = {
    "a2c", "acer", "acktr", "ars", "bdpi", "crossq", "ddpg", "dqn", "her", "maskableppo", "ppo",
    "ppo2", "qrdqn", "ppo_mask", "ppo_lstm", "recurrentppo", "sac", "td3", "tqc", "trpo", "gail",
}  # fmt: skip
_CLEANRL = re.compile(r"(?P<env>.+?)__(?P<algo>.+)__(?P<seed>\d+)__\d+")
_SEED = re.compile(r"(?:seed[_-]?|s)?(\d+)", re.IGNORECASE)
_PLAYGROUND = re.compile(r"(?P<env>[A-Za-z]\w*)-(?P<seed>\d{8}-\d{6})(?:-(?P<more>.+))?")
_ZOO = re.compile(r"(?P<env>.+-v\d+)_(?P<seed>\d+)")
_NUMBERED = re.compile(r"(?P<algo>[A-Za-z][\w-]*)_(?P<seed>\d+)")
# Folder names that carry no information about their content.
_GENERAL = {
    "checkpoints", "data", "eval", "events", "exp", "experiment", "experiments", "exps", "home",
    "lightning_logs", "log", "logs", "mnt", "models", "out", "output", "outputs", "result",
    "results", "root", "run", "runs", "tb", "tb_logs", "temp", "tensorboard", "tensorboard_log",
    "tensorboard_logs", "tmp", "train", "training", "wandb", "workspace",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Identity:
    """The environment, algorithm and seed of a log, and a note where they are a guess."""

    env: str
    algo: str
    seed: str
    note: str | None = None  # what its reader has to know

    @property
    def fields(self) -> dict[str, str]:
        """The fields of a curve."""
        return {"env": self.env, "algo": self.algo, "seed": self.seed}


def tags(metric: str) -> tuple[str, ...]:
    """Returns the names under which a metric may be logged, in order of preference; a return in training comes last,
    where there is no evaluation."""
    if metric in EVALUATION:
        return tuple(dict.fromkeys((metric, *EVALUATION, *TRAINING)))
    return tuple(dict.fromkeys((metric, *TRAINING))) if metric in TRAINING else (metric,)


def by_name(name: str) -> Identity | None:
    """Reads an identity from the name of a run as CleanRL and the Open RL Benchmark write it; None for any other
    name."""
    parts = _CLEANRL.fullmatch(name)
    return Identity(parts["env"], parts["algo"], parts["seed"]) if parts else None


def given(name: str) -> Identity | None:
    """Reads an identity from ENV/ALGO/SEED as a user typed it; None for any other text."""
    parts = name.rsplit("/", 2)
    return Identity(*parts) if len(parts) == 3 and all(part.strip() for part in parts) else None


def of_folder(folder: Path, from_sb3: bool = False) -> Identity:
    """Reads an identity from the names of a folder and of those above it. `from_sb3`: its files are
    Stable-Baselines3's, which numbers folders of any name. Raises ValueError with one line where they follow no
    layout."""
    at = folder.resolve()
    names = [at.name, *(parent.name for parent in at.parents), "", ""]
    name, above, top = names[:3]
    if named := by_name(name):
        return named
    seed = _SEED.fullmatch(name)
    if seed and not any(_says_nothing(x) for x in (above, top)):
        return Identity(top, above, seed[1])
    if parts := _PLAYGROUND.fullmatch(name):
        algo = "playground" + (f", {parts['more']}" if parts["more"] else "")
        return Identity(parts["env"], algo, parts["seed"])
    if (parts := _ZOO.fullmatch(name)) and above.casefold() in _SB3:
        return Identity(parts["env"], above, parts["seed"])
    parts = _NUMBERED.fullmatch(name)
    if parts and (from_sb3 or parts["algo"].casefold() in _SB3) and above:
        vague = not re.search(r"-v\d+$", above)
        note = f"{folder.parent}: runs such as {name} name no environment; all are taken for one, {above!r}"
        return Identity(above, parts["algo"], parts["seed"], note if vague else None)
    raise ValueError(
        f"{folder}: these folders do not say environment, algorithm and seed; {EXPECTED}"
    )


def _says_nothing(name: str) -> bool:
    return name.casefold() in _GENERAL or not re.search(r"[^\W\d_]", name)
