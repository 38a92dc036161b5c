"""The flag `--model DIR` of token runs: published weights that the policy starts from.

Layers, width and the other sizes are the model's; a flag that says otherwise is refused. A task in text takes the
folder's tokenizer; any other must have the model's vocabulary.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envs.tokens import Task, TextTask, TokenFactory
from envs.tokens.published_tokenizer import unused_name
from experiments.console.flags import dashed
from experiments.weights import folder as weights

HELP = "--model DIR starts from published weights (a folder with config.json and model.safetensors), of whatever size."
_SIZES = ("layers", "width", "heads", "kv_heads", "mlp_width", "rope_base", "tied")


def split_flag(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Returns a command line without `--model DIR`, and that folder's absolute path or None. Raises ValueError where
    the flag has no value."""
    rest: list[str] = []
    model = None
    words = iter(argv)
    for word in words:
        name, given, value = word.partition("=")
        if name != "--model":
            rest.append(word)
            continue
        value = value if given else next(words, "")
        if not value or value.startswith("--"):
            raise ValueError("--model needs the folder of a published model")
        model = str(Path(value).absolute())
    return rest, model


def with_sizes(config: Any, folder: Path) -> Any:
    """Returns a learner's settings with the sizes of a folder's model. Raises ValueError, in one line, where it holds
    none."""
    transformer = weights.load_config(folder).transformer
    sizes = {name: getattr(transformer, name) for name in _SIZES}
    try:
        return dataclasses.replace(config, **sizes)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def refuse_other_sizes(config: Any, folder: Path) -> None:
    """Raises ValueError, in one line, where settings have other sizes than a folder's model."""
    transformer = weights.load_config(folder).transformer
    for name in _SIZES:
        wanted, has = getattr(config, name), getattr(transformer, name)
        if wanted != has:
            shown = {True: f"--{dashed(name)}", False: f"--no-{dashed(name)}"}
            flag = shown[wanted] if name == "tied" else f"--{dashed(name)} {wanted}"
            raise ValueError(f"{flag} contradicts the model in {folder}, which has {has}")


def task_options(factory: Any, folder: Path) -> dict[str, Any]:
    """Returns the options that a task in text takes from a folder's model: its tokenizer, where there is one."""
    takes = (
        isinstance(factory, TokenFactory) and "tokenizer" in inspect.signature(factory).parameters
    )
    has = (folder / weights.TOKENIZER).is_file()
    return {"tokenizer": str(folder)} if takes and has else {}


def begin(algo: Any, folder: Path) -> Any:
    """Returns a learner whose policy starts from a folder's model.

    Raises ValueError, in one line, where the folder holds none, its tokens are not the task's, or its context is too
    short.
    """
    _require_vocabulary(algo.env.task, folder)
    given = weights.load(folder)
    try:
        return algo.starting_from(given.published.transformer, given.params)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


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
