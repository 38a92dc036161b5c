"""The flags `--model DIR` and `--adapter DIR` of token runs: published weights that the policy starts from.

Layers, width and the other sizes are the model's; a flag that says otherwise is refused. A task in text takes the
folder's tokenizer; any other must have the model's vocabulary.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from envs.tokens import Task, TextTask, TokenFactory
from envs.tokens.published_tokenizer import unused_name
from experiments.console.flags import dashed, split_words
from experiments.weights import adapter
from experiments.weights import folder as weights

HELP = (
    "--model DIR starts from published weights (a folder with config.json and model.safetensors), of whatever size; "
    "--adapter DIR from low-rank adapters for them (adapter_config.json), which are trained on."
)
FLAGS = ("model", "adapter")
_SIZES = ("layers", "width", "heads", "kv_heads", "mlp_width", "rope_base", "tied")
_OF_ADAPTER = ("lora", "lora_alpha", "lora_targets")


class Folders(NamedTuple):
    """The folders that a policy starts from, absolute paths."""

    model: str | None = None
    adapter: str | None = None


def split_flags(argv: Sequence[str]) -> tuple[list[str], Folders]:
    """Returns a command line without `--model DIR` and `--adapter DIR`, and these folders. Raises ValueError where a
    flag has no value."""
    rest: list[str] = []
    found = Folders()
    for word, value in split_words(argv, [f"--{flag}" for flag in FLAGS]):
        if value is None:
            rest.append(word)
            continue
        flag = word.removeprefix("--")
        if not value or value.startswith("--"):
            what = "published model" if flag == "model" else "low-rank adapter"
            raise ValueError(f"{word} needs the folder of a {what}")
        found = found._replace(**{flag: str(Path(value).absolute())})
    return rest, found


def of_resumed(given: Folders, stored: Any) -> Folders:
    """Returns the folders that flags name, else those of the run that is resumed, whose `Spec` is `stored`."""
    return Folders(given.model or stored.model, given.adapter or stored.adapter)


def refuse_others(given: Folders, stored: Any, run: str | None) -> None:
    """Raises ValueError where flags name other folders than those of the run in the folder `run`."""
    for flag, new in given._asdict().items():
        has = getattr(stored, flag)
        if new != has:
            raise ValueError(
                f"--{flag} {new} contradicts the run in {run}, which has {has or 'none'}"
            )


def with_sizes(config: Any, folders: Folders) -> Any:
    """Returns a learner's settings with the sizes of a model, and those of its adapters. Raises ValueError, in one
    line, where a folder holds none."""
    _require_model(folders)
    try:
        return dataclasses.replace(config, **dict(_sizes(folders)))
    except ValueError as error:
        raise ValueError(f"{folders.model}: {error}") from None


def refuse_other_sizes(config: Any, folders: Folders) -> None:
    """Raises ValueError, in one line, where settings have other sizes than the model and its adapters, and for adapters
    without a model: beside random matrices they would learn nothing."""
    if folders.model is None:
        if config.lora:
            raise ValueError(
                f"--lora {config.lora} adapts published weights: give --model DIR, too"
            )
        return
    for name, has in _sizes(folders):
        wanted = getattr(config, name)
        if wanted == has:
            continue
        shown = {True: f"--{dashed(name)}", False: f"--no-{dashed(name)}"}
        words = " ".join(wanted) if isinstance(wanted, tuple) else wanted
        flag = shown[wanted] if name == "tied" else f"--{dashed(name)} {words}"
        where = (
            f"adapter in {folders.adapter}" if name in _OF_ADAPTER else f"model in {folders.model}"
        )
        raise ValueError(f"{flag} contradicts the {where}, which has {has}")


def task_options(factory: Any, folder: Path) -> dict[str, Any]:
    """Returns the options that a task in text takes from a folder's model: its tokenizer, where there is one."""
    takes = (
        isinstance(factory, TokenFactory) and "tokenizer" in inspect.signature(factory).parameters
    )
    has = (folder / weights.TOKENIZER).is_file()
    return {"tokenizer": str(folder)} if takes and has else {}


def begin(algo: Any, folders: Folders) -> Any:
    """Returns a learner whose policy starts from a folder's model, and from adapters for it.

    Raises ValueError, in one line, where a folder holds none, the model's tokens are not the task's, its context is too
    short, or the adapters do not fit.
    """
    _require_model(folders)
    if folders.model is None:
        return algo
    folder = Path(folders.model)
    _require_vocabulary(algo.env.task, folder)
    given = weights.load(folder)
    config, leaves = given.published.transformer, None
    if folders.adapter is not None:
        leaves = adapter.read(Path(folders.adapter), config).leaves
    try:
        return algo.starting_from(config, given.params, leaves)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def _require_model(folders: Folders) -> None:
    if folders.adapter is not None and folders.model is None:
        raise ValueError(f"--adapter {folders.adapter} changes a model: give --model DIR, too")


def _sizes(folders: Folders) -> list[tuple[str, Any]]:
    """The settings that a model and its adapters determine."""
    assert folders.model is not None
    transformer = weights.load_config(Path(folders.model)).transformer
    found = [(name, getattr(transformer, name)) for name in _SIZES]
    if folders.adapter is not None:
        lora = adapter.read_settings(Path(folders.adapter))
        found += zip(_OF_ADAPTER, (lora.rank, lora.alpha, lora.targets), strict=True)
    return found


def _require_vocabulary(task: Task, folder: Path) -> None:
    """Raises ValueError, in one line, where the tokens of a task are not those of a folder's model."""
    names, words = weights.tokenizer_names(folder), task.vocabulary
    size = weights.load_config(folder).transformer.vocabulary
    if names is None:
        if isinstance(task, TextTask) and len(words) != size:
            raise ValueError(
                f"{folder} has no {weights.TOKENIZER}, and its vocabulary of {size} is not the task's, of {len(words)}"
            )
        return
    ours = {i: word for i, word in enumerate(words) if word != unused_name(i)}
    differ = sorted(i for i in names.keys() | ours.keys() if names.get(i) != ours.get(i))
    if differ:
        theirs, own = (repr(x[differ[0]]) if differ[0] in x else "absent" for x in (names, ours))
        raise ValueError(
            f"{folder} has another vocabulary than the task: token {differ[0]} is {theirs} there and {own} here"
        )
