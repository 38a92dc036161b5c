"""The training of a reward model on disk, which can be stopped at any moment and resumed.

The model's folder has training.json (the command's settings) and checkpoints/ from the beginning. When the model is
whole, it gets config.json and params.npz, and these two go. The policy and its pairs are not kept: they follow from the
seed, and are made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from agents.tokens.pairs import Pairs
from agents.tokens.reward_model import RewardModel, RewardModelConfig, RewardState, StepLabels
from experiments.console import locks
from experiments.console.display import Display
from experiments.console.signals import RunInterruptedError, Stop, Worker
from experiments.run import checkpoints, folders, inputs, kinds, schema, trust
from experiments.run.provenance import provenance
from experiments.run.schema import NAME, SETTINGS, TEXT, ListOf, Maybe, TableOf, Whole

SETTINGS_FILE = "training.json"
CHECKPOINT_SECONDS = 10.0
_PARTS = 10  # lines of progress
_MOST_STEPS = 100  # in one call of the program: so long Ctrl-C waits
_TRAINING = schema.Table(
    {
        "reward_training": Whole(1, 1),  # of the format
        "env": NAME,
        "env_kwargs": SETTINGS,
        "imports": ListOf(NAME),
        "config": SETTINGS,
        "seed": Whole(0),
        "pairs": Maybe(NAME),
        "imitation_steps": Whole(0),
    },
    {"files": TableOf(TEXT), "inputs": TableOf(TEXT), "seal": Maybe(TEXT)},
)


@dataclasses.dataclass
class Control:
    """The means to stop a training: the signals, and the thread that its programs run in."""

    stop: Stop
    worker: Worker

    def call(self, program: Callable[..., Any], *arguments: Any, at_once: bool = True) -> Any:
        """Returns the results of a program. Raises RunInterruptedError where a signal gives it up.

        Args:
          at_once: nothing is lost by that, so that it happens without waiting.
        """
        return self.worker.run(
            lambda: jax.block_until_ready(program(*arguments)), at_once=lambda: at_once
        )

    def stop_if_asked(self) -> None:
        """Raises RunInterruptedError after a signal."""
        if self.stop.received is not None:
            raise RunInterruptedError(self.stop.received)


def refuse_taken(folder: Path) -> None:
    """Raises FileExistsError where something is in the folder already but a lock."""
    if (folder / SETTINGS_FILE).exists():
        hint = f"--resume {folders.quoted(folder)} continues its training"
        raise FileExistsError(f"{folder} exists already and is not overwritten; {hint}")
    folders.refuse_taken(folder, {})


def begin(folder: Path, settings: dict[str, Any]) -> None:
    """Writes training.json into a folder, which is made where it is missing. Raises OSError where that fails, or
    something is there."""
    refuse_taken(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = settings["pairs"]
    read_files = {} if pairs is None else {"inputs": inputs.hashes([Path(pairs)])}
    content = {"reward_training": 1, **settings, **read_files, **trust.record(settings)}
    folders.write_json(folder / SETTINGS_FILE, {**content, **provenance()})


def read(folder: Path, trusted: bool) -> dict[str, Any]:
    """Returns the settings of a training that was stopped.

    Raises ValueError with one line where the folder holds none, where it is finished, where a file that it reads has
    changed, and where it names files that may not be executed unless the user says so, by `trusted`.
    """
    file = folder / SETTINGS_FILE
    whole = all((folder / name).exists() for name in ("config.json", "params.npz"))
    if whole:
        finish(folder)  # it may have been stopped between the two
    try:
        content = schema.parse(file)
    except (FileNotFoundError, NotADirectoryError):
        what = f"it has no {SETTINGS_FILE}"
        if whole:
            what = "its model is finished"
        elif folders.is_run(folder):
            what = "it is a run: see python -m experiments.tokens --resume"
        raise ValueError(f"{folder} has no training to resume: {what}") from None
    schema.require(content, _TRAINING, file)
    kinds.require_settings(content["config"], RewardModelConfig, file)
    trust.require_trusted(folder, content, trusted)
    inputs.require_unchanged(folder, content)
    return content


def finish(folder: Path) -> None:
    """Removes what only a training needs, when the model is whole."""
    (folder / SETTINGS_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def discard(folder: Path) -> None:
    """Removes a training that came to nothing before its first gradient step."""
    finish(folder)
    locks.remove(folder)
    with contextlib.suppress(OSError):  # not empty
        folder.rmdir()


def fit(
    folder: Path,
    model: RewardModel,
    start: Callable[[], RewardState],
    pairs: Pairs,
    labels: StepLabels | None,
    display: Display,
    control: Control,
) -> RewardState:
    """Returns the state after the whole training, from the newest usable checkpoint or from `start`; a line of progress
    for each tenth.

    Raises RunInterruptedError after a signal, when a checkpoint has been saved.
    """
    total = model.total_steps(len(pairs.weight))
    several = jax.jit(_several(model, pairs, labels))
    state, done, sums = _restored(folder, start, display)
    begin, saved_at = done, time.monotonic()
    while done < total:
        tenth = -(-total // _PARTS)
        end = min(total, (done // tenth + 1) * tenth)
        n = min(_MOST_STEPS, end - done)
        state, found = control.call(several, state, jnp.int32(n), at_once=done == begin)
        done += n
        sums = {name: sums.get(name, 0.0) + float(x) for name, x in found.items()}
        if done == end:
            steps = done - (done - 1) // tenth * tenth
            display.say(
                f"step {done} of {total}  loss {sums['loss'] / steps:.3f}  "
                f"accuracy {sums['accuracy'] / steps:.3f}"
            )
            sums = {}
        asked = control.stop.received is not None
        if asked or done == total or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
            checkpoints.save(folder / "checkpoints", done, state, {"sums": sums})
            saved_at = time.monotonic()
        control.stop_if_asked()
    return state


def _several(model: RewardModel, pairs: Pairs, labels: StepLabels | None) -> Callable[..., Any]:
    """Some gradient steps and the sums of their metrics; their number is data, so one program serves all."""

    def several(state: RewardState, n: jax.Array) -> tuple[RewardState, dict[str, jax.Array]]:
        shapes = jax.eval_shape(lambda s: model.step(s, pairs, labels)[1], state)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def body(_: Any, carry: Any) -> Any:
            state, sums = carry
            state, metrics = model.step(state, pairs, labels)
            return state, jax.tree.map(jnp.add, sums, metrics)

        return jax.lax.fori_loop(0, n, body, (state, zeros))

    return several


def _restored(
    folder: Path, start: Callable[[], RewardState], display: Display
) -> tuple[RewardState, int, dict[str, float]]:
    """The state, its steps, and the sums of metrics since the last line of progress."""
    if not checkpoints.steps(folder / "checkpoints"):
        return start(), 0, {}
    template = jax.eval_shape(start)
    state, progress, steps = checkpoints.restore(folder / "checkpoints", template, display.warn)
    checkpoints.discard_after(folder / "checkpoints", steps)
    display.say(f"resumed at step {steps}")
    return state, steps, progress["sums"]
